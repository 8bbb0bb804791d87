// Where the files of a named data set lie below a data directory, and whether they are whole.
//
// Looks at names and sizes only; loads nothing. Standard library only, so that the worker agent
// (which links no LibTorch) finds the same files as the trainer. No state; safe from any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace bitrung::datasets {

struct DatasetFile {
  std::filesystem::path path;
  std::uint64_t size_bytes = 0;
};

struct LocatedDataset {
  // In a fixed order, so that a digest over them means the same everywhere: the training files,
  // then the test file. Empty for `synthetic`, which has no files, and on an error.
  std::vector<DatasetFile> files;
  // Empty when the data set is there and whole. Else what is wrong, with the path, the sizes and
  // what to do.
  std::string error;

  bool ok() const { return error.empty(); }
};

// Knows `cifar10`, `cifar100` and `synthetic`. The files lie in data_dir itself or in the folder of
// the official archive below it (cifar-10-batches-bin, cifar-100-binary); data_dir itself is looked
// at second.
LocatedDataset locate_dataset(std::string_view dataset, const std::filesystem::path& data_dir);

}  // namespace bitrung::datasets
