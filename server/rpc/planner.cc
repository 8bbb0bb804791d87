#include "server/rpc/planner.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "db/base/shared_spec.h"
#include "db/base/status.h"
#include "server/core/graph.h"
#include "server/core/identity.h"

namespace bitrung::rpc {
namespace {

// How many recorded jobs are compared with each planned one.
constexpr std::size_t kCandidatesMax = 64;

// How many planned jobs are looked up at once.
constexpr std::size_t kJobsPerLookUp = 1000;

// Options by their path, "/bits/weights", with their values as text.
using FlatSpec = std::map<std::string, std::string>;

FlatSpec flatten(std::string_view spec_json) {
  FlatSpec flat;
  const auto spec = nlohmann::json::parse(spec_json, nullptr, /*allow_exceptions=*/false);
  if (!spec.is_object()) return flat;
  const auto flattened = spec.flatten();
  for (const auto& [path, value] : flattened.items()) flat.emplace(path, value.dump());
  return flat;
}

// Calls visit(path, there, here) for each option that differs, in order, until it returns false; an
// absent value is empty.
template <typename Visit>
void for_each_difference(const FlatSpec& there, const FlatSpec& here, Visit visit) {
  static const std::string kAbsent;
  auto left = there.begin();
  auto right = here.begin();
  while (left != there.end() || right != here.end()) {
    const int order = left == there.end()   ? 1
                      : right == here.end() ? -1
                                            : left->first.compare(right->first);
    const std::string& path = order <= 0 ? left->first : right->first;
    const std::string& value_there = order <= 0 ? left->second : kAbsent;
    const std::string& value_here = order >= 0 ? right->second : kAbsent;
    if ((order != 0 || value_there != value_here) && !visit(path, value_there, value_here)) return;
    if (order <= 0) ++left;
    if (order >= 0) ++right;
  }
}

std::string difference_text(std::string_view path, const std::string& there,
                            const std::string& here) {
  std::string option(path.substr(std::min<std::size_t>(1, path.size())));
  std::ranges::replace(option, '/', '.');
  const auto shown = [](const std::string& text) { return text.empty() ? "absent" : text; };
  return fmt::format("{} is {} there, {} here", option, shown(there), shown(here));
}

// The options of one member of a spec, in words of the whole: "/bits/weights" for a part of "bits".
FlatSpec flatten(const SpecMember& member) {
  const std::string_view value = member.text.substr(member.key.size() + 3);  // Two quotes, a colon.
  if (value.starts_with('{') || value.starts_with('['))
    return flatten(fmt::format("{{{}}}", member.text));
  return {{fmt::format("/{}", member.key), std::string(value)}};
}

// How many options differ, counted up to `limit`; `first` becomes the first of them.
std::size_t count_differences(std::span<const SpecMember> there, std::span<const SpecMember> here,
                              std::size_t limit, std::string& first) {
  std::size_t count = 0;
  const auto compare = [&](const FlatSpec& left, const FlatSpec& right) {
    for_each_difference(left, right, [&](auto& path, auto& value_there, auto& value_here) {
      if (count == 0) first = difference_text(path, value_there, value_here);
      return ++count < limit;
    });
  };
  while (count < limit && (!there.empty() || !here.empty())) {
    const int order = there.empty()  ? 1
                      : here.empty() ? -1
                                     : there.front().key.compare(here.front().key);
    if (order != 0 || there.front().text != here.front().text) {
      compare(order <= 0 ? flatten(there.front()) : FlatSpec(),
              order >= 0 ? flatten(here.front()) : FlatSpec());
    }
    if (order <= 0) there = there.subspan(1);
    if (order >= 0) here = here.subspan(1);
  }
  return count;
}

class Planner {
 public:
  Planner(db::StoreReader& reader, const engine::NewExperiment& experiment)
      : reader_(reader), experiment_(experiment), identities_(experiment.rows.size()) {}

  absl::Status run(v1::PlanExperimentResponse& response) {
    for (std::size_t i = 0; i < experiment_.rows.size(); ++i) response.add_jobs();
    const std::vector<std::uint32_t> order =
        core::topological_order(core::child_lists(experiment_.nodes));
    for (std::size_t begin = 0; begin < order.size(); begin += kJobsPerLookUp) {
      const std::size_t end = std::min(begin + kJobsPerLookUp, order.size());
      std::vector<Digest> specs;
      for (std::size_t i = begin; i < end; ++i)
        specs.push_back(experiment_.rows[order[i]].spec_sha256);
      BITRUNG_ASSIGN_OR_RETURN(const auto equal, reader_.equal_jobs(specs, kCandidatesMax));
      for (std::size_t i = begin; i < end; ++i) {
        BITRUNG_RETURN_IF_ERROR(plan_job(order[i], equal[i - begin],
                                         *response.mutable_jobs(static_cast<int>(order[i]))));
      }
    }
    return absl::OkStatus();
  }

 private:
  using Members = std::vector<SpecMember>;

  struct Similar {
    std::vector<db::JobRow> jobs;
    std::vector<Members> members;  // Of their options, views into them.
    double seconds_per_epoch = 0;  // Over those that were trained.
    int trained = 0;
  };

  absl::StatusOr<std::string> display_name(ExperimentId id, std::string_view job) {
    auto found = experiment_names_.find(id);
    if (found == experiment_names_.end()) {
      BITRUNG_ASSIGN_OR_RETURN(db::ExperimentRow row, reader_.experiment(id));
      found = experiment_names_.emplace(id, std::move(row.name)).first;
    }
    return fmt::format("{}/{}", found->second, job);
  }

  absl::Status plan_job(std::uint32_t index, const std::vector<db::StoreReader::EqualJob>& equal,
                        v1::PlannedJob& out) {
    const db::JobSpecRow& row = experiment_.rows[index];
    const auto candidates = std::ranges::count_if(
        row.inputs, [](const db::InputRow& input) { return input.choice != 0; });
    if (candidates > 0) {
      out.set_reason(
          fmt::format("not known yet: its teacher will be the best of {} candidates", candidates));
      return compare(row, out);
    }
    for (const db::StoreReader::EqualJob& candidate : equal) {
      BITRUNG_ASSIGN_OR_RETURN(const bool same, has_equal_inputs(index, candidate));
      if (!same) continue;
      identities_[index] = candidate.identity;
      out.set_cached(true);
      BITRUNG_ASSIGN_OR_RETURN(*out.mutable_cached_from(),
                               display_name(candidate.experiment, candidate.name));
      return absl::OkStatus();
    }
    if (!equal.empty()) {
      BITRUNG_ASSIGN_OR_RETURN(const std::string there,
                               display_name(equal.front().experiment, equal.front().name));
      out.set_reason(fmt::format("{} has equal options but another teacher, start or copy of {}",
                                 there, row.dataset));
    }
    return compare(row, out);
  }

  // True if the recorded job's identity is what this one's would be on the same copy of the data
  // set.
  absl::StatusOr<bool> has_equal_inputs(std::uint32_t index,
                                        const db::StoreReader::EqualJob& candidate) {
    if (!candidate.identity) return false;
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
    auto pins = pins_.find(candidate.experiment);
    if (pins == pins_.end()) {
      BITRUNG_ASSIGN_OR_RETURN(auto rows, reader_.pins(candidate.experiment));
      pins = pins_.emplace(candidate.experiment, std::move(rows)).first;
    }
    const auto pin = std::ranges::find(pins->second, node.dataset, &db::PinRow::dataset);
    if (pin == pins->second.end()) return false;
    return core::identity_of(node.spec, pin->sha256, inputs) == *candidate.identity;
  }

  // The nearest recorded job tells why this one is not cached, and how long it may take.
  absl::Status compare(const db::JobSpecRow& row, v1::PlannedJob& out) {
    BITRUNG_ASSIGN_OR_RETURN(const Similar* similar, similar_jobs(row.model, row.dataset));
    if (similar->trained > 0 && row.epochs > 0)
      out.set_estimated_seconds(similar->seconds_per_epoch / similar->trained * row.epochs);
    if (!out.reason().empty() || similar->jobs.empty()) return absl::OkStatus();
    const Members& here = members_of(row);
    const db::JobSpecRow* nearest = nullptr;
    std::size_t fewest = std::numeric_limits<std::size_t>::max();
    std::string difference;
    // Nothing is nearer than one difference; without any it is the same job with another teacher.
    for (std::size_t i = 0; i < similar->jobs.size() && fewest > 1; ++i) {
      const db::JobSpecRow& other = similar->jobs[i].spec;
      if ((other.epochs == 0) != (row.epochs == 0)) continue;  // Another kind of job.
      std::string first;
      const std::size_t count = count_differences(similar->members[i], here, fewest, first);
      if (count == 0 || count >= fewest) continue;
      fewest = count;
      nearest = &other;
      difference = std::move(first);
    }
    if (nearest == nullptr) return absl::OkStatus();
    BITRUNG_ASSIGN_OR_RETURN(const std::string there,
                             display_name(nearest->experiment, nearest->name));
    out.set_reason(fmt::format("nearest is {}: {}", there, difference));
    return absl::OkStatus();
  }

  // Of a planned job's options, until the next call.
  const Members& members_of(const db::JobSpecRow& row) {
    read_members(row.spec_json, own_);
    if (!row.shared_spec) return own_;
    const auto [shared, is_new] = shared_.try_emplace(row.shared_spec.get());
    if (is_new) read_members(*row.shared_spec, shared->second);
    members_.clear();
    std::ranges::merge(shared->second, own_, std::back_inserter(members_), {}, &SpecMember::key,
                       &SpecMember::key);
    return members_;
  }

  absl::StatusOr<const Similar*> similar_jobs(const std::string& model,
                                              const std::string& dataset) {
    const auto [found, is_new] = similar_.try_emplace(std::pair(model, dataset));
    Similar& similar = found->second;
    if (!is_new) return &similar;
    BITRUNG_ASSIGN_OR_RETURN(similar.jobs, reader_.succeeded_like(model, dataset, kCandidatesMax));
    for (const db::JobRow& job : similar.jobs) {
      read_members(job.spec.spec_json, similar.members.emplace_back());
      if (job.state.cached_from || !job.state.result || job.spec.epochs == 0) continue;
      similar.seconds_per_epoch += job.state.result->duration_seconds / job.spec.epochs;
      ++similar.trained;
    }
    return &similar;
  }

  db::StoreReader& reader_;
  const engine::NewExperiment& experiment_;
  std::vector<std::optional<Digest>> identities_;  // Of those that would be cached.
  std::map<std::pair<std::string, std::string>, Similar> similar_;
  std::map<const std::string*, Members> shared_;
  Members own_;
  Members members_;
  std::map<ExperimentId, std::string> experiment_names_;
  std::map<ExperimentId, std::vector<db::PinRow>> pins_;
};

}  // namespace

std::string first_difference(std::string_view spec_there, std::string_view spec_here,
                             std::size_t* differences) {
  std::string first;
  std::size_t count = 0;
  const FlatSpec flat_there = flatten(spec_there);
  const FlatSpec flat_here = flatten(spec_here);
  // Nothing can be said of what is no object.
  const bool is_comparable = !flat_there.empty() && !flat_here.empty();
  for_each_difference(is_comparable ? flat_there : flat_here, flat_here,
                      [&](auto& path, auto& there, auto& here) {
                        if (count++ == 0) first = difference_text(path, there, here);
                        return true;
                      });
  if (differences != nullptr) *differences = count;
  return first;
}

absl::Status plan(db::StoreReader& reader, const engine::NewExperiment& experiment,
                  v1::PlanExperimentResponse& response) {
  return Planner(reader, experiment).run(response);
}

}  // namespace bitrung::rpc
