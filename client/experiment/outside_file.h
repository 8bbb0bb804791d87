// A safetensors file from outside the experiment: its digest and what its header says.
//
// Reads the header only as far as an experiment can be checked with it; tensors are hashed, not
// looked at. Thread-safe: a function of the file system.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/experiment/option_values.h"
#include "db/base/digest.h"

namespace bitrung::client {

// What bitrung's own trainer wrote into the file's metadata.
struct TrainedAs {
  std::string model;
  BitsValue bits;
  MethodValue method;
  bool operator==(const TrainedAs&) const = default;
};

struct OutsideFile {
  Digest sha256;
  // Rows of the tensor fc.weight; nothing if there is no such tensor.
  std::optional<std::int64_t> classes;
  std::optional<TrainedAs> trained_as;
};

// Messages name the path and say what is wrong, but not where the experiment mentions it.
absl::StatusOr<OutsideFile> inspect_outside_file(const std::filesystem::path& path);

}  // namespace bitrung::client
