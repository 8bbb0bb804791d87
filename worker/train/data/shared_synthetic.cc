#include "worker/train/data/shared_synthetic.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "worker/train/data/mapped_file.h"

namespace bitrung::train {

namespace {

namespace fs = std::filesystem;

constexpr const char* kExtension = ".images";
// A study has one, rarely a few. What another trainer has mapped stays its own when it is removed.
constexpr std::size_t kFilesKept = 4;
constexpr std::size_t kBytesPerWrite = std::size_t{1} << 20;

[[noreturn]] void fail_system(const char* what, const fs::path& path) {
  throw std::system_error(errno, std::generic_category(), std::string(what) + " " + path.string());
}

class File {
 public:
  File(const fs::path& path, int flags) : path_(path), fd_(::open(path.c_str(), flags, 0600)) {
    if (fd_ < 0) fail_system("open", path);
  }
  ~File() { ::close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // Until the object, or the process, ends.
  void lock() const {
    while (::flock(fd_, LOCK_EX) != 0) {
      if (errno != EINTR) fail_system("lock", path_);
    }
  }
  void write(std::span<const std::uint8_t> bytes) const {
    while (!bytes.empty()) {
      const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail_system("write", path_);
      bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
  }
  void sync() const {
    if (::fsync(fd_) != 0) fail_system("sync", path_);
  }

 private:
  const fs::path path_;
  const int fd_;
};

// Images of both sets, then their labels; the name says how many there are of each.
fs::path file_for(const SyntheticOptions& options, const fs::path& cache_dir) {
  return cache_dir / ("synthetic-" + std::to_string(kNumerics) + "-" +
                      std::to_string(options.seed) + "-" + std::to_string(options.train_images) +
                      "-" + std::to_string(options.test_images) + kExtension);
}

// Whole and durable before it has its name: a crash leaves nothing that looks like it.
void draw_into(const SyntheticOptions& options, const fs::path& path) {
  const fs::path unfinished = path.string() + ".unfinished";
  try {
    const File file(unfinished, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC);
    std::vector<std::uint8_t> images;
    std::vector<std::uint8_t> labels;
    draw_synthetic(options, [&](std::span<const std::uint8_t> image, std::uint8_t label) {
      images.insert(images.end(), image.begin(), image.end());
      labels.push_back(label);
      if (images.size() < kBytesPerWrite) return;
      file.write(images);
      images.clear();
    });
    file.write(images);
    file.write(labels);
    file.sync();
    fs::rename(unfinished, path);
  } catch (const std::system_error&) {
    std::error_code ignored;  // The first error is the one to tell.
    fs::remove(unfinished, ignored);
    throw;
  }
}

void remove_old_files(const fs::path& cache_dir) {
  std::vector<std::pair<fs::file_time_type, fs::path>> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(cache_dir)) {
    if (entry.path().extension() == kExtension) {
      files.emplace_back(entry.last_write_time(), entry.path());
    }
  }
  std::ranges::sort(files);
  for (std::size_t i = 0; i + kFilesKept < files.size(); ++i) fs::remove(files[i].second);
}

}  // namespace

Dataset share_synthetic(const SyntheticOptions& options, const fs::path& cache_dir) {
  fs::create_directories(cache_dir);
  const fs::path path = file_for(options, cache_dir);
  {
    const File lock(cache_dir / "synthetic.lock", O_RDWR | O_CREAT | O_CLOEXEC);
    lock.lock();
    if (!fs::exists(path)) {
      draw_into(options, path);
      remove_old_files(cache_dir);
    }
  }
  const auto training = static_cast<std::size_t>(options.train_images);
  const auto test = static_cast<std::size_t>(options.test_images);
  const auto file = std::make_shared<const MappedFile>(path, (training + test) * (kImageBytes + 1));
  const std::uint8_t* const images = file->bytes().data();
  const std::uint8_t* const labels = images + (training + test) * kImageBytes;
  Dataset dataset;
  for (std::size_t i = 0; i < training + test; ++i) {
    (i < training ? dataset.training : dataset.test).add(images + i * kImageBytes, labels[i]);
  }
  dataset.memory.push_back(file);
  return dataset;
}

}  // namespace bitrung::train
