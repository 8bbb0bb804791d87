// Immutable files named by their SHA-256 in one directory: the server's artifacts and the worker's
// cache.
//
// Written under a temporary name, hashed, synced, renamed, directory synced: what is visible is
// complete and verified. Names never come from outside: only digests become paths. Thread-safe;
// several processes may share a directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/digest.h"
#include "db/base/files.h"

namespace bitrung::db {

// Largest artifact: 16 GiB.
inline constexpr std::uint64_t kArtifactBytesMax = std::uint64_t{16} << 30;

class ArtifactStore {
 public:
  // Creates the directory if needed. Layout: ab/<64 hex digits> by the first two digits,
  // partial/<64 hex digits> for uploads that have not ended, damaged/<64 hex digits> for what
  // verify() found broken.
  static absl::StatusOr<ArtifactStore> open(const std::filesystem::path& directory);

  bool contains(const Digest& sha256) const;
  // Where a complete artifact lies. The file is read-only and must not be changed.
  std::filesystem::path path(const Digest& sha256) const;
  // NOT_FOUND if it is not complete.
  absl::StatusOr<std::uint64_t> size(const Digest& sha256) const;
  // Bytes of an unfinished upload of this digest; 0 when there is none.
  std::uint64_t partial_size(const Digest& sha256) const;

  // An upload in progress. Unless commit() succeeded, the bytes written stay as a partial, to be
  // continued. Only one writer per digest at a time: a second begin() for it is ABORTED.
  class Upload {
   public:
    virtual ~Upload() = default;
    // RESOURCE_EXHAUSTED on a full disk or beyond the announced size.
    virtual absl::Status append(std::string_view bytes) = 0;
    // Checks size and digest, makes it durable and visible. A mismatch deletes the partial
    // (DATA_LOSS).
    virtual absl::Status commit() = 0;
  };
  // Starts at `offset`, which must equal partial_size() (0 discards an old partial), otherwise
  // FAILED_PRECONDITION. size_bytes is of the whole. ALREADY_EXISTS if the artifact is complete.
  absl::StatusOr<std::unique_ptr<Upload>> begin(const Digest& sha256, std::uint64_t size_bytes,
                                                std::uint64_t offset);

  // Takes a copy of a file; returns its digest and size. Fine if the same bytes are there already.
  struct Stored {
    Digest sha256;
    std::uint64_t size_bytes = 0;
  };
  absl::StatusOr<Stored> put_file(const std::filesystem::path& file);

  // Takes an artifact of another directory: by a hard link where the file system allows one, else
  // by a copy. Its bytes are read and compared either way; DATA_LOSS if they give another digest.
  struct Taken {
    std::uint64_t size_bytes = 0;
    bool linked = false;
  };
  absl::StatusOr<Taken> take_over(const std::filesystem::path& file, const Digest& sha256);

  // Opens for reading and checks nothing; verify() reads all and compares the digest (DATA_LOSS on
  // a mismatch, and the file is moved aside so that it is never served again).
  absl::StatusOr<FileDescriptor> open_for_read(const Digest& sha256) const;
  absl::Status verify(const Digest& sha256);
  // Marks as just used, for those who hand out path() without open_for_read(). Fine if absent.
  void touch(const Digest& sha256) const;

  // Removes least recently used artifacts until at most `bytes_max` remain; for caches only. Files
  // opened meanwhile stay readable. Returns the bytes removed. `keep` is asked for each candidate;
  // true spares it. It may be null. The last use is the file's access time, set by open_for_read(),
  // touch(), verify() and put_file().
  absl::StatusOr<std::uint64_t> shrink_to(std::uint64_t bytes_max,
                                          bool (*keep)(const Digest&, void*), void* context);

 private:
  explicit ArtifactStore(std::filesystem::path directory) : directory_(std::move(directory)) {}
  std::filesystem::path directory_;
};

}  // namespace bitrung::db
