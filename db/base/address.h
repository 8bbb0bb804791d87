// How the programs find each other: "unix:PATH" or "HOST:PORT".
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace bitrung {

struct Address {
  std::string path;  // Of a unix socket; empty for TCP.
  std::string host;  // A name or an IP address, without brackets.
  int port = 0;

  bool is_unix() const { return !path.empty(); }
};

// An IPv6 address stands in brackets. `port_min` is 0 where the system may choose the port.
// INVALID_ARGUMENT says what is wrong with the text.
absl::StatusOr<Address> parse_address(std::string_view text, int port_min = 1);

}  // namespace bitrung
