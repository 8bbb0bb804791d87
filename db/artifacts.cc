#include "db/artifacts.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "db/base/status.h"

namespace bitrung::db {
namespace {

constexpr std::size_t kCopyBytes = std::size_t{1} << 20;
constexpr std::string_view kPartialFolder = "partial";
constexpr std::string_view kDamagedFolder = "damaged";
constexpr std::string_view kCopyPrefix = "copy.";

// A copy that a crash left behind is removed by a later open(); a live one of another process is
// younger or locked.
constexpr std::chrono::hours kStaleCopyAge{1};

std::filesystem::path partial_path(const std::filesystem::path& directory, const Digest& sha256) {
  return directory / kPartialFolder / sha256.hex();
}

std::filesystem::path complete_path(const std::filesystem::path& directory, const Digest& sha256) {
  const std::string hex = sha256.hex();
  return directory / hex.substr(0, 2) / hex;
}

std::optional<struct stat> stat_regular(const std::filesystem::path& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  return info;
}

bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

// The last use is kept as the access time, set by hand because most mounts do not maintain it
// (relatime, noatime). An artifact of another user cannot be marked; it then counts as used when it
// was written.
void mark_used(int fd) {
  const std::array<struct timespec, 2> times = {timespec{0, UTIME_NOW}, timespec{0, UTIME_OMIT}};
  static_cast<void>(::futimens(fd, times.data()));
}

// Feeds the file from its start to the hash; returns the number of bytes.
absl::StatusOr<std::uint64_t> hash_file(int fd, const std::filesystem::path& path, Sha256& hash) {
  std::string buffer(kCopyBytes, '\0');
  std::uint64_t total = 0;
  while (true) {
    const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(total));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status("read", path, errno);
    if (got == 0) return total;
    const auto count = static_cast<std::size_t>(got);
    hash.update(std::string_view(buffer).substr(0, count));
    total += count;
  }
}

// Makes a complete, verified file visible under its digest. Everything is durable on return.
absl::Status publish(const std::filesystem::path& directory, const std::filesystem::path& temporary,
                     int fd, const Digest& sha256) {
  if (::fchmod(fd, 0444) != 0) return errno_status("set the mode of", temporary, errno);
  if (::fsync(fd) != 0) return errno_status("sync", temporary, errno);
  const std::filesystem::path target = complete_path(directory, sha256);
  BITRUNG_RETURN_IF_ERROR(make_directories(target.parent_path()));
  // Another process may have made the folder and not have synced it yet, so this is done even if it
  // was there.
  BITRUNG_RETURN_IF_ERROR(sync_directory(directory));
  if (::rename(temporary.c_str(), target.c_str()) != 0)
    return errno_status("rename to", target, errno);
  BITRUNG_RETURN_IF_ERROR(sync_directory(target.parent_path()));
  return sync_directory(temporary.parent_path());
}

void remove_stale_copies(const std::filesystem::path& directory) {
  std::error_code error;
  const auto now = std::filesystem::file_time_type::clock::now();
  for (std::filesystem::directory_iterator it(directory / kPartialFolder, error), end;
       !error && it != end; it.increment(error)) {
    if (!it->path().filename().string().starts_with(kCopyPrefix)) continue;
    std::error_code gone;
    const auto written = it->last_write_time(gone);
    if (gone || now - written < kStaleCopyAge) continue;
    const FileDescriptor fd(::open(it->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (fd.valid() && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(it->path().c_str());
  }
}

class FileUpload final : public ArtifactStore::Upload {
 public:
  FileUpload(std::filesystem::path directory, const Digest& sha256, std::uint64_t size_bytes,
             FileDescriptor fd)
      : directory_(std::move(directory)),
        path_(partial_path(directory_, sha256)),
        sha256_(sha256),
        size_bytes_(size_bytes),
        fd_(std::move(fd)) {}

  // Takes over what an earlier upload left: the hash has to see those bytes too.
  absl::Status resume() {
    BITRUNG_ASSIGN_OR_RETURN(written_, hash_file(fd_.get(), path_, hash_));
    if (::lseek(fd_.get(), 0, SEEK_END) < 0) return errno_status("seek in", path_, errno);
    return absl::OkStatus();
  }

  absl::Status append(std::string_view bytes) override {
    BITRUNG_RETURN_IF_ERROR(failure_);
    if (bytes.size() > size_bytes_ - written_) {
      return absl::ResourceExhaustedError(
          fmt::format("upload of {} was announced with {} bytes, but {} arrived; start again with "
                      "the right size",
                      sha256_.hex(), size_bytes_, written_ + bytes.size()));
    }
    // After a failed write the file may hold a part of `bytes` that was not hashed; a resumed
    // upload hashes it again.
    failure_ = write_all(fd_.get(), bytes, path_);
    BITRUNG_RETURN_IF_ERROR(failure_);
    hash_.update(bytes);
    written_ += bytes.size();
    return absl::OkStatus();
  }

  absl::Status commit() override {
    BITRUNG_RETURN_IF_ERROR(failure_);
    failure_ = absl::FailedPreconditionError(fmt::format("upload of {} has ended", sha256_.hex()));
    if (written_ != size_bytes_) {
      return discard(fmt::format("upload of {} ended after {} bytes of {}; upload it again",
                                 sha256_.hex(), written_, size_bytes_));
    }
    const Digest found = hash_.finish();
    if (found != sha256_) {
      return discard(fmt::format(
          "upload announced as {} has the digest {}; it was damaged on the way, upload it again",
          sha256_.hex(), found.hex()));
    }
    absl::Status status = publish(directory_, path_, fd_.get(), sha256_);
    // After a failed sync nobody knows which bytes are on disk, so they are no base for a resumed
    // upload.
    if (!status.ok()) ::unlink(path_.c_str());
    fd_.reset();
    return status;
  }

 private:
  absl::Status discard(const std::string& text) {
    ::unlink(path_.c_str());
    fd_.reset();
    return absl::DataLossError(text);
  }

  std::filesystem::path directory_;
  std::filesystem::path path_;
  Digest sha256_;
  std::uint64_t size_bytes_;
  std::uint64_t written_ = 0;
  FileDescriptor fd_;  // Holds the lock of the partial file.
  Sha256 hash_;
  absl::Status failure_;  // Once set, every call returns it.
};

}  // namespace

absl::StatusOr<ArtifactStore> ArtifactStore::open(const std::filesystem::path& directory) {
  BITRUNG_RETURN_IF_ERROR(make_directories(directory));
  BITRUNG_RETURN_IF_ERROR(make_directories(directory / kPartialFolder));
  remove_stale_copies(directory);
  return ArtifactStore(directory);
}

bool ArtifactStore::contains(const Digest& sha256) const {
  return stat_regular(path(sha256)).has_value();
}

std::filesystem::path ArtifactStore::path(const Digest& sha256) const {
  return complete_path(directory_, sha256);
}

absl::StatusOr<std::uint64_t> ArtifactStore::size(const Digest& sha256) const {
  const auto info = stat_regular(path(sha256));
  if (!info)
    return absl::NotFoundError(
        fmt::format("artifact {} is not in {}", sha256.hex(), directory_.string()));
  return static_cast<std::uint64_t>(info->st_size);
}

std::uint64_t ArtifactStore::partial_size(const Digest& sha256) const {
  const auto info = stat_regular(partial_path(directory_, sha256));
  return info ? static_cast<std::uint64_t>(info->st_size) : 0;
}

absl::StatusOr<std::unique_ptr<ArtifactStore::Upload>> ArtifactStore::begin(
    const Digest& sha256, std::uint64_t size_bytes, std::uint64_t offset) {
  if (size_bytes > kArtifactBytesMax) {
    return absl::ResourceExhaustedError(fmt::format("artifact {} has {} bytes, the limit is {}",
                                                    sha256.hex(), size_bytes, kArtifactBytesMax));
  }
  if (contains(sha256)) {
    return absl::AlreadyExistsError(fmt::format("artifact {} is complete already", sha256.hex()));
  }
  const std::filesystem::path partial = partial_path(directory_, sha256);
  FileDescriptor fd(::open(partial.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd.valid()) return errno_status("create", partial, errno);
  const auto busy = [&] {
    return absl::AbortedError(
        fmt::format("artifact {} is being uploaded by someone else; ask again when that has ended",
                    sha256.hex()));
  };
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return busy();
    return errno_status("lock", partial, errno);
  }
  // Between open and lock another upload may have ended and taken the name away; its file is not
  // ours to write.
  struct stat locked {};
  if (::fstat(fd.get(), &locked) != 0) return errno_status("stat", partial, errno);
  const auto named = stat_regular(partial);
  if (!named || !same_file(locked, *named)) return busy();

  const auto present = static_cast<std::uint64_t>(locked.st_size);
  if (offset == 0) {
    if (::ftruncate(fd.get(), 0) != 0) return errno_status("truncate", partial, errno);
  } else if (offset != present || offset > size_bytes) {
    return absl::FailedPreconditionError(fmt::format(
        "upload of {} ({} bytes) cannot start at {}: {} bytes are present; start there or at 0",
        sha256.hex(), size_bytes, offset, present));
  }
  auto upload = std::make_unique<FileUpload>(directory_, sha256, size_bytes, std::move(fd));
  if (offset > 0) BITRUNG_RETURN_IF_ERROR(upload->resume());
  return upload;
}

absl::StatusOr<ArtifactStore::Stored> ArtifactStore::put_file(const std::filesystem::path& file) {
  const FileDescriptor source(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!source.valid()) return errno_status("open", file, errno);
  struct stat info {};
  if (::fstat(source.get(), &info) != 0) return errno_status("stat", file, errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(fmt::format("{} is not a regular file", file.string()));
  }

  const std::filesystem::path temporary =
      directory_ / kPartialFolder / fmt::format("{}{}", kCopyPrefix, random_hex(16));
  FileDescriptor copy(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!copy.valid()) return errno_status("create", temporary, errno);
  ::flock(copy.get(),
          LOCK_EX | LOCK_NB);  // Tells remove_stale_copies() of another process that it is in use.

  Sha256 hash;
  std::uint64_t total = 0;
  const auto take = [&]() -> absl::Status {
    std::string buffer(kCopyBytes, '\0');
    while (true) {
      const ssize_t got = ::read(source.get(), buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno_status("read", file, errno);
      if (got == 0) return absl::OkStatus();
      const std::string_view bytes(buffer.data(), static_cast<std::size_t>(got));
      total += bytes.size();
      if (total > kArtifactBytesMax) {
        return absl::ResourceExhaustedError(
            fmt::format("{} has more than {} bytes, the limit of an artifact", file.string(),
                        kArtifactBytesMax));
      }
      hash.update(bytes);
      BITRUNG_RETURN_IF_ERROR(write_all(copy.get(), bytes, temporary));
    }
  };
  absl::Status status = take();
  Stored stored;
  bool published = false;
  if (status.ok()) {
    stored = {.sha256 = hash.finish(), .size_bytes = total};
    if (contains(stored.sha256)) {
      touch(stored.sha256);
    } else {
      status = publish(directory_, temporary, copy.get(), stored.sha256);
      published = status.ok();
    }
  }
  if (!published) ::unlink(temporary.c_str());
  if (!status.ok()) return status;
  return stored;
}

absl::StatusOr<ArtifactStore::Taken> ArtifactStore::take_over(const std::filesystem::path& file,
                                                              const Digest& sha256) {
  const auto other_digest = [&](const Digest& found) {
    return absl::DataLossError(fmt::format("{} has the digest {} and not {}; its bytes are damaged",
                                           file.string(), found.hex(), sha256.hex()));
  };
  const std::filesystem::path temporary =
      directory_ / kPartialFolder / fmt::format("{}{}", kCopyPrefix, random_hex(16));
  if (::link(file.c_str(), temporary.c_str()) != 0) {
    if (errno == ENOENT) return errno_status("open", file, errno);
    // Another file system, another owner, too many links: all are reasons for a copy.
    BITRUNG_ASSIGN_OR_RETURN(const Stored stored, put_file(file));
    if (stored.sha256 == sha256) return Taken{.size_bytes = stored.size_bytes, .linked = false};
    ::unlink(path(stored.sha256).c_str());
    return other_digest(stored.sha256);
  }
  const auto take = [&]() -> absl::StatusOr<Taken> {
    const FileDescriptor fd(::open(temporary.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd.valid()) return errno_status("open", file, errno);
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0) return errno_status("stat", file, errno);
    if (!S_ISREG(info.st_mode)) {
      return absl::DataLossError(fmt::format("{} is not a regular file", file.string()));
    }
    Sha256 hash;
    BITRUNG_ASSIGN_OR_RETURN(const std::uint64_t size, hash_file(fd.get(), file, hash));
    const Digest found = hash.finish();
    if (found != sha256) return other_digest(found);
    BITRUNG_RETURN_IF_ERROR(publish(directory_, temporary, fd.get(), sha256));
    return Taken{.size_bytes = size, .linked = true};
  };
  auto taken = take();
  if (!taken.ok()) ::unlink(temporary.c_str());
  return taken;
}

absl::StatusOr<FileDescriptor> ArtifactStore::open_for_read(const Digest& sha256) const {
  const std::filesystem::path file = path(sha256);
  FileDescriptor fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) {
    if (errno == ENOENT) {
      return absl::NotFoundError(
          fmt::format("artifact {} is not in {}", sha256.hex(), directory_.string()));
    }
    return errno_status("open", file, errno);
  }
  mark_used(fd.get());
  return fd;
}

void ArtifactStore::touch(const Digest& sha256) const {
  static_cast<void>(open_for_read(sha256));
}

absl::Status ArtifactStore::verify(const Digest& sha256) {
  const std::filesystem::path file = path(sha256);
  BITRUNG_ASSIGN_OR_RETURN(const FileDescriptor fd, open_for_read(sha256));
  Sha256 hash;
  BITRUNG_RETURN_IF_ERROR(hash_file(fd.get(), file, hash).status());
  const Digest found = hash.finish();
  if (found == sha256) return absl::OkStatus();

  // Moved only if the name still means the file that was read: a good copy may have replaced it
  // meanwhile.
  struct stat read {};
  if (::fstat(fd.get(), &read) != 0) return errno_status("stat", file, errno);
  const std::filesystem::path aside = directory_ / kDamagedFolder / sha256.hex();
  const auto named = stat_regular(file);
  if (named && same_file(read, *named)) {
    BITRUNG_RETURN_IF_ERROR(make_directories(aside.parent_path()));
    if (::rename(file.c_str(), aside.c_str()) != 0) return errno_status("rename to", aside, errno);
    BITRUNG_RETURN_IF_ERROR(sync_directory(aside.parent_path()));
    BITRUNG_RETURN_IF_ERROR(sync_directory(file.parent_path()));
  }
  return absl::DataLossError(
      fmt::format("artifact {} has the digest {}: its file is damaged and was moved to {}",
                  sha256.hex(), found.hex(), aside.string()));
}

absl::StatusOr<std::uint64_t> ArtifactStore::shrink_to(std::uint64_t bytes_max,
                                                       bool (*keep)(const Digest&, void*),
                                                       void* context) {
  struct Candidate {
    std::pair<std::int64_t, std::int64_t> used;  // Seconds, nanoseconds.
    std::uint64_t size_bytes;
    Digest sha256;
  };
  std::vector<Candidate> candidates;
  std::uint64_t total = 0;
  std::error_code error;
  for (unsigned first = 0; first < 256; ++first) {
    std::error_code missing;  // A folder that is not there holds nothing.
    const std::filesystem::path folder = directory_ / fmt::format("{:02x}", first);
    if (!std::filesystem::is_directory(folder, missing)) continue;
    for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
         it.increment(error)) {
      const auto digest = Digest::from_hex(it->path().filename().string());
      const auto info = stat_regular(it->path());
      if (!digest || !info) continue;
      const auto size_bytes = static_cast<std::uint64_t>(info->st_size);
      candidates.push_back({{info->st_atim.tv_sec, info->st_atim.tv_nsec}, size_bytes, *digest});
      total += size_bytes;
    }
    if (error) return errno_status("list", folder, error.value());
  }
  std::ranges::sort(candidates, {}, [](const Candidate& c) { return std::tie(c.used, c.sha256); });

  std::uint64_t removed = 0;
  for (const Candidate& candidate : candidates) {
    if (total - removed <= bytes_max) break;
    if (keep != nullptr && keep(candidate.sha256, context)) continue;
    const std::filesystem::path file = path(candidate.sha256);
    if (::unlink(file.c_str()) != 0 && errno != ENOENT) return errno_status("remove", file, errno);
    removed += candidate.size_bytes;
  }
  return removed;
}

}  // namespace bitrung::db
