// What follows from events: jobs become ready, equal jobs take results, data sets are pinned, slots
// are filled.
#include <algorithm>
#include <span>
#include <vector>

#include "db/base/check.h"
#include "server/core/state.h"

namespace bitrung::core {
namespace {

// Operations of a job that does not say, in an experiment in which no job says.
constexpr double kFlopsUnknown = 1e15;
// An experiment up to this size may compute its chains with every newly measured class.
constexpr std::uint32_t kJobsCheaplyComputed = 1024;
// Jobs that may be visited per success, on average, to compute the chains of a larger one.
constexpr std::uint64_t kCostCreditPerSuccess = 16;

}  // namespace

void Core::State::place() {
  settle();
  while (const auto placement = scheduler.next(jobs, fleet)) {
    const Job& job = jobs[placement->job];
    const Pin& pin = jobs.pin_of(job);
    if (pin.copy == kNone) {
      // The worker is chosen first, its copy becomes the experiment's. With the identity known the
      // job may turn out to have a result already, so the slot is given anew.
      make_pin(job.experiment, job.pin, fleet[placement->worker].copy_of(pin.dataset));
      settle();
      continue;
    }
    offer(*placement);
  }
}

void Core::State::settle() {
  for (std::size_t i = 0; i < released.size(); ++i) {  // The list grows while it is walked.
    examine(released[i]);
  }
  released.clear();
}

void Core::State::examine(JobIndex index) {
  Job& job = jobs[index];
  if (!is_waiting(job.state)) return;
  if (job.group != kNone && equal[job.group].winner != kNone) {
    take_result_of(index, equal[job.group].winner);
    return;
  }
  if (job.state == JobState::kBlocked) {
    if (job.parents_left > 0) return;
    move(index, JobEvent::kParentsSucceeded);
  }
  const bool is_queued = job.queue != kNone;
  const bool waits_for_retry = std::as_const(jobs).rare(index).retry_at.has_value();
  const bool waits_for_equal = job.group != kNone && equal[job.group].live != kNone;
  if (!is_queued && !waits_for_retry && !waits_for_equal) {
    scheduler.add(jobs, index);
  }
}

void Core::State::offer(const Placement& placement) {
  const JobIndex index = placement.job;
  Job& job = jobs[index];
  scheduler.remove(jobs, index);
  EqualGroup& group = equal[job.group];  // Its data set is pinned and its parents have succeeded.
  BITRUNG_CHECK(group.live == kNone && group.winner == kNone);
  group.live = index;
  for (JobIndex member = group.first; member != kNone; member = jobs[member].next_equal) {
    if (jobs[member].queue != kNone) {
      scheduler.remove(jobs, member);
    }
  }

  move(index, JobEvent::kOffered);
  ++job.attempt;
  job.last_worker = placement.worker;
  const Worker& worker = fleet[placement.worker];
  const SlotInfo& slot = worker.slots[placement.slot];
  db::AttemptRow row;
  row.job = jobs.id(index);
  row.attempt = job.attempt;
  row.state = AttemptState::kOffered;
  row.worker_id = worker.id;
  row.worker_name = worker.name;
  row.slot = placement.slot;
  row.device = slot.device;
  row.threads = placement.threads;
  row.offered_at_ms = now.wall_ms;
  effects.push_back(SaveAttempt{row});
  job.live =
      fleet.grant(placement.worker, index, std::move(row), new_lease_end(), job.memory_bytes);

  Offer offer;
  offer.key = key_of(index);
  offer.slot = placement.slot;
  offer.threads = placement.threads;
  offer.resume = std::as_const(jobs).rare(index).resume;
  offer.dataset = jobs.copies[jobs.pin_of(job).copy];
  offer.inputs = input_artifacts(index);
  send(worker.session, std::move(offer));
}

std::vector<std::pair<InputRole, Digest>> Core::State::input_artifacts(JobIndex index) const {
  std::vector<std::pair<InputRole, Digest>> artifacts;
  for (const Input& input : jobs.inputs(index)) {
    switch (input.kind) {
      case Input::Kind::kParent:
      case Input::Kind::kChosen: {
        const Job& parent = jobs[input.value];
        BITRUNG_CHECK(parent.state == JobState::kSucceeded);
        artifacts.emplace_back(input.role, jobs.result(parent.result).artifact);
        break;
      }
      case Input::Kind::kArtifact:
        artifacts.emplace_back(input.role, jobs.artifact(input.value));
        break;
      case Input::Kind::kCandidate:
        break;
    }
  }
  return artifacts;
}

void Core::State::make_pin(ExperimentIndex experiment, std::uint32_t position, std::uint32_t copy) {
  Pin& pin = jobs.experiment(experiment).pins[position];
  BITRUNG_CHECK(pin.copy == kNone && copy != kNone);
  // Queued jobs change their class with the pin.
  for (const JobIndex index : pin.jobs) {
    if (jobs[index].queue != kNone) {
      scheduler.remove(jobs, index);
      released.push_back(index);
    }
  }
  pin.copy = copy;
  effects.push_back(
      SavePin{{jobs.experiment(experiment).id, jobs.datasets[pin.dataset], jobs.copies[pin.copy]}});
  learn_identities(pin.jobs);
}

void Core::State::pin_if_agreed(std::uint32_t dataset) {
  if (dataset >= unpinned.size()) return;
  const std::uint32_t copy = fleet.agreed_copy(dataset);
  if (copy == kNone) return;
  const std::vector<std::pair<ExperimentIndex, std::uint32_t>> candidates =
      std::move(unpinned[dataset]);
  unpinned[dataset].clear();
  for (const auto& [index, position] : candidates) {
    const Experiment& experiment = jobs.experiment(index);
    if (experiment.pins[position].copy != kNone || experiment.unfinished == 0) continue;
    if (experiment.ready > 0) {
      make_pin(index, position, copy);
    } else {
      unpinned[dataset].emplace_back(index, position);
    }
  }
}

void Core::State::learn_identities(std::vector<JobIndex> candidates) {
  for (std::size_t i = 0; i < candidates.size(); ++i) {  // Grows while it is walked.
    if (learn_identity(candidates[i])) {
      jobs.for_each_child(candidates[i], [&](JobIndex child) { candidates.push_back(child); });
    }
  }
}

bool Core::State::learn_identity(JobIndex index) {
  Job& job = jobs[index];
  const Pin& pin = jobs.pin_of(job);
  if (job.group != kNone || pin.copy == kNone) return false;
  if (!jobs.has_chosen(index)) return false;
  std::vector<IdentityInput> inputs;
  for (const Input& input : jobs.inputs(index)) {
    if (input.kind == Input::Kind::kCandidate) continue;
    if (input.kind == Input::Kind::kArtifact) {
      inputs.push_back({input.role, jobs.artifact(input.value)});
      continue;
    }
    const Job& parent = jobs[input.value];
    if (parent.group == kNone) return false;
    inputs.push_back({input.role, parent.identity});
  }
  std::ranges::stable_sort(inputs, {}, &IdentityInput::role);
  BITRUNG_CHECK(!is_live(job.state));  // Nothing is offered before it is known what it is.
  job.identity = identity_of(job.spec, jobs.copies[pin.copy], inputs);
  save(index);
  join_group(index);
  released.push_back(index);
  return true;
}

void Core::State::join_group(JobIndex index) {
  Job& job = jobs[index];
  job.group = equal.number(job.identity);
  EqualGroup& group = equal[job.group];
  if (group.winner == kNone) {
    job.next_equal = group.first;
    group.first = index;
  }
}

void Core::State::release_equal_jobs(std::uint32_t number) {
  EqualGroup& group = equal[number];
  for (JobIndex member = group.first; member != kNone; member = jobs[member].next_equal) {
    if (is_waiting(jobs[member].state)) {
      released.push_back(member);
    }
  }
  if (group.winner != kNone) {
    group.first = kNone;  // From now on a member finds the winner by itself.
  }
}

void Core::State::note_experiment(ExperimentIndex index) {
  const Experiment& experiment = jobs.experiment(index);
  for (std::uint32_t position = 0; position < experiment.pins.size(); ++position) {
    const Pin& pin = experiment.pins[position];
    if (pin.copy != kNone) continue;
    if (pin.dataset >= unpinned.size()) {
      unpinned.resize(pin.dataset + 1);
    }
    unpinned[pin.dataset].emplace_back(index, position);
  }
  for (JobIndex job = experiment.first; job < experiment.first + experiment.job_count; ++job) {
    const std::uint32_t cost_class = jobs[job].cost_class;
    if (costs.is_measured(cost_class)) continue;
    if (cost_class >= unmeasured.size()) {
      unmeasured.resize(cost_class + 1);
    }
    if (unmeasured[cost_class].empty() || unmeasured[cost_class].back() != index) {
      unmeasured[cost_class].push_back(index);
    }
  }
}

void Core::State::measure(const Job& job, const db::ResultRow& result) {
  jobs.experiment(job.experiment).cost_credit += kCostCreditPerSuccess;
  const bool is_first_of_all = !costs.has_measurements();
  if (costs.measure(job.cost_class, result.duration_seconds, job.flops)) {
    // Classes without a measurement take the mean of all: the first of all changes every estimate.
    if (is_first_of_all) {
      for (ExperimentIndex index = 0; index < jobs.experiment_count(); ++index) {
        jobs.experiment(index).costs_stale = true;
        refresh_costs(index);
      }
    }
    for (const ExperimentIndex index : unmeasured[job.cost_class]) {
      jobs.experiment(index).costs_stale = true;
      refresh_costs(index);
    }
    unmeasured[job.cost_class] = {};
  }
  refresh_costs(job.experiment);
}

void Core::State::refresh_costs(ExperimentIndex index) {
  Experiment& experiment = jobs.experiment(index);
  if (!experiment.costs_stale) return;
  if (experiment.unfinished == 0) {
    experiment.costs_known = false;  // Computed again if a retry opens it.
    return;
  }
  // A study may have a class per job. Computing all chains with each would be quadratic, so a large
  // experiment waits until enough of it has succeeded to pay for it.
  if (experiment.job_count > kJobsCheaplyComputed) {
    if (experiment.cost_credit < experiment.job_count) return;
    experiment.cost_credit -= experiment.job_count;
  }
  compute_chains(index);
}

void Core::State::compute_chains(ExperimentIndex index) {
  Experiment& experiment = jobs.experiment(index);
  double known_sum = 0;
  double known_count = 0;
  for (JobIndex job = experiment.first; job < experiment.first + experiment.job_count; ++job) {
    if (jobs[job].flops > 0) {
      known_sum += jobs[job].flops;
      ++known_count;
    }
  }
  const double flops_mean = known_count > 0 ? known_sum / known_count : kFlopsUnknown;
  std::vector<double> seconds(experiment.job_count);
  for (std::uint32_t i = 0; i < experiment.job_count; ++i) {
    const Job& job = jobs[experiment.first + i];
    seconds[i] = (job.flops > 0 ? job.flops : flops_mean) * costs.seconds_per_flop(job.cost_class);
  }
  const std::vector<double> chains = chain_seconds(experiment.children, seconds);
  for (std::uint32_t i = 0; i < experiment.job_count; ++i) {
    const JobIndex index_of_job = experiment.first + i;
    Job& job = jobs[index_of_job];
    if (job.queue == kNone) {
      job.chain_seconds = chains[i];
    } else if (job.chain_seconds != chains[i]) {
      scheduler.remove(jobs, index_of_job);
      job.chain_seconds = chains[i];
      scheduler.add(jobs, index_of_job);
    }
  }
  experiment.costs_known = true;
  experiment.costs_stale = false;
}

}  // namespace bitrung::core
