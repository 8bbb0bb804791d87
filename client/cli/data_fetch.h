// Downloads an official archive, continuing where an earlier download stopped, checks it and
// unpacks it.
//
// The archive grows in a hidden file of the data directory that survives interruptions; nobody sees
// a folder that is not whole. One download per data directory and archive at a time. Blocking; call
// from one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "client/cli/data_archive.h"

namespace bitrung::cli {

struct FetchOptions {
  std::filesystem::path data_directory;
  // Bytes here and, once known, of the whole. False to stop: what has arrived stays.
  std::function<bool(std::uint64_t done, std::optional<std::uint64_t> total)> on_progress;
  // Something a person should know: a resumed download, a broken connection.
  std::function<void(std::string_view)> note;
  // Tries after the first that bring nothing new, and the pause before each.
  int retries = 4;
  std::chrono::milliseconds retry_pause{2000};
};

// UNAVAILABLE when the host does not answer or keeps breaking off, NOT_FOUND when it has no such
// file, DATA_LOSS when the checksum or the content is wrong, CANCELLED when on_progress said so,
// INTERNAL for the disk.
absl::Status fetch_dataset(const DatasetArchive& archive, const FetchOptions& options);

}  // namespace bitrung::cli
