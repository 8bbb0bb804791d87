#include "worker/train/data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "worker/train/failure.h"

namespace bitrung::train {

namespace {

namespace fs = std::filesystem;

class Descriptor {
 public:
  explicit Descriptor(const fs::path& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

[[noreturn]] void fail_to_read(const fs::path& path, std::uint64_t read_bytes,
                               std::uint64_t size_bytes, const std::string& why) {
  fail_user_error(path.string() + ": read " + std::to_string(read_bytes) + " bytes, expected " +
                  std::to_string(size_bytes) + (why.empty() ? "" : " (" + why + ")") +
                  "; is the file readable, or did it change just now?");
}

std::vector<std::uint8_t> read_all(int fd, const fs::path& path, std::uint64_t size_bytes) {
  std::vector<std::uint8_t> bytes(size_bytes);
  std::uint64_t done = 0;
  while (done < size_bytes) {
    const ssize_t got =
        ::pread(fd, bytes.data() + done, size_bytes - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail_to_read(path, done, size_bytes, got < 0 ? std::strerror(errno) : "");
    done += static_cast<std::uint64_t>(got);
  }
  return bytes;
}

}  // namespace

MappedFile::MappedFile(const fs::path& path, std::uint64_t size_bytes) {
  const Descriptor file(path);
  if (file.get() < 0) fail_to_read(path, 0, size_bytes, std::strerror(errno));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail_to_read(path, 0, size_bytes, std::strerror(errno));
  if (static_cast<std::uint64_t>(status.st_size) != size_bytes) {
    fail_to_read(path, static_cast<std::uint64_t>(status.st_size), size_bytes, "");
  }
  if (size_bytes == 0) return;
  void* const mapped = ::mmap(nullptr, size_bytes, PROT_READ, MAP_SHARED, file.get(), 0);
  if (mapped == MAP_FAILED) {
    copy_ = read_all(file.get(), path, size_bytes);
    bytes_ = copy_;
    return;
  }
  // Reads what is not in memory yet. Where the disk fails this says so, and a later access would be
  // a signal; an older kernel does not know it and reads page by page.
  if (::madvise(mapped, size_bytes, MADV_POPULATE_READ) != 0 && errno != EINVAL) {
    const int error = errno;
    ::munmap(mapped, size_bytes);
    fail_to_read(path, 0, size_bytes, std::strerror(error));
  }
  is_mapped_ = true;
  bytes_ = {static_cast<const std::uint8_t*>(mapped), size_bytes};
}

MappedFile::~MappedFile() {
  if (!is_mapped_) return;
  // munmap() takes what mmap() gave, which was not const.
  ::munmap(const_cast<std::uint8_t*>(bytes_.data()), bytes_.size());
}

}  // namespace bitrung::train
