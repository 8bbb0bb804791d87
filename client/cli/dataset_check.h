// Whether a data directory holds a data set, asked before a worker is started that would need it.
#pragma once

#include <filesystem>
#include <string_view>

#include "absl/status/status.h"

namespace bitrung::cli {

// OK for "synthetic", which needs no files. Otherwise NOT_FOUND or INVALID_ARGUMENT naming the
// file, what was found and what is expected, and how to get it.
absl::Status check_dataset(std::string_view dataset, const std::filesystem::path& data_directory);

}  // namespace bitrung::cli
