// All jobs the server knows, dense by number, with the experiments they belong to. Data only: no
// rule of scheduling is applied here. Not thread-safe.
//
// A hundred thousand jobs may wait, so a Job is one flat record of numbers. What most jobs lack (an
// error, a resume state) and what comes late (a result) lies in side tables and is referred to by
// position.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "db/base/digest.h"
#include "db/rows.h"
#include "db/words.h"
#include "server/core/core.h"
#include "server/core/graph.h"
#include "server/core/interner.h"

namespace bitrung::core {

// Positions in the tables of the core; kNone for none. They live as long as the process, numbers of
// jobs for ever.
using JobIndex = std::uint32_t;
using ExperimentIndex = std::uint32_t;

// What a job takes from before it.
struct Input {
  enum class Kind : std::uint8_t {
    kParent,
    kArtifact,
    kCandidate,  // A parent of which the best one is taken.
    kChosen,     // The candidate that was taken. Never changes.
  };

  InputRole role{};
  Kind kind{};
  std::uint16_t choice = 0;  // Candidates of one choice share a number; 0 for none.
  std::uint32_t value = 0;   // A JobIndex, or a position in the artifacts.

  bool is_job() const { return kind != Kind::kArtifact; }
};
static_assert(sizeof(Input) == 8);

// One of the candidates was taken.
bool is_chosen(std::span<const Input> candidates);

struct Job {
  Digest spec;
  Digest identity;  // Valid once `group` is set.
  double flops = 0;
  double chain_seconds =
      0;  // From this job down its longest chain of descendants, itself included.
  std::uint64_t memory_bytes = 0;
  std::int64_t started_at_ms = 0;
  std::int64_t finished_at_ms = 0;
  JobId cached_from{};            // 0 for none.
  std::uint32_t first_input = 0;  // Position in the inputs.
  std::uint32_t input_count = 0;
  ExperimentIndex experiment = kNone;  // kNone: no such job.
  std::uint32_t pin = 0;               // Position in Experiment::pins: names the data set.
  std::uint32_t cost_class = 0;
  std::uint32_t numerics = 0;
  std::uint32_t retries = 0;
  std::int32_t priority = 0;
  std::uint32_t parents_left = 0;  // Parents that have not succeeded, and choices to be made.
  std::uint32_t attempt = 0;
  std::uint32_t retries_used = 0;
  std::uint32_t losses = 0;
  std::uint32_t resume_epoch = 0;
  std::uint32_t result = kNone;  // Position in the results.
  std::uint32_t rare = kNone;    // Position in the rare columns.
  std::uint32_t live = kNone;    // Position in the fleet's live attempts.
  std::uint32_t queue = kNone;   // Ready class it is queued in.
  std::uint32_t group = kNone;   // Equal group; known together with the identity.
  JobIndex next_equal = kNone;   // Next member of the group's list.
  std::uint32_t last_worker =
      kNone;  // Who had its latest attempt; forgotten at restart, only a preference.
  bool has_choices = false;
  JobState state = JobState::kBlocked;
  FailureClass failure_class = FailureClass::kNone;
  bool saved_this_step = false;
};
static_assert(sizeof(Job) <= 256);

// The columns that few jobs have.
struct RareColumns {
  std::string error;
  std::optional<Digest> resume;
  std::optional<std::chrono::milliseconds> retry_at;  // Set while the job waits for a retry.
};

// The digest that a data set must have for an experiment.
struct Pin {
  std::uint32_t dataset = 0;   // Number in JobTable::datasets.
  std::uint32_t copy = kNone;  // Number in JobTable::copies; kNone until pinned.
  std::vector<JobIndex> jobs;  // That train on it.
};

struct Experiment {
  ExperimentId id{};
  JobIndex first = 0;  // Its jobs are consecutive.
  std::uint32_t job_count = 0;
  ChildLists children;  // By position in the experiment.
  std::vector<Pin> pins;
  std::uint32_t unfinished = 0;  // Jobs that are not terminal.
  std::uint32_t ready = 0;
  bool finished = false;  // As recorded.
  bool costs_known = false;
  bool costs_stale = false;       // A class of it was measured since its chains were computed.
  std::uint64_t cost_credit = 0;  // Jobs that may be visited to compute them again.
};

class JobTable {
 public:
  // `first` is the lowest number there will ever be.
  explicit JobTable(JobId first);

  // Adds an experiment whose jobs have consecutive numbers from `first`, above all earlier ones. A
  // job without parents is ready, others are blocked.
  ExperimentIndex add(ExperimentId id, JobId first, const std::vector<NewJob>& jobs);
  // Overwrites the changeable columns by stored ones. The caller counts parents_left again
  // afterwards.
  void restore(JobIndex job, const db::JobStateRow& row);

  bool contains(JobId id) const;
  JobIndex index(JobId id) const;  // Must exist.
  JobId id(JobIndex job) const { return JobId{first_ + job}; }
  JobId end() const { return JobId{first_ + static_cast<std::int64_t>(jobs_.size())}; }
  JobIndex size() const { return static_cast<JobIndex>(jobs_.size()); }

  Job& operator[](JobIndex job) { return jobs_[job]; }
  const Job& operator[](JobIndex job) const { return jobs_[job]; }
  Experiment& experiment(ExperimentIndex experiment) { return experiments_[experiment]; }
  const Experiment& experiment(ExperimentIndex experiment) const {
    return experiments_[experiment];
  }
  const Experiment& experiment_of(const Job& job) const { return experiments_[job.experiment]; }
  ExperimentIndex experiment_count() const {
    return static_cast<ExperimentIndex>(experiments_.size());
  }
  std::optional<ExperimentIndex> find(ExperimentId id) const;
  Pin& pin_of(const Job& job) { return experiments_[job.experiment].pins[job.pin]; }
  const Pin& pin_of(const Job& job) const { return experiments_[job.experiment].pins[job.pin]; }

  // The only writer of Job::state: keeps the experiment's counters.
  void set_state(JobIndex job, JobState state);

  // Calls visit(child); a child with two inputs from the job is visited twice.
  template <typename Visit>
  void for_each_child(JobIndex job, Visit visit) const {
    const Experiment& experiment = experiment_of(jobs_[job]);
    for (const std::uint32_t child : experiment.children.of(job - experiment.first)) {
      visit(experiment.first + child);
    }
  }
  // In the order of the submit; candidates of a choice stand side by side.
  std::span<const Input> inputs(JobIndex job) const {
    return std::span(inputs_).subspan(jobs_[job].first_input, jobs_[job].input_count);
  }
  // Calls visit(parent) for parents and chosen candidates.
  template <typename Visit>
  void for_each_taken_parent(JobIndex job, Visit visit) const {
    for (const Input& input : inputs(job)) {
      if (input.kind == Input::Kind::kParent || input.kind == Input::Kind::kChosen) {
        visit(input.value);
      }
    }
  }
  // Calls visit(inputs, position of the first of them) for each input, all candidates of a choice
  // at once.
  template <typename Visit>
  void for_each_need(JobIndex job, Visit visit) const {
    const std::span<const Input> all = inputs(job);
    for (std::size_t begin = 0; begin < all.size();) {
      std::size_t end = begin + 1;
      while (all[begin].choice != 0 && end < all.size() && all[end].choice == all[begin].choice) {
        ++end;
      }
      visit(all.subspan(begin, end - begin), begin);
      begin = end;
    }
  }
  // All choices have been made.
  bool has_chosen(JobIndex job) const;
  // Takes this candidate; none of its choice was taken before.
  void choose(JobIndex job, std::size_t position);

  RareColumns& rare(JobIndex job);
  const RareColumns& rare(JobIndex job) const;
  std::uint32_t add_result(const db::ResultRow& result);
  const db::ResultRow& result(std::uint32_t position) const { return results_[position]; }
  const Digest& artifact(std::uint32_t position) const { return artifacts_[position]; }

  db::JobStateRow row(JobIndex job) const;

  Interner<std::string> datasets;
  Interner<std::string> cost_classes;
  Interner<Digest, DigestHash> copies;  // Digests of data sets.

 private:
  std::int64_t first_;
  std::vector<Job> jobs_;
  std::vector<Experiment> experiments_;
  std::unordered_map<std::int64_t, ExperimentIndex> experiment_numbers_;
  std::vector<RareColumns> rare_;
  std::vector<db::ResultRow> results_;
  std::vector<Input> inputs_;
  std::vector<Digest> artifacts_;  // Outside inputs.
};

}  // namespace bitrung::core
