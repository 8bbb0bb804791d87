#include "server/core/worker_machine.h"

#include <algorithm>
#include <utility>

#include "db/base/check.h"

namespace bitrung::core {

std::uint32_t Worker::copy_of(std::uint32_t dataset) const {
  for (const auto& [number, copy] : datasets) {
    if (number == dataset) return copy;
  }
  return kNone;
}

std::uint32_t Worker::closest_free_slot(std::uint64_t memory_bytes) const {
  // Slots that share cores share one device: each names all of its memory.
  if (shared_cores > 0) memory_bytes += memory_taken;
  const auto slot = free_by_memory.lower_bound({memory_bytes, 0});
  return slot == free_by_memory.end() ? kNone : slot->second;
}

WorkerIndex Fleet::find(const std::string& worker_id) const {
  const auto found = worker_numbers_.find(worker_id);
  return found == worker_numbers_.end() ? kNone : found->second;
}

WorkerIndex Fleet::find(SessionId session) const {
  const auto found = sessions_.find(number(session));
  return found == sessions_.end() ? kNone : found->second;
}

WorkerIndex Fleet::find_or_add(const std::string& worker_id) {
  const auto [entry, added] =
      worker_numbers_.try_emplace(worker_id, static_cast<WorkerIndex>(workers_.size()));
  if (added) {
    workers_.emplace_back().id = worker_id;
  }
  return entry->second;
}

void Fleet::restore(const db::WorkerRow& row) {
  Worker& worker = workers_[find_or_add(row.id)];
  worker.name = row.name;
  worker.version = row.version;
  worker.draining = row.draining;
  worker.last_seen_ms = row.last_seen_ms;
}

void Fleet::open(WorkerIndex index, Introduction introduction) {
  if (workers_[index].connected) {
    close(index);
  }
  Worker& worker = workers_[index];
  BITRUNG_CHECK(sessions_.emplace(number(introduction.session), index).second);
  worker.connected = true;
  worker.stopping = false;
  worker.session = introduction.session;
  worker.name = std::move(introduction.name);
  worker.version = std::move(introduction.version);
  worker.numerics = introduction.numerics;
  worker.slots = std::move(introduction.slots);
  worker.datasets = std::move(introduction.datasets);

  worker.shared_cores = introduction.shared_cores;
  worker.cores_taken = 0;
  worker.memory_taken = 0;
  worker.occupant.assign(worker.slots.size(), kNone);
  worker.free_by_memory.clear();
  for (std::uint32_t slot = 0; slot < worker.slots.size(); ++slot) {
    worker.free_by_memory.emplace(worker.slots[slot].memory_bytes, slot);
  }
  worker.free_slots = static_cast<std::uint32_t>(worker.free_by_memory.size());
  for (const LiveIndex live : worker.live) {
    const std::uint32_t slot = live_[live].row.slot;
    if (slot < worker.occupant.size()) occupy(worker, slot, live);
  }
  enter(index);
}

void Fleet::occupy(Worker& worker, std::uint32_t slot, LiveIndex live) {
  BITRUNG_CHECK(worker.occupant[slot] == kNone);
  BITRUNG_CHECK(worker.free_by_memory.erase({worker.slots[slot].memory_bytes, slot}) == 1);
  worker.occupant[slot] = live;
  --worker.free_slots;
  worker.cores_taken += live_[live].row.threads;
  worker.memory_taken += live_[live].memory_bytes;
}

void Fleet::vacate(Worker& worker, std::uint32_t slot) {
  const LiveAttempt& attempt = live_[worker.occupant[slot]];
  BITRUNG_CHECK(worker.cores_taken >= attempt.row.threads);
  BITRUNG_CHECK(worker.memory_taken >= attempt.memory_bytes);
  worker.cores_taken -= attempt.row.threads;
  worker.memory_taken -= attempt.memory_bytes;
  worker.occupant[slot] = kNone;
  ++worker.free_slots;
  BITRUNG_CHECK(worker.free_by_memory.emplace(worker.slots[slot].memory_bytes, slot).second);
}

void Fleet::close(WorkerIndex index) {
  Worker& worker = workers_[index];
  BITRUNG_CHECK(worker.connected);
  withdraw(index);
  sessions_.erase(number(worker.session));
  worker.connected = false;
  update_available(index);
}

void Fleet::set_draining(WorkerIndex index, bool draining) {
  withdraw(index);
  workers_[index].draining = draining;
  enter(index);
}

void Fleet::set_stopping(WorkerIndex index) {
  withdraw(index);
  workers_[index].stopping = true;
  enter(index);
}

void Fleet::set_datasets(WorkerIndex index,
                         std::vector<std::pair<std::uint32_t, std::uint32_t>> datasets) {
  withdraw(index);
  workers_[index].datasets = std::move(datasets);
  enter(index);
}

void Fleet::set_last_seen(WorkerIndex worker, std::int64_t wall_ms) {
  workers_[worker].last_seen_ms = wall_ms;
}

std::uint32_t Fleet::agreed_copy(std::uint32_t dataset) const {
  if (dataset >= holders_.size() || holders_[dataset].size() != 1) return kNone;
  return holders_[dataset].front().first;
}

LiveIndex Fleet::grant(WorkerIndex index, JobIndex job, db::AttemptRow row,
                       std::chrono::milliseconds lease_end, std::uint64_t memory_bytes) {
  LiveIndex live = static_cast<LiveIndex>(live_.size());
  if (live_unused_.empty()) {
    live_.emplace_back();
  } else {
    live = live_unused_.back();
    live_unused_.pop_back();
  }
  Worker& worker = workers_[index];
  worker.live.push_back(live);
  leases_.emplace(lease_end, live);
  live_[live] = {std::move(row), job, index, lease_end, memory_bytes};
  const std::uint32_t slot = live_[live].row.slot;
  if (slot < worker.occupant.size()) {
    BITRUNG_CHECK(worker.shared_cores == 0 || live_[live].row.threads <= worker.free_cores());
    occupy(worker, slot, live);
    update_available(index);
  }
  return live;
}

void Fleet::renew(LiveIndex live, std::chrono::milliseconds lease_end) {
  LiveAttempt& attempt = live_[live];
  BITRUNG_CHECK(leases_.erase({attempt.lease_end, live}) == 1);
  leases_.emplace(lease_end, live);
  attempt.lease_end = lease_end;
}

db::AttemptRow Fleet::end(LiveIndex live) {
  LiveAttempt& attempt = live_[live];
  Worker& worker = workers_[attempt.worker];
  BITRUNG_CHECK(leases_.erase({attempt.lease_end, live}) == 1);
  BITRUNG_CHECK(std::erase(worker.live, live) == 1);
  const std::uint32_t slot = attempt.row.slot;
  if (slot < worker.occupant.size() && worker.occupant[slot] == live) {
    vacate(worker, slot);
    update_available(attempt.worker);
  }
  live_unused_.push_back(live);
  return std::exchange(attempt, {}).row;
}

void Fleet::withdraw(WorkerIndex index) {
  const Worker& worker = workers_[index];
  if (worker.takes_offers()) {
    count_copies(worker, false);
  }
}

void Fleet::enter(WorkerIndex index) {
  const Worker& worker = workers_[index];
  if (worker.takes_offers()) {
    count_copies(worker, true);
  }
  update_available(index);
}

void Fleet::update_available(WorkerIndex index) {
  Worker& worker = workers_[index];
  const bool is_listed = worker.available_position != kNone;
  const bool is_available = worker.takes_offers() && worker.room() > 0;
  if (is_available && !is_listed) {
    worker.available_position = static_cast<std::uint32_t>(available_.size());
    available_.push_back(index);
  } else if (!is_available && is_listed) {
    const WorkerIndex last = available_.back();
    available_[worker.available_position] = last;
    workers_[last].available_position = worker.available_position;
    available_.pop_back();
    worker.available_position = kNone;
  }
}

void Fleet::count_copies(const Worker& worker, bool add) {
  for (const auto& [dataset, copy] : worker.datasets) {
    if (dataset >= holders_.size()) {
      holders_.resize(dataset + 1);
    }
    auto& holders = holders_[dataset];
    const auto holder =
        std::ranges::find(holders, copy, &std::pair<std::uint32_t, std::uint32_t>::first);
    if (add) {
      if (holder == holders.end()) {
        holders.emplace_back(copy, 1);
      } else {
        ++holder->second;
      }
    } else {
      BITRUNG_CHECK(holder != holders.end());
      if (--holder->second == 0) {
        holders.erase(holder);
      }
    }
  }
}

}  // namespace bitrung::core
