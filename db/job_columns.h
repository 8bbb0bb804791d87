// The columns of tables that both the writer's start and the readers fetch, with the functions that
// read them in the same order. Change a list and its function together.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "db/base/shared_spec.h"
#include "db/rows.h"
#include "db/sqlite.h"

namespace bitrung::db {

// Of `job AS j`; 38 columns.
inline constexpr std::string_view kJobColumns =
    "j.id, j.experiment_id, j.name, j.spec_sha256, j.model, j.dataset, j.method, j.weight_bits, "
    "j.activation_bits, "
    "j.seed, j.epochs, j.numerics, j.retries, j.timeout_seconds, j.priority, j.devices, "
    "j.memory_bytes, "
    "j.estimated_flops, j.state, j.attempt, j.retries_used, j.losses, j.identity, j.cached_from, "
    "j.failure_class, "
    "j.error, j.resume_sha256, j.resume_epoch, j.started_at_ms, j.finished_at_ms, j.changed_seq, "
    "j.artifact_sha256, "
    "j.test_accuracy, j.validation_accuracy, j.test_loss, j.best_epoch, j.duration_seconds, "
    "j.images_per_second";
inline constexpr int kJobColumnCount = 38;
void read_job(Rows& rows, JobSpecRow& spec, JobStateRow& state, std::int64_t& changed_seq);
// Adds the next of the job's inputs.
void add_input(const InputRow& input, bool is_chosen, JobSpecRow& spec, JobStateRow& state);

// Puts the options of jobs together. One per connection, used by its thread.
class SpecJoiner {
 public:
  absl::Status prepare(Connection& connection);
  // Of the columns spec_json and shared_id of `job_spec`, which stand side by side.
  absl::StatusOr<std::string> read(Rows& rows, int column);

 private:
  // A part that many jobs have, taken apart; views into its text.
  struct Shared {
    std::string text;
    std::vector<SpecMember> members;
  };
  absl::StatusOr<const Shared*> find(std::int64_t id);

  Statement select_;
  std::unordered_map<std::int64_t, Shared> known_;  // None of them ever changes.
  std::vector<SpecMember> own_;
};

// Of `experiment AS e`.
inline constexpr std::string_view kExperimentColumns =
    "e.id, e.name, e.request_id, e.request_sha256, e.graph_sha256, e.source_yaml, "
    "e.submitted_at_ms, e.finished_at_ms, e.submitted_by";
void read_experiment(Rows& rows, ExperimentRow& row);

// Of `attempt AS a`.
inline constexpr std::string_view kAttemptColumns =
    "a.job_id, a.attempt, a.state, a.worker_id, a.worker_name, a.slot, a.device, a.threads, "
    "a.failure_class, a.error, "
    "a.offered_at_ms, a.started_at_ms, a.finished_at_ms, a.resumed_epoch";
void read_attempt(Rows& rows, AttemptRow& row);

// Of `worker`.
inline constexpr std::string_view kWorkerColumns =
    "id, name, version, draining, last_seen_ms, inventory_json";
void read_worker(Rows& rows, WorkerRow& row);

}  // namespace bitrung::db
