// The experiment file as typed values: its name and, per entry of `jobs`, the options all its jobs
// share and the axes along which they differ. Checked as far as one entry can be on its own;
// nothing is expanded here, so that limits hold before any job exists. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/experiment/experiment.h"
#include "client/experiment/option_values.h"
#include "client/experiment/yaml_tree.h"

namespace bitrung::client {

inline constexpr std::uint64_t kJobsMax = 100'000;

// One value of an axis.
struct AxisValue {
  const YamlNode* node = nullptr;  // In the tree, which outlives the document.
  std::string label;               // As in job names; unique within the axis.
  std::string canonical;           // Equal for equal values, across entries.
  // Values of the same axis whose jobs teach; of several the best one does. Of rungs only.
  std::vector<std::size_t> teachers = {};
};

// An option that varies within an entry: of a sweep, a ladder, paths or a replicate.
struct Axis {
  std::string option;  // "bits", "optimizer.learning_rate"; "path" and "best-path" for such rungs.
  std::string sets;    // The option that its values set.
  std::string key;     // As in job names: the last part of `option` unless two axes share it.
  std::string place;   // "sweep of job alone", for messages.
  Location where;
  Layer layer = Layer::kJob;
  std::vector<AxisValue> values;
};

// One entry of `jobs`. Its jobs are numbered with the last axis fastest.
struct Entry {
  std::string name;
  Location where;
  Options base;
  std::vector<Axis> axes = {};            // Sweep and rungs in file order, then replicate.
  std::optional<std::size_t> rungs = {};  // Index in axes of the ladder or the paths.
  std::optional<Location> search = {};    // Where "search: best-path" stands.
  std::size_t first_job = 0;              // Index of its first job in the expansion.
  std::size_t job_count = 1;

  // Which value of each axis the entry's job number `job` has.
  std::vector<std::size_t> positions(std::size_t job) const;
  // "assisted.bits=16.seed=20".
  std::string job_name(const std::vector<std::size_t>& positions) const;
};

struct Document {
  std::string name;
  std::vector<Entry> entries;
  std::size_t job_count = 0;
};

// Puts the override's value at its path; maps that are missing on the way are made.
absl::Status apply_override(YamlNode& root, const Override& override, int override_index,
                            const Source& source);

absl::StatusOr<Document> read_document(const YamlNode& root, const Source& source);

}  // namespace bitrung::client
