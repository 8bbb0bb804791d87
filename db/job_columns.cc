#include "db/job_columns.h"

#include <cstddef>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "db/base/status.h"

namespace bitrung::db {
namespace {

// A study has a handful.
constexpr std::size_t kKnownMax = 256;

}  // namespace

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

absl::Status SpecJoiner::prepare(Connection& connection) {
  BITRUNG_ASSIGN_OR_RETURN(
      select_, connection.prepare("shared_spec", "SELECT spec_json FROM shared_spec WHERE id = ?"));
  return absl::OkStatus();
}

absl::StatusOr<const SpecJoiner::Shared*> SpecJoiner::find(std::int64_t id) {
  if (const auto known = known_.find(id); known != known_.end()) return &known->second;
  std::string text;
  Rows rows = select_.query(id);
  bool found = false;
  while (rows.next()) {
    found = true;
    rows.read(text);
  }
  BITRUNG_RETURN_IF_ERROR(rows.status());
  if (known_.size() >= kKnownMax) known_.clear();
  Shared& shared = known_[id];
  shared.text = std::move(text);
  if (found && read_members(shared.text, shared.members)) return &shared;
  known_.erase(id);
  return absl::DataLossError(fmt::format("the shared options {} cannot be read", id));
}

absl::StatusOr<std::string> SpecJoiner::read(Rows& rows, int column) {
  if (rows.is_null(column + 1)) return std::string(rows.text(column));
  std::int64_t id = 0;
  rows.read_from(column + 1, id);
  BITRUNG_ASSIGN_OR_RETURN(const Shared* shared, find(id));
  std::string whole;
  if (read_members(rows.text(column), own_) && join_members(shared->members, own_, whole))
    return whole;
  return absl::DataLossError("the options of a job cannot be put together from their parts");
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
