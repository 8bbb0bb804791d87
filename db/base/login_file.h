// The file that `bitrung-server init`, `bitrung token create` and `bitrung enrol` write and that
// `bitrung login` and `bitrung-worker enrol` read: where the server is, how it is known, and a
// secret. A JSON object; mode 0600.
#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitrung {

struct LoginFile {
  enum class Kind { kLogin, kEnrolment };
  Kind kind = Kind::kLogin;
  std::string server;         // HOST:PORT
  std::string authority_pem;  // The server's certificate is from this authority.
  std::string token;
};

// Replaces the file, durably.
absl::Status write_login_file(const std::filesystem::path& file, const LoginFile& login);

// PERMISSION_DENIED if others may read it; INVALID_ARGUMENT, saying what is wrong, if it is no such
// file or of the other kind.
absl::StatusOr<LoginFile> read_login_file(const std::filesystem::path& file, LoginFile::Kind kind);

}  // namespace bitrung
