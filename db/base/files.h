// Files that survive a crash: written under a temporary name, synced, renamed, directory synced.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitrung {

// Owns a file descriptor; closes it. Move-only.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() { reset(); }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release();
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// "open /path: No space left on device" with the status code that errno stands for:
// ENOENT NOT_FOUND, EACCES PERMISSION_DENIED, ENOSPC, EDQUOT and EFBIG RESOURCE_EXHAUSTED,
// everything else UNAVAILABLE.
absl::Status errno_status(std::string_view what, const std::filesystem::path& path, int error);

// Whole content of a regular file; refuses more than size_max bytes (RESOURCE_EXHAUSTED, naming
// both).
absl::StatusOr<std::string> read_file(const std::filesystem::path& path, std::size_t size_max);

// Writes all bytes to the descriptor, whatever the kernel takes at a time.
absl::Status write_all(int fd, std::string_view bytes, const std::filesystem::path& path);

// Replaces the file by `bytes` so that a crash leaves the old or the new content, never a mixture.
// Durable on return.
absl::Status write_file_durably(const std::filesystem::path& path, std::string_view bytes,
                                unsigned mode = 0644);

// Makes creations, renames and removals in the directory durable.
absl::Status sync_directory(const std::filesystem::path& directory);

// Creates the directory and its parents; the last one gets the mode. Fine if it exists.
absl::Status make_directories(const std::filesystem::path& directory, unsigned mode = 0755);

}  // namespace bitrung
