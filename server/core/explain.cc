// Why a job is where it is, from the same facts that decide it.
#include <algorithm>

#include "db/base/check.h"
#include "server/core/state.h"

namespace bitrung::core {
namespace {

// Whose cores are taken is said of so many workers.
constexpr std::size_t kWorkersExplained = 3;

std::uint64_t largest_slot_bytes(const Worker& worker) {
  std::uint64_t bytes = 0;
  for (const SlotInfo& slot : worker.slots) {
    bytes = std::max(bytes, slot.memory_bytes);
  }
  return bytes;
}

// What keeps a connected worker from the job, whether or not its slots are free.
WorkerDoesNotFit misfit(const JobTable& jobs, const Worker& worker,
                        const Requirement& requirement) {
  WorkerDoesNotFit misfit;
  misfit.worker = worker.name;
  misfit.dataset = jobs.datasets[requirement.dataset];
  const std::uint32_t copy = worker.copy_of(requirement.dataset);
  if (worker.draining) {
    misfit.reason = WorkerDoesNotFit::Reason::kDraining;
  } else if (worker.stopping) {
    misfit.reason = WorkerDoesNotFit::Reason::kStopping;
  } else if (copy == kNone) {
    misfit.reason = WorkerDoesNotFit::Reason::kNoDataset;
  } else if (requirement.copy != kNone && requirement.copy != copy) {
    misfit.reason = WorkerDoesNotFit::Reason::kOtherDataset;
    misfit.wanted = jobs.copies[requirement.copy];
    misfit.present = jobs.copies[copy];
  } else if (largest_slot_bytes(worker) < requirement.memory_bytes || worker.slots.empty()) {
    misfit.reason = WorkerDoesNotFit::Reason::kMemory;
    misfit.memory_wanted = requirement.memory_bytes;
    misfit.memory_present = largest_slot_bytes(worker);
  } else if (worker.numerics != requirement.numerics) {
    misfit.reason = WorkerDoesNotFit::Reason::kNumerics;
  } else {
    misfit.reason = WorkerDoesNotFit::Reason::kBusy;
  }
  return misfit;
}

}  // namespace

std::vector<Reason> Core::explain(JobId id, Now now) const {
  const State& state = *state_;
  const JobTable& jobs = state.jobs;
  BITRUNG_CHECK(jobs.contains(id));
  const JobIndex index = jobs.index(id);
  switch (jobs[index].state) {
    case JobState::kBlocked:
      return state.explain_blocked(index);
    case JobState::kReady:
      return state.explain_ready(index, now);
    case JobState::kOffered:
    case JobState::kRunning:
    case JobState::kCancelling:
      return {state.explain_live(index, now)};
    case JobState::kSkipped:
      return {IsSkipped{jobs.id(state.ended_ancestor(index))}};
    case JobState::kSucceeded:
    case JobState::kFailed:
    case JobState::kCancelled: {
      const JobId original = jobs[index].cached_from;
      return {HasEnded{original != JobId{} ? std::optional(original) : std::nullopt}};
    }
  }
  BITRUNG_CHECK(false && "a job state outside the enumeration");
  return {};
}

std::optional<WaitsForCandidates> Core::State::explain_choice(
    std::span<const Input> candidates) const {
  WaitsForCandidates waits;
  waits.candidates = candidates.size();
  for (const Input& candidate : candidates) {
    if (candidate.kind == Input::Kind::kChosen) return std::nullopt;
    const JobState state = jobs[candidate.value].state;
    if (is_terminal(state)) continue;
    if (++waits.undecided > 1) continue;
    waits.first = jobs.id(candidate.value);
    waits.state = state;
  }
  return waits;
}

std::vector<Reason> Core::State::explain_blocked(JobIndex index) const {
  std::vector<Reason> reasons;
  JobIndex previous = kNone;
  jobs.for_each_need(index, [&](std::span<const Input> need, std::size_t) {
    const Input& first = need.front();
    if (first.choice != 0) {
      if (const auto waits = explain_choice(need)) reasons.push_back(*waits);
      return;
    }
    if (!first.is_job()) return;
    const JobState state = jobs[first.value].state;
    if (first.value != previous && state != JobState::kSucceeded) {
      reasons.push_back(WaitsForParent{jobs.id(first.value), state});
    }
    previous = first.value;
  });
  const Job& job = jobs[index];
  if (job.group != kNone && equal[job.group].live != kNone) {
    reasons.push_back(WaitsForEqualJob{jobs.id(equal[job.group].live)});
  }
  return reasons;
}

std::vector<Reason> Core::State::explain_ready(JobIndex index, Now at) const {
  const Job& job = jobs[index];
  if (const auto retry_at = jobs.rare(index).retry_at) {
    const auto remaining = std::max(*retry_at - at.monotonic, std::chrono::milliseconds{0});
    return {WaitsForRetry{remaining, job.retries_used, job.retries}};
  }
  if (job.group != kNone && equal[job.group].live != kNone) {
    return {WaitsForEqualJob{jobs.id(equal[job.group].live)}};
  }
  const Requirement requirement = requirement_of(jobs, index);
  std::vector<WorkerIndex> connected;
  for (WorkerIndex worker = 0; worker < fleet.size(); ++worker) {
    if (!fleet[worker].connected) continue;
    connected.push_back(worker);
  }
  if (connected.empty()) {
    return {NoWorkerConnected{}};
  }
  std::ranges::sort(connected, [&](WorkerIndex a, WorkerIndex b) {
    return std::tie(fleet[a].name, fleet[a].id) < std::tie(fleet[b].name, fleet[b].id);
  });
  const auto fits = [&](WorkerIndex worker) { return fits_when_free(fleet[worker], requirement); };
  if (std::ranges::any_of(connected, fits)) {
    std::vector<Reason> reasons = {QueuedBehind{scheduler.jobs_before(jobs, fleet, index)}};
    for (const WorkerIndex worker : connected) {
      if (reasons.size() > kWorkersExplained) break;
      if (fits(worker) && fleet[worker].shared_cores > 0) {
        reasons.push_back(cores_taken(fleet[worker]));
      }
    }
    return reasons;
  }
  std::vector<Reason> reasons;
  for (const WorkerIndex worker : connected) {
    reasons.push_back(misfit(jobs, fleet[worker], requirement));
  }
  return reasons;
}

CoresTaken Core::State::cores_taken(const Worker& worker) const {
  CoresTaken taken{worker.name, worker.shared_cores, {}};
  for (const LiveIndex live : worker.occupant) {
    if (live == kNone) continue;
    taken.grants.emplace_back(jobs.id(fleet.live(live).job), fleet.live(live).row.threads);
  }
  std::ranges::sort(taken.grants);
  return taken;
}

Reason Core::State::explain_live(JobIndex index, Now at) const {
  const LiveAttempt& live = fleet.live(jobs[index].live);
  const Worker& worker = fleet[live.worker];
  // An absent worker is asked when it comes back how many cores it has.
  const Width width{live.row.threads, worker.connected ? worker.shared_cores : 0};
  if (jobs[index].state == JobState::kOffered) {
    return IsOffered{worker.name, jobs[index].attempt, width};
  }
  return IsRunning{worker.name, jobs[index].attempt, width, worker.connected,
                   std::max(live.lease_end - at.monotonic, std::chrono::milliseconds{0})};
}

JobIndex Core::State::ended_ancestor(JobIndex index) const {
  // A skipped job has a parent that ended without success; the walk ends because the graph has no
  // cycle.
  while (jobs[index].state == JobState::kSkipped) {
    JobIndex ended = kNone;
    jobs.for_each_need(index, [&](std::span<const Input> need, std::size_t) {
      if (!is_doomed(need)) return;
      for (const Input& input : need) {
        // Rather a parent that ended by itself than one that was skipped.
        if (ended == kNone || jobs[ended].state == JobState::kSkipped) {
          ended = input.value;
        }
      }
    });
    BITRUNG_CHECK(ended != kNone);
    index = ended;
  }
  return index;
}

}  // namespace bitrung::core
