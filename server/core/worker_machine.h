// Workers, their sessions and slots, and the attempts they hold under a lease.
//
// A worker is known for ever once it has connected; it speaks through at most one session. A slot
// holds at most one attempt. The slots of a CPU may share its cores and its memory: then an attempt
// takes as many cores as it was granted, and the memory its job asks for, until it ends. An attempt
// belongs to the worker it was offered to until it ends, connected or not. When to give one up is
// decided by the caller; this keeps the books: who is free, whose lease ends next, which copies of
// a data set there are. Not thread-safe.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "db/rows.h"
#include "server/core/core.h"
#include "server/core/interner.h"
#include "server/core/job_table.h"

namespace bitrung::core {

using WorkerIndex = std::uint32_t;
using LiveIndex = std::uint32_t;

struct Worker {
  std::string id;
  std::string name;
  std::string version;
  bool connected = false;
  bool draining = false;
  bool stopping = false;  // Until its next session.
  SessionId session{};    // Valid while connected.
  std::uint32_t numerics = 0;
  std::vector<SlotInfo> slots;                                       // As of its latest session.
  std::vector<LiveIndex> occupant;                                   // By slot; kNone if free.
  std::set<std::pair<std::uint64_t, std::uint32_t>> free_by_memory;  // Free slots: bytes, number.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> datasets;  // Numbers of data set and copy.
  std::vector<LiveIndex> live;  // Its attempts, also those in slots that it no longer has.
  std::uint32_t free_slots = 0;
  std::uint32_t shared_cores = 0;            // 0: every slot has its own threads.
  std::uint32_t cores_taken = 0;             // Of the shared ones, by the attempts in its slots.
  std::uint64_t memory_taken = 0;            // Likewise.
  std::uint32_t available_position = kNone;  // In Fleet::available().
  std::int64_t last_seen_ms = 0;

  // The copy it has of the data set; kNone if none.
  std::uint32_t copy_of(std::uint32_t dataset) const;
  // The free slot that fits most closely, so that large slots stay for large jobs; kNone if none is
  // large enough.
  std::uint32_t closest_free_slot(std::uint64_t memory_bytes) const;
  // Of the shared ones. A worker that came back with fewer cores may have none for a while.
  std::uint32_t free_cores() const {
    return shared_cores > cores_taken ? shared_cores - cores_taken : 0;
  }
  // Attempts that it can take now, as far as slots and cores go.
  std::uint32_t room() const {
    return shared_cores > 0 ? std::min(free_slots, free_cores()) : free_slots;
  }
  bool takes_offers() const { return connected && !draining && !stopping; }
};

// An attempt that is offered or running.
struct LiveAttempt {
  db::AttemptRow row;
  JobIndex job = kNone;
  WorkerIndex worker = kNone;
  std::chrono::milliseconds lease_end{};
  std::uint64_t memory_bytes = 0;  // That its job asks for.
};

// What a worker says of itself when it connects.
struct Introduction {
  SessionId session{};
  std::string name;
  std::string version;
  std::uint32_t numerics = 0;
  std::vector<SlotInfo> slots;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> datasets;
  std::uint32_t shared_cores = 0;
};

class Fleet {
 public:
  WorkerIndex find(const std::string& worker_id) const;  // kNone if unknown.
  WorkerIndex find(SessionId session) const;             // kNone if it does not speak for a worker.
  WorkerIndex find_or_add(const std::string& worker_id);
  const Worker& operator[](WorkerIndex worker) const { return workers_[worker]; }
  WorkerIndex size() const { return static_cast<WorkerIndex>(workers_.size()); }

  // A stored worker, not connected.
  void restore(const db::WorkerRow& row);
  // The session speaks for the worker from now on; an earlier one does not any more.
  void open(WorkerIndex worker, Introduction introduction);
  void close(WorkerIndex worker);
  void set_draining(WorkerIndex worker, bool draining);
  void set_stopping(WorkerIndex worker);
  void set_datasets(WorkerIndex worker,
                    std::vector<std::pair<std::uint32_t, std::uint32_t>> datasets);
  void set_last_seen(WorkerIndex worker, std::int64_t wall_ms);

  // Connected, not draining, with a free slot and, where they are shared, a free core. In no
  // particular order.
  const std::vector<WorkerIndex>& available() const { return available_; }
  // The copy that every worker has which takes offers and has the data set at all; kNone if they
  // differ or none has it.
  std::uint32_t agreed_copy(std::uint32_t dataset) const;

  // The attempt in `row` is the worker's until end(). Its slot must be free if the worker has it.
  // It takes `row.threads` of its worker's shared cores.
  LiveIndex grant(WorkerIndex worker, JobIndex job, db::AttemptRow row,
                  std::chrono::milliseconds lease_end, std::uint64_t memory_bytes);
  void renew(LiveIndex live, std::chrono::milliseconds lease_end);
  // The attempt's row as it was; the position may be given to another attempt.
  db::AttemptRow end(LiveIndex live);
  LiveAttempt& live(LiveIndex live) { return live_[live]; }
  const LiveAttempt& live(LiveIndex live) const { return live_[live]; }

  // Attempts by the end of their lease; the first is the next to run out.
  const std::set<std::pair<std::chrono::milliseconds, LiveIndex>>& leases() const {
    return leases_;
  }

 private:
  // Take a worker out of the books that depend on what it is, and enter it again after the change.
  void withdraw(WorkerIndex worker);
  void enter(WorkerIndex worker);
  void update_available(WorkerIndex worker);
  // The slot's attempt comes or goes, with what it takes.
  void occupy(Worker& worker, std::uint32_t slot, LiveIndex live);
  void vacate(Worker& worker, std::uint32_t slot);
  void count_copies(const Worker& worker, bool add);

  std::vector<Worker> workers_;
  std::unordered_map<std::string, WorkerIndex> worker_numbers_;
  std::unordered_map<std::int64_t, WorkerIndex> sessions_;
  std::vector<WorkerIndex> available_;
  std::vector<LiveAttempt> live_;
  std::vector<LiveIndex> live_unused_;
  std::set<std::pair<std::chrono::milliseconds, LiveIndex>> leases_;
  // By data set: copies with the number of workers that take offers and have them.
  std::vector<std::vector<std::pair<std::uint32_t, std::uint32_t>>> holders_;
};

}  // namespace bitrung::core
