#include "server/rpc/planner.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "db/base/status.h"
#include "server/core/graph.h"
#include "server/core/identity.h"

namespace bitrung::rpc {
namespace {

// How many recorded jobs are compared with each planned one.
constexpr std::size_t kCandidatesMax = 64;

absl::StatusOr<std::string> display_name(db::StoreReader& reader, const db::JobRow& row) {
  BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow experiment,
                           reader.experiment(row.spec.experiment));
  return fmt::format("{}/{}", experiment.name, row.spec.name);
}

class Planner {
 public:
  Planner(db::StoreReader& reader, const engine::NewExperiment& experiment)
      : reader_(reader), experiment_(experiment), identities_(experiment.rows.size()) {}

  absl::Status run(v1::PlanExperimentResponse& response) {
    for (std::size_t i = 0; i < experiment_.rows.size(); ++i) response.add_jobs();
    for (const std::uint32_t index :
         core::topological_order(core::child_lists(experiment_.nodes))) {
      BITRUNG_RETURN_IF_ERROR(plan_job(index, *response.mutable_jobs(static_cast<int>(index))));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status plan_job(std::uint32_t index, v1::PlannedJob& out) {
    const db::JobSpecRow& row = experiment_.rows[index];
    const auto candidates = std::ranges::count_if(
        row.inputs, [](const db::InputRow& input) { return input.choice != 0; });
    if (candidates > 0) {
      out.set_reason(
          fmt::format("not known yet: its teacher will be the best of {} candidates", candidates));
      return compare(row, out);
    }
    BITRUNG_ASSIGN_OR_RETURN(const auto equal,
                             reader_.succeeded_with_spec(row.spec_sha256, kCandidatesMax));
    for (const db::JobRow& candidate : equal) {
      BITRUNG_ASSIGN_OR_RETURN(const bool same, has_equal_inputs(index, candidate));
      if (!same) continue;
      identities_[index] = candidate.state.identity;
      out.set_cached(true);
      BITRUNG_ASSIGN_OR_RETURN(*out.mutable_cached_from(), display_name(reader_, candidate));
      return absl::OkStatus();
    }
    if (!equal.empty()) {
      BITRUNG_ASSIGN_OR_RETURN(const std::string there, display_name(reader_, equal.front()));
      out.set_reason(fmt::format("{} has equal options but another teacher, start or copy of {}",
                                 there, row.dataset));
    }
    return compare(row, out);
  }

  // True if the recorded job's identity is what this one's would be on the same copy of the data
  // set.
  absl::StatusOr<bool> has_equal_inputs(std::uint32_t index, const db::JobRow& candidate) {
    if (!candidate.state.identity) return false;
    const core::NewJob& node = experiment_.nodes[index];
    std::vector<core::IdentityInput> inputs;
    for (const core::NewJob::Input& input : node.inputs) {
      if (input.artifact) {
        inputs.push_back({input.role, *input.artifact});
        continue;
      }
      if (!identities_[*input.parent]) return false;
      inputs.push_back({input.role, *identities_[*input.parent]});
    }
    std::ranges::stable_sort(inputs, {}, &core::IdentityInput::role);
    BITRUNG_ASSIGN_OR_RETURN(const auto pins, reader_.pins(candidate.spec.experiment));
    const auto pin = std::ranges::find(pins, node.dataset, &db::PinRow::dataset);
    if (pin == pins.end()) return false;
    return core::identity_of(node.spec, pin->sha256, inputs) == *candidate.state.identity;
  }

  // The nearest recorded job tells why this one is not cached, and how long it may take.
  absl::Status compare(const db::JobSpecRow& row, v1::PlannedJob& out) {
    BITRUNG_ASSIGN_OR_RETURN(const auto* similar, similar_jobs(row.model, row.dataset));
    const db::JobRow* nearest = nullptr;
    std::size_t fewest = std::numeric_limits<std::size_t>::max();
    std::string difference;
    double seconds_per_epoch = 0;
    int measured = 0;
    for (const db::JobRow& other : *similar) {
      if ((other.spec.epochs == 0) != (row.epochs == 0)) continue;  // Another kind of job.
      std::size_t count = 0;
      std::string first = first_difference(other.spec.spec_json, row.spec_json, &count);
      if (count > 0 && count < fewest) {
        fewest = count;
        nearest = &other;
        difference = std::move(first);
      }
      if (other.state.cached_from || !other.state.result) continue;
      if (row.epochs == 0) continue;
      seconds_per_epoch += other.state.result->duration_seconds / other.spec.epochs;
      ++measured;
    }
    if (measured > 0) out.set_estimated_seconds(seconds_per_epoch / measured * row.epochs);
    if (out.reason().empty() && nearest != nullptr) {
      BITRUNG_ASSIGN_OR_RETURN(const std::string there, display_name(reader_, *nearest));
      out.set_reason(fmt::format("nearest is {}: {}", there, difference));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<const std::vector<db::JobRow>*> similar_jobs(const std::string& model,
                                                              const std::string& dataset) {
    const auto key = std::pair(model, dataset);
    auto found = similar_.find(key);
    if (found == similar_.end()) {
      BITRUNG_ASSIGN_OR_RETURN(auto rows, reader_.succeeded_like(model, dataset, kCandidatesMax));
      found = similar_.emplace(key, std::move(rows)).first;
    }
    return &found->second;
  }

  db::StoreReader& reader_;
  const engine::NewExperiment& experiment_;
  std::vector<std::optional<Digest>> identities_;  // Of those that would be cached.
  std::map<std::pair<std::string, std::string>, std::vector<db::JobRow>> similar_;
};

}  // namespace

std::string first_difference(std::string_view spec_there, std::string_view spec_here,
                             std::size_t* differences) {
  const auto there = nlohmann::json::parse(spec_there, nullptr, /*allow_exceptions=*/false);
  const auto here = nlohmann::json::parse(spec_here, nullptr, /*allow_exceptions=*/false);
  std::string first;
  std::size_t count = 0;
  if (there.is_object() && here.is_object()) {
    const auto flat_there = there.flatten();
    const auto flat_here = here.flatten();
    std::map<std::string, std::pair<std::string, std::string>> values;
    for (const auto& [path, value] : flat_there.items()) values[path].first = value.dump();
    for (const auto& [path, value] : flat_here.items()) values[path].second = value.dump();
    for (const auto& [path, pair] : values) {
      if (pair.first == pair.second) continue;
      if (count++ > 0) continue;
      std::string option = path.substr(1);
      std::ranges::replace(option, '/', '.');
      const auto shown = [](const std::string& text) {
        return text.empty() ? std::string("absent") : text;
      };
      first = fmt::format("{} is {} there, {} here", option, shown(pair.first), shown(pair.second));
    }
  }
  if (differences != nullptr) *differences = count;
  return first;
}

absl::Status plan(db::StoreReader& reader, const engine::NewExperiment& experiment,
                  v1::PlanExperimentResponse& response) {
  return Planner(reader, experiment).run(response);
}

}  // namespace bitrung::rpc
