#include "server/core/scheduler.h"

#include <algorithm>
#include <iterator>
#include <tuple>

#include "db/base/check.h"

namespace bitrung::core {
namespace {

bool fits_but_for_slot(const Worker& worker, const Requirement& requirement) {
  if (!worker.takes_offers() || worker.numerics != requirement.numerics) return false;
  const std::uint32_t copy = worker.copy_of(requirement.dataset);
  return copy != kNone && (requirement.copy == kNone || requirement.copy == copy);
}

// The worker's disk has what the job would have to fetch: its own resume state or its teacher.
bool is_warm(const JobTable& jobs, JobIndex job, WorkerIndex worker) {
  if (jobs[job].last_worker == worker && jobs.rare(job).resume.has_value()) return true;
  bool taught_here = false;
  jobs.for_each_taken_parent(job, [&](JobIndex parent) {
    const JobId original = jobs[parent].cached_from;
    const JobIndex trained = jobs.contains(original) ? jobs.index(original) : parent;
    taught_here = taught_here || jobs[trained].last_worker == worker;
  });
  return taught_here;
}

}  // namespace

Requirement requirement_of(const JobTable& jobs, JobIndex index) {
  const Job& job = jobs[index];
  const Pin& pin = jobs.pin_of(job);
  return {pin.dataset, pin.copy, job.numerics, job.memory_bytes};
}

bool fits_when_free(const Worker& worker, const Requirement& requirement) {
  return fits_but_for_slot(worker, requirement) &&
         std::ranges::any_of(worker.slots, [&](const SlotInfo& slot) {
           return slot.memory_bytes >= requirement.memory_bytes;
         });
}

bool Scheduler::Key::operator<(const Key& other) const {
  return std::tie(other.priority, other.chain_seconds, job) <
         std::tie(priority, chain_seconds, other.job);
}

Scheduler::Key Scheduler::key_of(const JobTable& jobs, JobIndex job) {
  return {jobs[job].priority, jobs[job].chain_seconds, job};
}

void Scheduler::add(JobTable& jobs, JobIndex job) {
  BITRUNG_CHECK(jobs[job].queue == kNone);
  const Requirement requirement = requirement_of(jobs, job);
  const auto [entry, added] =
      class_numbers_.try_emplace(requirement, static_cast<std::uint32_t>(classes_.size()));
  if (added) {
    classes_.emplace_back().requirement = requirement;
  }
  const std::uint32_t number = entry->second;
  ReadyClass& ready = classes_[number];
  if (!ready.jobs.empty()) {
    firsts_.erase({*ready.jobs.begin(), number});
  } else if (!ready.untried) {
    ready.untried = true;
    untried_.push_back(number);
  }
  BITRUNG_CHECK(ready.jobs.insert(key_of(jobs, job)).second);
  firsts_.insert({*ready.jobs.begin(), number});
  jobs[job].queue = number;
}

void Scheduler::remove(JobTable& jobs, JobIndex job) {
  const std::uint32_t number = jobs[job].queue;
  BITRUNG_CHECK(number < classes_.size());
  ReadyClass& ready = classes_[number];
  firsts_.erase({*ready.jobs.begin(), number});
  BITRUNG_CHECK(ready.jobs.erase(key_of(jobs, job)) == 1);
  if (!ready.jobs.empty()) {
    firsts_.insert({*ready.jobs.begin(), number});
  }
  jobs[job].queue = kNone;
}

void Scheduler::worker_changed(WorkerIndex worker) {
  if (worker >= is_changed_.size()) {
    is_changed_.resize(worker + 1);
  }
  if (!is_changed_[worker]) {
    is_changed_[worker] = true;
    changed_workers_.push_back(worker);
  }
}

std::optional<Placement> Scheduler::next(const JobTable& jobs, const Fleet& fleet) {
  const bool may_fit = !changed_workers_.empty() || !untried_.empty();
  if (may_fit && !fleet.available().empty()) {
    for (const First& first : firsts_) {
      const ReadyClass& ready = classes_[first.class_number];
      const std::span<const WorkerIndex> workers =
          ready.untried ? std::span(fleet.available()) : std::span(std::as_const(changed_workers_));
      if (const auto placement = place(jobs, fleet, first.key.job, ready.requirement, workers)) {
        return placement;
      }
    }
  }
  for (const std::uint32_t number : untried_) {
    classes_[number].untried = false;
  }
  untried_.clear();
  for (const WorkerIndex worker : changed_workers_) {
    is_changed_[worker] = false;
  }
  changed_workers_.clear();
  return std::nullopt;
}

std::optional<Placement> Scheduler::place(const JobTable& jobs, const Fleet& fleet, JobIndex job,
                                          const Requirement& requirement,
                                          std::span<const WorkerIndex> workers) const {
  std::optional<Placement> best;
  bool best_is_warm = false;
  for (const WorkerIndex index : workers) {
    const Worker& worker = fleet[index];
    if (worker.room() == 0 || !fits_but_for_slot(worker, requirement)) continue;
    const std::uint32_t slot = worker.closest_free_slot(requirement.memory_bytes);
    if (slot == kNone) continue;
    const bool warm = is_warm(jobs, job, index);
    if (best.has_value()) {
      // Positions in the table differ after a restart, so they must not decide; the id settles
      // equal names.
      const Worker& other = fleet[best->worker];
      const std::uint32_t room = worker.room();
      const std::uint32_t other_room = other.room();
      const bool is_better = std::tie(best_is_warm, other_room, worker.name, worker.id) <
                             std::tie(warm, room, other.name, other.id);
      if (!is_better) continue;
    }
    best = Placement{job, index, slot, worker.slots[slot].threads};
    best_is_warm = warm;
  }
  if (best.has_value() && fleet[best->worker].shared_cores > 0) {
    best->threads = cores_for(jobs, fleet, requirement, fleet[best->worker]);
  }
  return best;
}

std::uint32_t Scheduler::cores_for(const JobTable& jobs, const Fleet& fleet,
                                   const Requirement& requirement, const Worker& worker) const {
  const std::uint32_t free = worker.free_cores();
  BITRUNG_CHECK(free > 0);
  if (free == 1) return 1;
  std::uint32_t room = 0;  // Of all workers that the job could go to.
  for (const WorkerIndex other : fleet.available()) {
    if (fits_but_for_slot(fleet[other], requirement)) room += fleet[other].room();
  }
  const std::uint32_t waiting = jobs_waiting_for(jobs, worker, room);
  if (waiting >= room) return 1;
  // This worker's part of the jobs, by its part of the room, divides its cores; but a core must
  // remain for each of the others.
  const auto part = static_cast<std::uint32_t>(std::uint64_t{waiting} * worker.room() / room);
  const std::uint32_t jobs_here = std::max(part, 1U);
  return std::min((free + jobs_here - 1) / jobs_here, free + room - worker.room() - (waiting - 1));
}

std::uint32_t Scheduler::jobs_waiting_for(const JobTable& jobs, const Worker& worker,
                                          std::uint32_t most) const {
  std::uint32_t count = 0;
  std::set<std::uint32_t> groups;
  for (const First& first : firsts_) {
    const ReadyClass& ready = classes_[first.class_number];
    if (!fits_when_free(worker, ready.requirement)) continue;
    for (const Key& key : ready.jobs) {
      if (count == most) return count;
      const std::uint32_t group = jobs[key.job].group;
      if (group == kNone || groups.insert(group).second) ++count;
    }
  }
  return count;
}

std::size_t Scheduler::jobs_before(const JobTable& jobs, const Fleet& fleet, JobIndex job) const {
  const Requirement wanted = requirement_of(jobs, job);
  const auto competes = [&](const Requirement& other) {
    for (WorkerIndex worker = 0; worker < fleet.size(); ++worker) {
      if (fits_when_free(fleet[worker], wanted) && fits_when_free(fleet[worker], other)) {
        return true;
      }
    }
    return false;
  };
  const Key key = key_of(jobs, job);
  std::size_t count = 0;
  for (const auto& [first, number] : firsts_) {
    if (!(first < key)) break;
    const ReadyClass& ready = classes_[number];
    if (competes(ready.requirement)) {
      count +=
          static_cast<std::size_t>(std::distance(ready.jobs.begin(), ready.jobs.lower_bound(key)));
    }
  }
  return count;
}

}  // namespace bitrung::core
