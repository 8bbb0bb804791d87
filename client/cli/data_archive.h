// The official archives of the data sets: what they are, and how one becomes a folder of a data
// directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitrung::cli {

struct ArchiveFile {
  std::string name;
  std::uint64_t size_bytes = 0;
};

struct DatasetArchive {
  std::string dataset;  // "cifar10"
  std::string url;
  std::string file_name;  // "cifar-10-binary.tar.gz"
  std::string folder;     // In the archive and in the data directory.
  std::string md5;        // As the authors publish it, lower-case hex.
  std::vector<ArchiveFile> files;
};

// "cifar10" and "cifar100"; nothing for any other name.
std::optional<DatasetArchive> archive_of(std::string_view dataset);

// MD5 of a file as lower-case hex: the authors publish no better digest. Guards against damage, not
// against malice.
absl::StatusOr<std::string> file_md5(const std::filesystem::path& file);

// Replaces data_directory/folder by the expected regular files of the archive; anything else in it
// is left out. The folder is there whole or not at all, whenever the program is killed.
absl::Status extract_archive(const DatasetArchive& archive, const std::filesystem::path& file,
                             const std::filesystem::path& data_directory);

}  // namespace bitrung::cli
