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

// "unix:PATH" or "HOST:PORT", IPv6 addresses in brackets.
absl::StatusOr<ListenAddress> parse_listen_address(std::string_view text);

struct HostAndPort {
  std::string host;  // Without brackets.
  int port = 0;
};
// "lab.example.org:7420", "10.0.0.5:7420" or "[::1]:7420"; a port of 0 is allowed.
absl::StatusOr<HostAndPort> parse_host_and_port(std::string_view text);

}  // namespace bitrung
