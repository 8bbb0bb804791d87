#include "server/listen_address.h"

#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

#include <fmt/format.h>

#include "db/base/files.h"

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
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) {
    return absl::InvalidArgumentError(
        fmt::format("--listen {}: write unix:PATH or 127.0.0.1:PORT", text));
  }
  address.host_ = text.substr(0, colon);
  if (address.host_ != "127.0.0.1" && address.host_ != "localhost" && address.host_ != "[::1]") {
    return absl::InvalidArgumentError(
        fmt::format("--listen {}: the wire is not encrypted, so only 127.0.0.1, localhost and "
                    "[::1] are allowed; reach the server from "
                    "elsewhere through ssh -L",
                    text));
  }
  const std::string_view port = text.substr(colon + 1);
  int value = -1;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
  if (error != std::errc() || end != port.data() + port.size() || value < 0 || value > 65535) {
    return absl::InvalidArgumentError(
        fmt::format("--listen {}: the port must be 0 to 65535", text));
  }
  return address;
}

}  // namespace bitrung
