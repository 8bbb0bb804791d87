#include "worker/agent/dataset_catalog.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung::agent {
namespace {

using nlohmann::json;

constexpr std::string_view kDatasets[] = {"cifar10", "cifar100"};
constexpr std::size_t kMemoryBytesMax = std::size_t{1} << 20;
// Entries of data sets that went away are dropped beyond this.
constexpr std::size_t kRememberedMax = 64;

}  // namespace

Digest synthetic_digest() {
  return sha256("bitrung synthetic 1");
}

DatasetCatalog::DatasetCatalog(std::vector<std::filesystem::path> directories,
                               std::filesystem::path memory, LocateDataset locate)
    : directories_(std::move(directories)), memory_(std::move(memory)), locate_(std::move(locate)) {
  load();
}

DatasetScan DatasetCatalog::scan() {
  DatasetScan result;
  bool learned = false;
  for (const std::string_view dataset : kDatasets) {
    for (const std::filesystem::path& directory : directories_) {
      const LocatedFiles located = locate_(dataset, directory);
      if (!located.error.empty()) {
        if (!located.absent) result.problems.push_back(located.error);
        continue;
      }
      absl::StatusOr<std::vector<Stamp>> before = stamp(located.files);
      if (!before.ok()) {
        result.problems.emplace_back(message(before.status()));
        continue;
      }
      auto known = std::ranges::find(remembered_, *before, &Remembered::files);
      if (known == remembered_.end()) {
        const absl::StatusOr<Digest> digest = digest_of(located.files);
        const absl::StatusOr<std::vector<Stamp>> after = stamp(located.files);
        if (!digest.ok()) {
          result.problems.emplace_back(message(digest.status()));
          continue;
        }
        // Somebody is still writing it: the next scan looks again.
        if (!after.ok() || *after != *before) continue;
        remembered_.insert(remembered_.begin(), {*std::move(before), *digest});
        known = remembered_.begin();
        learned = true;
      }
      result.datasets.push_back({std::string(dataset), known->sha256, directory.string()});
      break;
    }
  }
  result.datasets.push_back({"synthetic", synthetic_digest(), ""});
  if (learned) save();
  return result;
}

absl::StatusOr<Digest> DatasetCatalog::digest_of(
    const std::vector<std::filesystem::path>& files) const {
  Sha256 hash;
  std::string buffer(std::size_t{1} << 20, '\0');
  for (const std::filesystem::path& path : files) {
    FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) return errno_status("open", path, errno);
    while (true) {
      if (cancelled_) return absl::CancelledError("the scan was cancelled");
      const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return errno_status("read", path, errno);
      if (got == 0) break;
      hash.update(std::string_view(buffer).substr(0, static_cast<std::size_t>(got)));
    }
  }
  return hash.finish();
}

absl::StatusOr<std::vector<DatasetCatalog::Stamp>> DatasetCatalog::stamp(
    const std::vector<std::filesystem::path>& files) {
  std::vector<Stamp> stamps;
  for (const std::filesystem::path& path : files) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) return errno_status("stat", path, errno);
    stamps.push_back({path.string(), info.st_size,
                      std::int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec,
                      info.st_ino});
  }
  return stamps;
}

void DatasetCatalog::load() {
  // A memory that is missing or damaged only costs reading the data sets again.
  const absl::StatusOr<std::string> text = read_file(memory_, kMemoryBytesMax);
  if (!text.ok()) return;
  try {
    for (const json& entry : json::parse(*text)) {
      Remembered remembered;
      const auto digest = Digest::from_hex(entry.at("sha256").get<std::string>());
      if (!digest) continue;
      remembered.sha256 = *digest;
      for (const json& file : entry.at("files")) {
        remembered.files.push_back(
            {file.at("path").get<std::string>(), file.at("size").get<std::int64_t>(),
             file.at("mtime_ns").get<std::int64_t>(), file.at("inode").get<std::uint64_t>()});
      }
      remembered_.push_back(std::move(remembered));
    }
  } catch (const json::exception&) {
    remembered_.clear();
  }
}

void DatasetCatalog::save() const {
  json root = json::array();
  for (const Remembered& remembered : remembered_) {
    if (root.size() == kRememberedMax) break;
    json files = json::array();
    for (const Stamp& file : remembered.files) {
      files.push_back({{"path", to_utf8(file.path)},
                       {"size", file.size},
                       {"mtime_ns", file.mtime_ns},
                       {"inode", file.inode}});
    }
    root.push_back({{"sha256", remembered.sha256.hex()}, {"files", files}});
  }
  // Not remembering costs time only, so a full disk here is not worth a failure.
  write_file_durably(memory_, root.dump(1)).IgnoreError();
}

}  // namespace bitrung::agent
