// Ready jobs and the choice of the next one to place: the first job, in the order below, that some
// free slot fits.
//
// Jobs that need the same of a worker wait in one class, so a placement looks at the first job of
// each class instead of at every ready job. A class whose first job fitted nowhere is not looked at
// again until a worker changes: between two calls of next() nothing else can make a job fit. Not
// thread-safe.
//
// Order: priority, then the longest remaining chain (the critical path of a study is a ladder, so
// its upper rungs must not wait behind short jobs), then the number, which rises with the
// experiment's.
//
// Where the slots of a worker share its cores, a placement says how many the job gets. Small
// networks gain little from a second thread, so two jobs with one core each end sooner than one
// after the other with two: each gets one as long as there are at least as many jobs as free cores.
// Fewer jobs divide the free cores among them, the first in the order getting the larger part, and
// a lone one gets all. What is granted stays until the attempt ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "server/core/job_table.h"
#include "server/core/worker_machine.h"

namespace bitrung::core {

// What a job needs of a worker and its slot. A slot is a share of one device, so the number of
// devices is not part of it.
struct Requirement {
  std::uint32_t dataset = 0;
  std::uint32_t copy = kNone;  // kNone: any copy will do, the placement decides.
  std::uint32_t numerics = 0;
  std::uint64_t memory_bytes = 0;
  auto operator<=>(const Requirement&) const = default;
};

Requirement requirement_of(const JobTable& jobs, JobIndex job);

// A slot with room for the requirement exists on the worker, free or not; the worker may be
// anything but disconnected.
bool fits_when_free(const Worker& worker, const Requirement& requirement);

struct Placement {
  JobIndex job = kNone;
  WorkerIndex worker = kNone;
  std::uint32_t slot = 0;
  std::uint32_t threads = 0;  // The slot's, or shared cores; at least 1 of those.
};

class Scheduler {
 public:
  // Queues a ready job; sets Job::queue.
  void add(JobTable& jobs, JobIndex job);
  // Takes a queued job out; clears Job::queue. Its place in the order must not have changed since
  // add().
  void remove(JobTable& jobs, JobIndex job);

  // The worker got a free slot, or takes offers again, or has other data sets.
  void worker_changed(WorkerIndex worker);

  // The next placement, if any. The caller removes the job or pins its data set, and asks again
  // until there is none.
  std::optional<Placement> next(const JobTable& jobs, const Fleet& fleet);

  // Queued jobs that come before this one and could take a slot from it.
  std::size_t jobs_before(const JobTable& jobs, const Fleet& fleet, JobIndex job) const;

 private:
  struct Key {
    std::int32_t priority = 0;
    double chain_seconds = 0;
    JobIndex job = kNone;

    bool operator<(const Key& other) const;
  };
  struct ReadyClass {
    Requirement requirement;
    std::set<Key> jobs;
    bool untried = false;  // Workers that have not changed may fit as well.
  };
  // A class by its first job. Every class with jobs stands in firsts_ exactly once.
  struct First {
    Key key;
    std::uint32_t class_number = kNone;

    bool operator<(const First& other) const { return key < other.key; }
  };

  static Key key_of(const JobTable& jobs, JobIndex job);
  std::optional<Placement> place(const JobTable& jobs, const Fleet& fleet, JobIndex job,
                                 const Requirement& requirement,
                                 std::span<const WorkerIndex> workers) const;
  // Shared cores of the worker for a queued job that requires this, 1 to those that are free.
  std::uint32_t cores_for(const JobTable& jobs, const Fleet& fleet, const Requirement& requirement,
                          const Worker& worker) const;
  // Queued jobs that the worker could train, of equal ones one, counted up to `most`.
  std::uint32_t jobs_waiting_for(const JobTable& jobs, const Worker& worker,
                                 std::uint32_t most) const;

  std::vector<ReadyClass> classes_;
  std::map<Requirement, std::uint32_t> class_numbers_;
  std::set<First> firsts_;
  std::vector<std::uint32_t> untried_;
  std::vector<WorkerIndex> changed_workers_;
  std::vector<bool> is_changed_;
};

}  // namespace bitrung::core
