#include "db/job_columns.h"

#include <optional>
#include <utility>

#include "db/shared_spec.h"

namespace bitrung::db {

void read_job(Rows& rows, JobSpecRow& spec, JobStateRow& state, std::int64_t& changed_seq) {
  std::optional<Digest> artifact;
  rows.read(spec.id, spec.experiment, spec.name, spec.spec_sha256, spec.model, spec.dataset,
            spec.method, spec.weight_bits, spec.activation_bits, spec.seed, spec.epochs,
            spec.numerics, spec.retries, spec.timeout_seconds, spec.priority, spec.devices,
            spec.memory_bytes, spec.estimated_flops, state.state, state.attempt, state.retries_used,
            state.losses, state.identity, state.cached_from, state.failure_class, state.error,
            state.resume, state.resume_epoch, state.started_at_ms, state.finished_at_ms,
            changed_seq, artifact);
  state.id = spec.id;
  state.result.reset();
  if (artifact) {
    ResultRow& result = state.result.emplace();
    result.artifact = *artifact;
    rows.read_from(32, result.test_accuracy, result.validation_accuracy, result.test_loss,
                   result.best_epoch, result.duration_seconds, result.images_per_second);
  }
}

absl::StatusOr<std::string> read_spec(Rows& rows, int column) {
  std::string own;
  std::optional<std::string> shared;
  rows.read_from(column, own, shared);
  if (!shared) return own;
  return join_spec(*shared, own);
}

void add_input(const InputRow& input, bool is_chosen, JobSpecRow& spec, JobStateRow& state) {
  if (is_chosen) state.chosen.push_back(static_cast<std::uint32_t>(spec.inputs.size()));
  spec.inputs.push_back(input);
}

void read_experiment(Rows& rows, ExperimentRow& row) {
  rows.read(row.id, row.name, row.request_id, row.request_sha256, row.graph_sha256, row.source_yaml,
            row.submitted_at_ms, row.finished_at_ms, row.submitted_by);
}

void read_attempt(Rows& rows, AttemptRow& row) {
  rows.read(row.job, row.attempt, row.state, row.worker_id, row.worker_name, row.slot, row.device,
            row.threads, row.failure_class, row.error, row.offered_at_ms, row.started_at_ms,
            row.finished_at_ms, row.resumed_epoch);
}

void read_worker(Rows& rows, WorkerRow& row) {
  rows.read(row.id, row.name, row.version, row.draining, row.last_seen_ms, row.inventory_json);
}

}  // namespace bitrung::db
