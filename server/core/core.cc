#include "server/core/core.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "db/base/check.h"
#include "server/core/state.h"

namespace bitrung::core {
namespace {

// Failures after which a job waits before it is tried again.
bool is_delayed(FailureClass failure) {
  switch (failure) {
    case FailureClass::kOutOfMemory:
    case FailureClass::kDeviceFault:
    case FailureClass::kTimeout:
    case FailureClass::kTrainerCrashed:
      return true;
    case FailureClass::kNone:
    case FailureClass::kUserError:
    case FailureClass::kDiverged:
    case FailureClass::kLostWorker:
    case FailureClass::kPreempted:
      return false;
  }
  return false;
}

NewJob to_new_job(const db::JobSpecRow& row, JobId first, std::size_t job_count) {
  NewJob job;
  job.spec = row.spec_sha256;
  job.dataset = row.dataset;
  job.cost_class = cost_class(row);
  job.flops = row.estimated_flops;
  job.numerics = row.numerics;
  job.retries = row.retries;
  job.priority = row.priority;
  job.memory_bytes = row.memory_bytes;
  for (const db::InputRow& input : row.inputs) {
    NewJob::Input& added = job.inputs.emplace_back();
    added.role = input.role;
    added.artifact = input.artifact;
    added.choice = input.choice;
    if (!input.parent.has_value()) continue;
    const std::int64_t index = number(*input.parent) - number(first);
    BITRUNG_CHECK(index >= 0 && index < static_cast<std::int64_t>(job_count));
    added.parent = static_cast<std::uint32_t>(index);
  }
  return job;
}

}  // namespace

Core::State::State(const Settings& from_settings, const db::Snapshot& snapshot, Now at)
    : settings(from_settings),
      now(at),
      next_experiment_id(snapshot.next_experiment_id),
      next_job_id(snapshot.next_job_id),
      jobs(snapshot.jobs.empty() ? JobId{snapshot.next_job_id} : snapshot.jobs.front().spec.id) {
  for (const db::WorkerRow& row : snapshot.workers) {
    fleet.restore(row);
  }
  load_experiments(snapshot);
  for (const db::Snapshot::Job& stored : snapshot.jobs) {
    load_job(stored);
  }
  settle_loaded_jobs();
}

void Core::State::load_experiments(const db::Snapshot& snapshot) {
  for (std::size_t begin = 0; begin < snapshot.jobs.size();) {
    const db::JobSpecRow& first = snapshot.jobs[begin].spec;
    std::size_t end = begin;
    while (end < snapshot.jobs.size() && snapshot.jobs[end].spec.experiment == first.experiment) {
      ++end;
    }
    std::vector<NewJob> new_jobs;
    for (std::size_t i = begin; i < end; ++i) {
      BITRUNG_CHECK(number(snapshot.jobs[i].spec.id) ==
                    number(first.id) + static_cast<std::int64_t>(i - begin));
      new_jobs.push_back(to_new_job(snapshot.jobs[i].spec, first.id, end - begin));
    }
    BITRUNG_CHECK(check_graph(new_jobs).ok());
    jobs.add(first.experiment, first.id, new_jobs);
    begin = end;
  }
  BITRUNG_CHECK(number(jobs.end()) <= next_job_id);
  std::map<std::pair<ExperimentIndex, std::uint32_t>, std::uint32_t> copies;
  for (const db::PinRow& row : snapshot.pins) {
    const auto experiment = jobs.find(row.experiment);
    BITRUNG_CHECK(experiment.has_value());
    copies[{*experiment, jobs.datasets.intern(row.dataset)}] = jobs.copies.intern(row.sha256);
  }
  for (ExperimentIndex index = 0; index < jobs.experiment_count(); ++index) {
    for (Pin& pin : jobs.experiment(index).pins) {
      const auto copy = copies.find({index, pin.dataset});
      if (copy != copies.end()) {
        pin.copy = copy->second;
      }
    }
  }
}

void Core::State::load_job(const db::Snapshot::Job& stored) {
  const JobIndex index = jobs.index(stored.spec.id);
  jobs.restore(index, stored.state);
  Job& job = jobs[index];
  if (job.state == JobState::kSucceeded && job.cached_from == JobId{}) {
    costs.measure(job.cost_class, jobs.result(job.result).duration_seconds, job.flops);
  }
  if (stored.state.identity.has_value()) {
    job.identity = *stored.state.identity;
    join_group(index);
    EqualGroup& group = equal[job.group];
    if (job.state == JobState::kSucceeded &&
        (group.winner == kNone || job.cached_from == JobId{})) {
      group.winner = index;
    }
  }
  BITRUNG_CHECK(is_live(job.state) == stored.live_attempt.has_value());
  if (stored.live_attempt.has_value()) {
    const db::AttemptRow& row = *stored.live_attempt;
    BITRUNG_CHECK(row.attempt == job.attempt && job.group != kNone);
    const bool is_known = fleet.find(row.worker_id) != kNone;
    const WorkerIndex worker = fleet.find_or_add(row.worker_id);
    if (!is_known) {
      fleet.restore({row.worker_id, row.worker_name, "", false, 0, ""});
    }
    job.live = fleet.grant(worker, index, row, new_lease_end(), job.memory_bytes);
    job.last_worker = worker;
    equal[job.group].live = index;
  }
}

void Core::State::settle_loaded_jobs() {
  for (JobIndex index = 0; index < jobs.size(); ++index) {
    if (jobs[index].experiment == kNone) continue;
    Job& job = jobs[index];
    job.parents_left = parents_left(index);
    BITRUNG_CHECK(job.parents_left == 0 || (job.state != JobState::kReady && !is_live(job.state)));
    if (job.state == JobState::kReady && job.retries_used > 0 && is_delayed(job.failure_class)) {
      // When it failed is not known by this clock: the delay begins anew.
      const auto retry_at = now.monotonic + retry_delay(job.retries_used - 1, settings);
      jobs.rare(index).retry_at = retry_at;
      retries.emplace(retry_at, index);
    }
  }
  for (ExperimentIndex index = 0; index < jobs.experiment_count(); ++index) {
    Experiment& experiment = jobs.experiment(index);
    experiment.finished = experiment.unfinished == 0;
    note_experiment(index);
    if (experiment.finished) continue;
    compute_chains(index);
    for (const Pin& pin : experiment.pins) {
      if (pin.copy != kNone) {
        learn_identities(pin.jobs);  // None, unless a stored identity was removed.
      }
    }
    for (JobIndex job = experiment.first; job < experiment.first + experiment.job_count; ++job) {
      if (jobs[job].state == JobState::kFailed || jobs[job].state == JobState::kCancelled) {
        skip_descendants(job);
      }
      if (jobs[job].has_choices) {
        review_choices(job);
      }
      if (is_waiting(jobs[job].state)) {
        released.push_back(job);
      }
    }
  }
  place();
}

Effects Core::State::take_effects() {
  for (const ExperimentIndex index : finish_candidates) {
    Experiment& experiment = jobs.experiment(index);
    if (experiment.unfinished == 0 && !experiment.finished) {
      experiment.finished = true;
      effects.push_back(SaveExperimentFinished{experiment.id, now.wall_ms});
    }
  }
  finish_candidates.clear();
  for (const JobIndex index : saved) {
    jobs[index].saved_this_step = false;
  }
  saved.clear();
  return std::exchange(effects, {});
}

Core::Core(const Settings& settings, const db::Snapshot& snapshot, Now now)
    : state_(std::make_unique<State>(settings, snapshot, now)) {}
Core::~Core() = default;
Core::Core(Core&&) noexcept = default;
Core& Core::operator=(Core&&) noexcept = default;

Effects Core::started() {
  return state_->take_effects();
}

Effects Core::step(const Event& event, Now now) {
  BITRUNG_CHECK(now.monotonic >= state_->now.monotonic);
  state_->now = now;
  std::visit([this](const auto& each) { state_->on(each); }, event);
  state_->place();
  return state_->take_effects();
}

std::optional<std::chrono::milliseconds> Core::next_deadline() const {
  std::optional<std::chrono::milliseconds> deadline;
  if (!state_->fleet.leases().empty()) {
    deadline = state_->fleet.leases().begin()->first;
  }
  if (!state_->retries.empty()) {
    const auto retry_at = state_->retries.begin()->first;
    deadline = deadline.has_value() ? std::min(*deadline, retry_at) : retry_at;
  }
  return deadline;
}

db::JobStateRow Core::row(JobId job) const {
  return state_->jobs.row(state_->jobs.index(job));
}

JobState Core::state(JobId job) const {
  return state_->jobs[state_->jobs.index(job)].state;
}

bool Core::contains(JobId job) const {
  return state_->jobs.contains(job);
}

ExperimentId Core::experiment_of(JobId job) const {
  const JobTable& jobs = state_->jobs;
  return jobs.experiment_of(jobs[jobs.index(job)]).id;
}

std::vector<JobId> Core::jobs_of(ExperimentId id) const {
  const JobTable& jobs = state_->jobs;
  std::vector<JobId> ids;
  const auto index = jobs.find(id);
  if (!index.has_value()) return ids;
  const Experiment& experiment = jobs.experiment(*index);
  ids.reserve(experiment.job_count);
  for (JobIndex job = experiment.first; job < experiment.first + experiment.job_count; ++job) {
    ids.push_back(jobs.id(job));
  }
  return ids;
}

bool Core::speaks_for(SessionId session, AttemptKey key) const {
  return state_->job_spoken_for(session, key) != kNone;
}

bool Core::is_given(const std::string& worker_id, const Digest& artifact) const {
  const WorkerIndex worker = state_->fleet.find(worker_id);
  if (worker == kNone) return false;
  return std::ranges::any_of(state_->fleet[worker].live, [&](LiveIndex live) {
    const JobIndex job = state_->fleet.live(live).job;
    const auto inputs = state_->input_artifacts(job);
    return std::as_const(state_->jobs).rare(job).resume == artifact ||
           std::ranges::find(inputs, artifact, &std::pair<InputRole, Digest>::second) !=
               inputs.end();
  });
}

std::optional<WorkerInfo> Core::worker(const std::string& worker_id) const {
  const WorkerIndex index = state_->fleet.find(worker_id);
  if (index == kNone) return std::nullopt;
  const JobTable& jobs = state_->jobs;
  const Worker& worker = state_->fleet[index];
  WorkerInfo info;
  info.worker_id = worker.id;
  info.name = worker.name;
  info.version = worker.version;
  info.connected = worker.connected;
  info.draining = worker.draining;
  info.numerics = worker.numerics;
  info.slots = worker.slots;
  info.shared_cores = worker.shared_cores;
  info.free_cores = worker.free_cores();
  for (const auto& [dataset, copy] : worker.datasets) {
    info.datasets.push_back({jobs.datasets[dataset], jobs.copies[copy]});
  }
  info.attempts = state_->live_keys(index);
  info.last_seen_ms = worker.last_seen_ms;
  return info;
}

std::vector<WorkerInfo> Core::workers() const {
  std::vector<WorkerInfo> infos;
  for (WorkerIndex index = 0; index < state_->fleet.size(); ++index) {
    infos.push_back(*worker(state_->fleet[index].id));
  }
  std::ranges::sort(infos, [](const WorkerInfo& a, const WorkerInfo& b) {
    return std::tie(a.name, a.worker_id) < std::tie(b.name, b.worker_id);
  });
  return infos;
}

}  // namespace bitrung::core
