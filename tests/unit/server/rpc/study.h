// Rows of a study that never ran, for the tests of tables.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "db/rows.h"

namespace bitrung::rpc {

// Jobs get ids from 1 in the order they are added. Each has the options that every job has, and
// `options` ("," and JSON members) beside them.
class Study {
 public:
  db::JobRow& add(const std::string& name, std::uint32_t bits, std::uint64_t seed,
                  std::optional<double> accuracy, const std::string& options = "") {
    db::JobRow& row = rows.emplace_back();
    row.spec.id = JobId{static_cast<std::int64_t>(rows.size())};
    row.spec.name = name;
    row.spec.model = "resnet8";
    row.spec.dataset = "cifar10";
    row.spec.method = "dorefa";
    row.spec.weight_bits = bits;
    row.spec.activation_bits = bits;
    row.spec.seed = seed;
    row.spec.spec_json = fmt::format(
        R"({{"bits":{{"activations":{0},"weights":{0}}},"dataset":"cifar10","epochs":5,)"
        R"("method":{{"activations":"dorefa","weights":"dorefa"}},"model":"resnet8",)"
        R"("optimizer":{{"kind":"sgd","learning_rate":0.1}},"seed":{1}{2}}})",
        bits, seed, options);
    row.state.id = row.spec.id;
    row.state.state = accuracy ? JobState::kSucceeded : JobState::kFailed;
    if (accuracy) {
      row.state.result.emplace();
      row.state.result->test_accuracy = accuracy;
    }
    return row;
  }

  std::vector<db::JobRow> rows;
};

inline db::InputRow taught_by(std::int64_t job) {
  return {InputRole::kTeacher, JobId{job}, std::nullopt};
}

inline std::string distill(double temperature) {
  return fmt::format(
      R"(,"distill":{{"kind":"kd","temperature":{0},"temperature_end":{0},"weight":0.5}})",
      temperature);
}

}  // namespace bitrung::rpc
