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
#include "client/experiment/spec_text.h"
#include "db/base/digest.h"

namespace bitrung::client {

struct OutsideFile {
  Digest sha256;
  // Rows of the tensor fc.weight; nothing if there is no such tensor.
  std::optional<std::int64_t> classes;
  std::optional<TrainedAs> trained_as;  // What bitrung's own trainer wrote into its metadata.
};

// What the spec (a JSON object) says of the network; nothing if it is in a form that we do not
// know.
std::optional<TrainedAs> parse_trained_as(std::string_view spec_json);

// Messages name the path and say what is wrong, but not where the experiment mentions it.
absl::StatusOr<OutsideFile> inspect_outside_file(const std::filesystem::path& path);

}  // namespace bitrung::client
