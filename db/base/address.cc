#include "db/base/address.h"

#include <arpa/inet.h>
#include <sys/un.h>

#include <array>
#include <charconv>

#include <fmt/format.h>

#include "absl/status/status.h"

namespace bitrung {
namespace {

constexpr std::string_view kUnix = "unix:";
constexpr std::size_t kPathBytesMax = sizeof(sockaddr_un::sun_path) - 1;
constexpr int kPortMax = 65535;
constexpr std::string_view kNameCharacters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";

bool is_ipv6(const std::string& host) {
  std::array<char, sizeof(in6_addr)> bytes{};
  return ::inet_pton(AF_INET6, host.c_str(), bytes.data()) == 1;
}

}  // namespace

absl::StatusOr<Address> parse_address(std::string_view text, int port_min) {
  const auto wrong = [text](std::string_view what) {
    return absl::InvalidArgumentError(fmt::format("address \"{}\": {}", text, what));
  };
  Address address;
  if (text.starts_with(kUnix)) {
    address.path = text.substr(kUnix.size());
    if (address.path.empty()) return wrong("unix: needs a path, as in unix:/run/bitrung.sock");
    if (address.path.size() > kPathBytesMax) {
      return wrong(
          fmt::format("the socket's path has {} bytes, the system's limit is {}; use a shorter or "
                      "a relative one",
                      address.path.size(), kPathBytesMax));
    }
    return address;
  }
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0)
    return wrong("write unix:PATH or HOST:PORT, as in 10.0.0.5:7420");
  std::string_view host = text.substr(0, colon);
  const bool is_bracketed = host.starts_with('[') && host.ends_with(']');
  if (is_bracketed) host = host.substr(1, host.size() - 2);
  address.host = host;
  if (is_bracketed ? !is_ipv6(address.host)
                   : host.find_first_not_of(kNameCharacters) != std::string_view::npos)
    return wrong("the host must be a name, an IPv4 address, or an IPv6 address in brackets");
  const std::string_view port = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc() || end != port.data() + port.size() || address.port < port_min ||
      address.port > kPortMax)
    return wrong(fmt::format("the port must be {} to {}", port_min, kPortMax));
  return address;
}

}  // namespace bitrung
