#include "worker/train/data/locate.h"

#include <array>
#include <optional>
#include <system_error>

namespace bitrung::datasets {

namespace {

namespace fs = std::filesystem;

struct ExpectedFile {
  const char* name;
  std::uint64_t size_bytes;
};

// Records of 1 label byte (CIFAR-100: coarse, then fine) and 3072 pixel bytes.
constexpr std::uint64_t kCifar10FileBytes = 10'000 * 3073;
constexpr std::uint64_t kCifar100RecordBytes = 3074;

struct Layout {
  std::string_view dataset;
  const char* folder;
  std::vector<ExpectedFile> files;
};

std::optional<Layout> layout_of(std::string_view dataset) {
  if (dataset == "cifar10") {
    return Layout{dataset,
                  "cifar-10-batches-bin",
                  {{"data_batch_1.bin", kCifar10FileBytes},
                   {"data_batch_2.bin", kCifar10FileBytes},
                   {"data_batch_3.bin", kCifar10FileBytes},
                   {"data_batch_4.bin", kCifar10FileBytes},
                   {"data_batch_5.bin", kCifar10FileBytes},
                   {"test_batch.bin", kCifar10FileBytes}}};
  }
  if (dataset == "cifar100") {
    return Layout{dataset,
                  "cifar-100-binary",
                  {{"train.bin", 50'000 * kCifar100RecordBytes},
                   {"test.bin", 10'000 * kCifar100RecordBytes}}};
  }
  return std::nullopt;
}

std::string fetch_advice(std::string_view dataset) {
  return "; get it with `bitrung data fetch " + std::string(dataset) + "`";
}

// The folder that holds the first file of the layout.
std::optional<fs::path> folder_with_first_file(const Layout& layout, const fs::path& data_dir) {
  for (const fs::path& folder : {data_dir / layout.folder, data_dir}) {
    std::error_code ignored;  // A folder that cannot be looked into does not hold the file.
    if (fs::exists(folder / layout.files.front().name, ignored)) {
      return folder;
    }
  }
  return std::nullopt;
}

}  // namespace

LocatedDataset locate_dataset(std::string_view dataset, const fs::path& data_dir) {
  if (dataset == "synthetic") {
    return {};
  }
  const std::optional<Layout> layout = layout_of(dataset);
  if (!layout) {
    return {{},
            "data set " + std::string(dataset) +
                " is unknown; known are cifar10, cifar100 and synthetic"};
  }
  if (data_dir.empty()) {
    return {{},
            "data set " + std::string(dataset) + " needs a data directory and none is given" +
                fetch_advice(dataset)};
  }
  const std::optional<fs::path> folder = folder_with_first_file(*layout, data_dir);
  if (!folder) {
    return {{},
            "data set " + std::string(dataset) + " is not in " + data_dir.string() + ": neither " +
                (fs::path(layout->folder) / layout->files.front().name).string() + " nor " +
                layout->files.front().name + " is there" + fetch_advice(dataset)};
  }
  LocatedDataset result;
  for (const ExpectedFile& expected : layout->files) {
    const fs::path path = *folder / expected.name;
    std::error_code error;
    const std::uintmax_t found_bytes = fs::file_size(path, error);
    if (error) {
      return {{}, path.string() + ": " + error.message() + fetch_advice(dataset)};
    }
    if (found_bytes != expected.size_bytes) {
      return {{},
              path.string() + " has " + std::to_string(found_bytes) + " bytes, expected " +
                  std::to_string(expected.size_bytes) + "; it is truncated or another file" +
                  fetch_advice(dataset)};
    }
    result.files.push_back({path, expected.size_bytes});
  }
  return result;
}

}  // namespace bitrung::datasets
