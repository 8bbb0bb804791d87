#include "client/cli/dataset_check.h"

#include <fmt/format.h>

#include "worker/train/data/locate.h"

namespace bitrung::cli {

absl::Status check_dataset(std::string_view dataset, const std::filesystem::path& data_directory) {
  const datasets::LocatedDataset located = datasets::locate_dataset(dataset, data_directory);
  if (located.ok()) return absl::OkStatus();
  // It names the directory; which option chose it is for this program to say.
  return absl::NotFoundError(
      fmt::format("{} (--data-dir or BITRUNG_DATA_DIR names another directory)", located.error));
}

}  // namespace bitrung::cli
