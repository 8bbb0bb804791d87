// Which data sets this host has, each with the digest of its content.
//
// A digest is SHA-256 over the bytes of the files in their listed order, training files first.
// Reading 180 MB takes a while, so digests are remembered in a file by path, size, modification
// time and inode. Not thread-safe; scan() reads files and belongs on a background thread; cancel()
// may be called from another.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/agent/types.h"

namespace bitrung::agent {

struct LocatedFiles {
  std::vector<std::filesystem::path> files;
  std::string error;    // Empty when the data set is there and whole.
  bool absent = false;  // With an error: there is nothing of it, which is no reason to complain.
};
using LocateDataset =
    std::function<LocatedFiles(std::string_view dataset, const std::filesystem::path& directory)>;

struct DatasetScan {
  std::vector<DatasetEntry> datasets;  // By name; the synthetic one always.
  std::vector<std::string> problems;   // Data sets that are there but damaged or unreadable.
};

class DatasetCatalog {
 public:
  // `memory` is the file that remembers digests.
  DatasetCatalog(std::vector<std::filesystem::path> directories, std::filesystem::path memory,
                 LocateDataset locate);

  DatasetScan scan();
  // From any thread: a running scan ends soon and finds nothing new.
  void cancel() { cancelled_ = true; }

 private:
  struct Stamp {
    std::string path;
    std::int64_t size = 0;
    std::int64_t mtime_ns = 0;
    std::uint64_t inode = 0;
    auto operator<=>(const Stamp&) const = default;
  };
  struct Remembered {
    std::vector<Stamp> files;
    Digest sha256;
  };

  void load();
  void save() const;
  absl::StatusOr<Digest> digest_of(const std::vector<std::filesystem::path>& files) const;
  static absl::StatusOr<std::vector<Stamp>> stamp(const std::vector<std::filesystem::path>& files);

  std::vector<std::filesystem::path> directories_;
  std::filesystem::path memory_;
  LocateDataset locate_;
  std::vector<Remembered> remembered_;
  std::atomic<bool> cancelled_ = false;
};

// Of the procedural data set: its definition, not its pixels.
Digest synthetic_digest();

}  // namespace bitrung::agent
