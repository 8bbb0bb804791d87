#include "db/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "db/base/status.h"

namespace bitrung {

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) reset(other.release());
  return *this;
}

int FileDescriptor::release() {
  return std::exchange(fd_, -1);
}

void FileDescriptor::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

absl::Status errno_status(std::string_view what, const std::filesystem::path& path, int error) {
  const std::string text =
      fmt::format("{} {}: {}", what, path.string(), std::generic_category().message(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(text);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::UnavailableError(text);
  }
}

absl::StatusOr<std::string> read_file(const std::filesystem::path& path, std::size_t size_max) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return errno_status("open", path, errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return errno_status("stat", path, errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(fmt::format("{} is not a regular file", path.string()));
  }
  if (static_cast<std::uint64_t>(info.st_size) > size_max) {
    return absl::ResourceExhaustedError(
        fmt::format("{} has {} bytes, the limit is {}", path.string(), info.st_size, size_max));
  }
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::read(fd.get(), bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status("read", path, errno);
    if (got == 0) break;  // It shrank meanwhile.
    done += static_cast<std::size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

absl::Status write_all(int fd, std::string_view bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno_status("write", path, errno);
    bytes.remove_prefix(static_cast<std::size_t>(put));
  }
  return absl::OkStatus();
}

absl::Status write_file_durably(const std::filesystem::path& path, std::string_view bytes,
                                unsigned mode) {
  std::filesystem::path temporary = path;
  temporary += fmt::format(".tmp.{}", ::getpid());
  FileDescriptor fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
  if (!fd.valid()) return errno_status("create", temporary, errno);
  absl::Status status = write_all(fd.get(), bytes, temporary);
  if (status.ok() && ::fsync(fd.get()) != 0) status = errno_status("sync", temporary, errno);
  if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0) {
    status = errno_status("rename to", path, errno);
  }
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
  return sync_directory(parent);
}

absl::Status sync_directory(const std::filesystem::path& directory) {
  FileDescriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return errno_status("open directory", directory, errno);
  if (::fsync(fd.get()) != 0) return errno_status("sync directory", directory, errno);
  return absl::OkStatus();
}

absl::Status make_directories(const std::filesystem::path& directory, unsigned mode) {
  std::error_code error;
  const bool created = std::filesystem::create_directories(directory, error);
  if (error) return errno_status("create directory", directory, error.value());
  if (created && ::chmod(directory.c_str(), mode) != 0) {
    return errno_status("set the mode of", directory, errno);
  }
  return absl::OkStatus();
}

}  // namespace bitrung
