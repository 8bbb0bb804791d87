#include "client/cli/state_directory.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "client/cli/environment.h"
#include "client/cli/exit_code.h"
#include "db/base/digest.h"
#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

// sun_path holds 108 bytes with the terminating zero; some room is left for programs that append to
// it.
constexpr std::size_t kSocketPathBytesMax = 100;

std::filesystem::path resolve(const std::filesystem::path& directory) {
  std::error_code error;
  // Absolute first: of a relative path that does not exist yet, weakly_canonical makes a relative
  // one, and the socket's name would change once the directory is there.
  std::filesystem::path absolute = std::filesystem::absolute(directory, error).lexically_normal();
  const std::filesystem::path canonical = std::filesystem::weakly_canonical(absolute, error);
  if (!error) absolute = canonical;
  if (!absolute.has_filename()) absolute = absolute.parent_path();  // "dir/" and "dir" are one.
  return absolute;
}

std::filesystem::path runtime_directory() {
  return std::filesystem::path(environment("XDG_RUNTIME_DIR").value_or("/tmp")) /
         fmt::format("bitrung-{}", ::getuid());
}

}  // namespace

StateDirectory::StateDirectory(const std::filesystem::path& directory) : path(resolve(directory)) {}

std::filesystem::path StateDirectory::socket() const {
  const std::filesystem::path inside = path / "server.sock";
  if (inside.native().size() <= kSocketPathBytesMax) return inside;
  return runtime_directory() / (sha256(path.native()).hex().substr(0, 16) + ".sock");
}

bool StateDirectory::socket_answers() const {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = socket().native();
  if (name.size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, name.c_str(), name.size() + 1);
  const FileDescriptor fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return false;
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast): the socket interface wants it.
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  // EAGAIN: somebody listens and the queue is full.
  return ::connect(fd.get(), generic, sizeof address) == 0 || errno == EAGAIN;
}

absl::Status StateDirectory::create() const {
  BITRUNG_RETURN_IF_ERROR(local_error(make_directories(path, 0700)));
  BITRUNG_RETURN_IF_ERROR(local_error(make_directories(path / "logs", 0700)));
  const std::filesystem::path directory = socket().parent_path();
  if (directory == path) return absl::OkStatus();
  BITRUNG_RETURN_IF_ERROR(local_error(make_directories(directory, 0700)));
  struct stat info {};
  if (::lstat(directory.c_str(), &info) != 0) {
    return local_error(errno_status("stat", directory, errno));
  }
  if (!S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 077U) != 0) {
    return absl::PermissionDeniedError(
        fmt::format("{} must be a directory of yours with mode 0700 (the server's socket lies in "
                    "it, as the path of {} "
                    "is too long for one); remove it, or set XDG_RUNTIME_DIR",
                    directory.string(), path.string()));
  }
  return absl::OkStatus();
}

}  // namespace bitrung::cli
