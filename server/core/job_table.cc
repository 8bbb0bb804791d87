#include "server/core/job_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "db/base/check.h"

namespace bitrung::core {

std::string cost_class(const db::JobSpecRow& spec) {
  // What is not trained spends its time otherwise.
  return fmt::format("{} w{}a{} {}{}", spec.model, spec.weight_bits, spec.activation_bits,
                     spec.dataset, spec.epochs == 0 ? " untrained" : "");
}

bool is_chosen(std::span<const Input> candidates) {
  return std::ranges::find(candidates, Input::Kind::kChosen, &Input::kind) != candidates.end();
}

JobTable::JobTable(JobId first) : first_(number(first)) {}

ExperimentIndex JobTable::add(ExperimentId id, JobId first, const std::vector<NewJob>& new_jobs) {
  BITRUNG_CHECK(number(first) >= number(end()));  // Numbers are never used again.
  // Numbers between two experiments may be missing: their experiment was removed from the store.
  jobs_.resize(static_cast<std::size_t>(number(first) - first_));
  BITRUNG_CHECK(jobs_.size() + new_jobs.size() < kNone);

  const auto index = static_cast<ExperimentIndex>(experiments_.size());
  Experiment& experiment = experiments_.emplace_back();
  BITRUNG_CHECK(experiment_numbers_.emplace(number(id), index).second);
  experiment.id = id;
  experiment.first = size();
  experiment.job_count = static_cast<std::uint32_t>(new_jobs.size());
  experiment.children = child_lists(new_jobs);
  experiment.unfinished = experiment.job_count;
  // Enough for the first few classes to count at once.
  experiment.cost_credit = 4 * std::uint64_t{experiment.job_count};

  std::unordered_map<std::uint32_t, std::uint32_t> pin_of_dataset;
  for (const NewJob& from : new_jobs) {
    const JobIndex position = size();
    Job& job = jobs_.emplace_back();
    job.spec = from.spec;
    job.flops = from.flops;
    job.memory_bytes = from.memory_bytes;
    job.experiment = index;
    job.cost_class = cost_classes.intern(from.cost_class);
    job.numerics = from.numerics;
    job.retries = from.retries;
    job.priority = from.priority;
    job.first_input = static_cast<std::uint32_t>(inputs_.size());
    job.input_count = static_cast<std::uint32_t>(from.inputs.size());
    for (const NewJob::Input& input : from.inputs) {
      Input& added = inputs_.emplace_back();
      added.role = input.role;
      added.choice = static_cast<std::uint16_t>(input.choice);
      if (input.artifact.has_value()) {
        added.kind = Input::Kind::kArtifact;
        added.value = static_cast<std::uint32_t>(artifacts_.size());
        artifacts_.push_back(*input.artifact);
        continue;
      }
      added.kind = input.choice == 0 ? Input::Kind::kParent : Input::Kind::kCandidate;
      added.value = experiment.first + *input.parent;
      job.has_choices = job.has_choices || input.choice != 0;
    }
    for_each_need(position, [&job](std::span<const Input> need, std::size_t) {
      job.parents_left += need.front().is_job() ? 1 : 0;
    });
    const std::uint32_t dataset = datasets.intern(from.dataset);
    const auto [pin, added] =
        pin_of_dataset.try_emplace(dataset, static_cast<std::uint32_t>(experiment.pins.size()));
    if (added) {
      experiment.pins.emplace_back().dataset = dataset;
    }
    job.pin = pin->second;
    experiment.pins[job.pin].jobs.push_back(position);
    if (job.parents_left == 0) {
      job.state = JobState::kReady;
      ++experiment.ready;
    }
  }
  return index;
}

void JobTable::restore(JobIndex index, const db::JobStateRow& row) {
  set_state(index, row.state);
  Job& job = jobs_[index];
  job.attempt = row.attempt;
  job.retries_used = row.retries_used;
  job.losses = row.losses;
  job.cached_from = row.cached_from.value_or(JobId{});
  job.failure_class = row.failure_class;
  job.resume_epoch = row.resume_epoch;
  job.started_at_ms = row.started_at_ms;
  job.finished_at_ms = row.finished_at_ms;
  if (!row.error.empty()) {
    rare(index).error = row.error;
  }
  if (row.resume.has_value()) {
    rare(index).resume = row.resume;
  }
  BITRUNG_CHECK(row.result.has_value() == (row.state == JobState::kSucceeded));
  if (row.result.has_value()) {
    job.result = add_result(*row.result);
  }
  for (const std::uint32_t position : row.chosen) {
    choose(index, position);
  }
}

bool JobTable::has_chosen(JobIndex index) const {
  if (!jobs_[index].has_choices) return true;
  bool has_chosen = true;
  for_each_need(index, [&has_chosen](std::span<const Input> need, std::size_t) {
    has_chosen = has_chosen && (need.front().choice == 0 || is_chosen(need));
  });
  return has_chosen;
}

void JobTable::choose(JobIndex index, std::size_t position) {
  const Job& job = jobs_[index];
  BITRUNG_CHECK(position < job.input_count);
  Input& taken = inputs_[job.first_input + position];
  BITRUNG_CHECK(taken.kind == Input::Kind::kCandidate);
  for (const Input& input : inputs(index)) {
    BITRUNG_CHECK(input.choice != taken.choice || input.kind != Input::Kind::kChosen);
  }
  taken.kind = Input::Kind::kChosen;
}

bool JobTable::contains(JobId id) const {
  return id >= JobId{first_} && id < end() &&
         jobs_[static_cast<std::size_t>(number(id) - first_)].experiment != kNone;
}

JobIndex JobTable::index(JobId id) const {
  BITRUNG_CHECK(contains(id));
  return static_cast<JobIndex>(number(id) - first_);
}

std::optional<ExperimentIndex> JobTable::find(ExperimentId id) const {
  const auto found = experiment_numbers_.find(number(id));
  if (found == experiment_numbers_.end()) return std::nullopt;
  return found->second;
}

void JobTable::set_state(JobIndex index, JobState state) {
  Job& job = jobs_[index];
  Experiment& experiment = experiments_[job.experiment];
  if (job.state == JobState::kReady) --experiment.ready;
  if (state == JobState::kReady) ++experiment.ready;
  if (!is_terminal(job.state)) --experiment.unfinished;
  if (!is_terminal(state)) ++experiment.unfinished;
  job.state = state;
}

RareColumns& JobTable::rare(JobIndex index) {
  Job& job = jobs_[index];
  if (job.rare == kNone) {
    job.rare = static_cast<std::uint32_t>(rare_.size());
    rare_.emplace_back();
  }
  return rare_[job.rare];
}

const RareColumns& JobTable::rare(JobIndex index) const {
  static const RareColumns kNothing;
  const Job& job = jobs_[index];
  return job.rare == kNone ? kNothing : rare_[job.rare];
}

std::uint32_t JobTable::add_result(const db::ResultRow& result) {
  results_.push_back(result);
  return static_cast<std::uint32_t>(results_.size() - 1);
}

db::JobStateRow JobTable::row(JobIndex index) const {
  const Job& job = jobs_[index];
  const RareColumns& columns = rare(index);
  db::JobStateRow row;
  row.id = id(index);
  row.state = job.state;
  row.attempt = job.attempt;
  row.retries_used = job.retries_used;
  row.losses = job.losses;
  if (job.group != kNone) row.identity = job.identity;
  if (job.cached_from != JobId{}) row.cached_from = job.cached_from;
  if (job.result != kNone) row.result = results_[job.result];
  row.failure_class = job.failure_class;
  row.error = columns.error;
  row.resume = columns.resume;
  row.resume_epoch = job.resume_epoch;
  row.started_at_ms = job.started_at_ms;
  row.finished_at_ms = job.finished_at_ms;
  if (job.has_choices) {
    const std::span<const Input> all = inputs(index);
    for (std::uint32_t position = 0; position < all.size(); ++position) {
      if (all[position].kind == Input::Kind::kChosen) row.chosen.push_back(position);
    }
  }
  return row;
}

}  // namespace bitrung::core
