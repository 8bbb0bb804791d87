// Who may speak to the server.
//
// A peer that comes through the unix socket is the same user (the socket's directory and mode say
// so). Any other peer must show the server's token. There is no listener without authentication.
// Thread-safe.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "absl/status/statusor.h"
#include "db/base/digest.h"

namespace bitrung::auth {

// Reads the token file, or creates it (256 random bits, mode 0600) if it is missing. A file that
// others may read is refused. The text is "bitrung_" and 64 hex digits.
absl::StatusOr<std::string> load_or_create_token(const std::filesystem::path& file);

class Authority {
 public:
  // Only peers of the unix socket.
  Authority() = default;
  // Also peers that show this token.
  explicit Authority(std::string_view token) : has_token_(true), token_sha256_(sha256(token)) {}

  // OK, or UNAUTHENTICATED with what to do.
  grpc::Status check(const grpc::ServerContextBase& context) const;

 private:
  bool has_token_ = false;
  Digest token_sha256_;
};

}  // namespace bitrung::auth
