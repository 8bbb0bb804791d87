#include "server/listen_address.h"

#include <unistd.h>

#include <cerrno>

#include <fmt/format.h>

#include "db/base/address.h"
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
  BITRUNG_ASSIGN_OR_RETURN(const Address parsed, parse_address(text, /*port_min=*/0));
  ListenAddress address;
  address.text_ = text;
  address.path_ = parsed.path;
  address.host_ =
      parsed.host.find(':') == std::string::npos ? parsed.host : fmt::format("[{}]", parsed.host);
  return address;
}

}  // namespace bitrung
