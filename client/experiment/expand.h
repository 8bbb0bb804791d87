// From entries to jobs: names, references to teachers, cycles, merging of equal work. Reads outside
// files, nothing else.
#pragma once

#include <filesystem>

#include "absl/status/statusor.h"
#include "client/experiment/document.h"
#include "client/experiment/experiment.h"
#include "client/experiment/yaml_tree.h"

namespace bitrung::client {

// The graph without its source_yaml. Relative paths of outside files start at `directory`.
absl::StatusOr<Graph> expand(const Document& document, const std::filesystem::path& directory,
                             const Source& source);

// Indices such that every job stands behind the jobs it takes something from; fewer than there are
// jobs if some form a cycle.
std::vector<std::size_t> parents_first(const std::vector<Job>& jobs);

}  // namespace bitrung::client
