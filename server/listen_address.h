// Where the server listens: a unix socket, or TCP.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitrung {

class ListenAddress {
 public:
  bool is_unix() const { return !path_.empty(); }
  // As given.
  const std::string& text() const { return text_; }
  // With the port that was chosen for 0.
  std::string text_with_port(int port) const;
  // For gRPC.
  std::string grpc_address() const { return text_; }
  // Removes a socket file that a killed server left. Only called when the state directory is
  // locked.
  absl::Status remove_stale_socket() const;

 private:
  friend absl::StatusOr<ListenAddress> parse_listen_address(std::string_view text);
  std::string text_;
  std::filesystem::path path_;  // Of a unix socket.
  std::string host_;            // Of TCP, in brackets if it has colons.
};

// As parse_address() in db/base/address.h, and a port of 0.
absl::StatusOr<ListenAddress> parse_listen_address(std::string_view text);

}  // namespace bitrung
