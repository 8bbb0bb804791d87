#include "server/listen_address.h"

#include <arpa/inet.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>

#include <fmt/format.h>

#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung {

std::string ListenAddress::text_with_port(int port) const {
  return is_unix() ? text_ : fmt::format("{}:{}", host_, port);
}

absl::Status ListenAddress::remove_stale_socket() const {
  if (!is_unix()) return absl::OkStatus();
  std::error_code error;
  const auto status = std::filesystem::symlink_status(path_, error);
  if (status.type() == std::filesystem::file_type::not_found) return absl::OkStatus();
  if (status.type() != std::filesystem::file_type::socket) {
    return absl::FailedPreconditionError(fmt::format(
        "{} exists and is not a socket; choose another --listen or remove it", path_.string()));
  }
  if (::unlink(path_.c_str()) != 0) return errno_status("remove the old socket", path_, errno);
  return absl::OkStatus();
}

absl::StatusOr<ListenAddress> parse_listen_address(std::string_view text) {
  ListenAddress address;
  address.text_ = text;
  if (text.starts_with("unix:")) {
    address.path_ = text.substr(5);
    if (address.path_.empty())
      return absl::InvalidArgumentError(
          "--listen unix: needs a path, as in unix:/run/bitrung.sock");
    constexpr std::size_t kPathBytesMax = sizeof(sockaddr_un::sun_path) - 1;
    if (address.path_.string().size() > kPathBytesMax) {
      return absl::InvalidArgumentError(fmt::format(
          "the socket path {} has {} bytes, the system's limit is {}; choose a shorter one",
          address.path_.string(), address.path_.string().size(), kPathBytesMax));
    }
    return address;
  }
  BITRUNG_ASSIGN_OR_RETURN(const HostAndPort found, parse_host_and_port(text));
  address.host_ =
      found.host.find(':') == std::string::npos ? found.host : fmt::format("[{}]", found.host);
  return address;
}

absl::StatusOr<HostAndPort> parse_host_and_port(std::string_view text) {
  const auto wrong = [text](std::string_view what) {
    return absl::InvalidArgumentError(fmt::format("address \"{}\": {}", text, what));
  };
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0)
    return wrong("write unix:PATH or HOST:PORT, as in 0.0.0.0:7420");
  HostAndPort address;
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.starts_with('[') && host.ends_with(']');
  if (bracketed) host = host.substr(1, host.size() - 2);
  address.host = host;
  std::array<char, sizeof(in6_addr)> bytes{};
  const bool is_ipv6 = ::inet_pton(AF_INET6, address.host.c_str(), bytes.data()) == 1;
  constexpr std::string_view kNameCharacters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-";
  if (bracketed ? !is_ipv6 : host.find_first_not_of(kNameCharacters) != std::string_view::npos)
    return wrong("the host must be a name, an IPv4 address, or an IPv6 address in brackets");
  const std::string_view port = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc() || end != port.data() + port.size() || address.port < 0 ||
      address.port > 65535) {
    return wrong("the port must be 0 to 65535");
  }
  return address;
}

}  // namespace bitrung
