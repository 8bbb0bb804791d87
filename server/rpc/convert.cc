#include "server/rpc/convert.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "db/base/check.h"
#include "db/base/status.h"
#include "server/rpc/report.h"

namespace bitrung::rpc {
namespace {

// Candidates named while the teacher is not chosen.
constexpr std::size_t kCandidatesShown = 4;

}  // namespace

grpc::Status to_grpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()), std::string(message(status))};
}

// The numbers on the wire are the enumerators' plus one, since zero is unspecified there.
v1::JobState to_proto(JobState state) {
  return static_cast<v1::JobState>(static_cast<int>(state) + 1);
}
static_assert(static_cast<int>(JobState::kSkipped) + 1 == v1::JOB_STATE_SKIPPED);
v1::AttemptState to_proto(AttemptState state) {
  return static_cast<v1::AttemptState>(static_cast<int>(state) + 1);
}
static_assert(static_cast<int>(AttemptState::kLost) + 1 == v1::ATTEMPT_STATE_LOST);
v1::ExperimentState to_proto(ExperimentState state) {
  return static_cast<v1::ExperimentState>(static_cast<int>(state) + 1);
}
static_assert(static_cast<int>(ExperimentState::kCancelled) + 1 == v1::EXPERIMENT_STATE_CANCELLED);
v1::InputRole to_proto(InputRole role) {
  return static_cast<v1::InputRole>(static_cast<int>(role) + 1);
}
static_assert(static_cast<int>(InputRole::kSource) + 1 == v1::INPUT_ROLE_SOURCE);
// No failure is zero on both sides.
v1::FailureClass to_proto(FailureClass failure) {
  return static_cast<v1::FailureClass>(failure);
}
static_assert(static_cast<int>(FailureClass::kTrainerCrashed) == v1::FAILURE_CLASS_TRAINER_CRASHED);

absl::StatusOr<FailureClass> from_proto(v1::FailureClass failure) {
  if (failure <= v1::FAILURE_CLASS_UNSPECIFIED || failure > v1::FAILURE_CLASS_TRAINER_CRASHED) {
    return absl::InvalidArgumentError(
        fmt::format("unknown failure class {}", static_cast<int>(failure)));
  }
  return static_cast<FailureClass>(failure);
}

absl::StatusOr<InputRole> from_proto(v1::InputRole role) {
  if (role <= v1::INPUT_ROLE_UNSPECIFIED || role > v1::INPUT_ROLE_SOURCE) {
    return absl::InvalidArgumentError(fmt::format("unknown input role {}", static_cast<int>(role)));
  }
  return static_cast<InputRole>(static_cast<int>(role) - 1);
}

absl::StatusOr<Digest> parse_digest(std::string_view hex, std::string_view what) {
  const auto digest = Digest::from_hex(hex);
  if (!digest)
    return absl::InvalidArgumentError(
        fmt::format("{} is not 64 hex digits: \"{}\"", what, hex.substr(0, 80)));
  return *digest;
}

void to_proto(const db::ResultRow& row, v1::JobResult& result) {
  if (row.test_accuracy) result.set_test_accuracy(*row.test_accuracy);
  if (row.validation_accuracy) result.set_validation_accuracy(*row.validation_accuracy);
  if (row.test_loss) result.set_test_loss(*row.test_loss);
  result.set_best_epoch(row.best_epoch);
  result.set_duration_seconds(row.duration_seconds);
  result.set_images_per_second(row.images_per_second);
  result.set_artifact_sha256(row.artifact.hex());
}

absl::StatusOr<db::ResultRow> from_proto(const v1::JobResult& result) {
  db::ResultRow row;
  if (result.has_test_accuracy()) row.test_accuracy = result.test_accuracy();
  if (result.has_validation_accuracy()) row.validation_accuracy = result.validation_accuracy();
  if (result.has_test_loss()) row.test_loss = result.test_loss();
  row.best_epoch = result.best_epoch();
  row.duration_seconds = result.duration_seconds();
  row.images_per_second = result.images_per_second();
  for (const double value :
       {row.test_accuracy.value_or(0), row.validation_accuracy.value_or(0),
        row.test_loss.value_or(0), row.duration_seconds, row.images_per_second}) {
    if (!std::isfinite(value))
      return absl::InvalidArgumentError("a result holds a number that is not finite");
  }
  BITRUNG_ASSIGN_OR_RETURN(row.artifact, parse_digest(result.artifact_sha256(), "artifact_sha256"));
  return row;
}

void to_proto(const db::AttemptRow& row, v1::Attempt& attempt) {
  attempt.set_attempt(row.attempt);
  attempt.set_state(to_proto(row.state));
  attempt.set_worker(row.worker_name);
  attempt.set_device(row.device);
  attempt.set_threads(row.threads);
  attempt.set_failure_class(to_proto(row.failure_class));
  attempt.set_error(row.error);
  attempt.set_offered_at_ms(row.offered_at_ms);
  attempt.set_started_at_ms(row.started_at_ms);
  attempt.set_finished_at_ms(row.finished_at_ms);
  attempt.set_resumed_epoch(row.resumed_epoch);
}

void to_proto(const engine::Progress& progress, v1::Progress& out) {
  out.set_epoch(progress.epoch);
  out.set_epochs(progress.epochs);
  out.set_step(progress.step);
  out.set_steps(progress.steps);
  out.set_images_per_second(progress.images_per_second);
  if (progress.accuracy) out.set_accuracy(*progress.accuracy);
  if (progress.eta_seconds) out.set_eta_seconds(*progress.eta_seconds);
}

void to_proto(const core::WorkerInfo& info, v1::Worker& worker) {
  worker.set_worker_id(info.worker_id);
  worker.set_name(info.name);
  worker.set_connected(info.connected);
  worker.set_draining(info.draining);
  worker.set_last_seen_ms(info.last_seen_ms);
  worker.set_version(info.version);
  worker.set_shared_cores(info.shared_cores);
  worker.set_free_cores(info.free_cores);
  std::uint32_t index = 0;
  for (const core::SlotInfo& slot : info.slots) {
    v1::Slot& out = *worker.add_slots();
    out.set_slot(index++);
    out.set_device(slot.device);
    out.set_device_name(slot.device_name);
    out.set_memory_bytes(slot.memory_bytes);
    out.set_threads(slot.threads);
  }
  for (const core::DatasetInfo& dataset : info.datasets) {
    v1::Dataset& out = *worker.add_datasets();
    out.set_name(dataset.name);
    out.set_sha256(dataset.sha256.hex());
  }
}

std::string teacher_text(const db::JobRow& row, const std::vector<std::string>& names) {
  const std::vector<db::InputRow>& inputs = row.spec.inputs;
  std::vector<std::string> teachers;
  for (std::size_t begin = 0; begin < inputs.size();) {
    std::size_t end = begin + 1;
    while (inputs[begin].choice != 0 && end < inputs.size() &&
           inputs[end].choice == inputs[begin].choice) {
      ++end;
    }
    if (inputs[begin].role == InputRole::kTeacher) {
      const auto chosen = std::ranges::find_if(
          row.state.chosen, [&](std::size_t at) { return at >= begin && at < end; });
      if (inputs[begin].choice == 0) {
        teachers.push_back(names[begin]);
      } else if (chosen != row.state.chosen.end()) {
        teachers.push_back(names[*chosen]);
      } else {
        const std::size_t shown = std::min(end, begin + kCandidatesShown);
        const std::span all(names);
        teachers.push_back(
            fmt::format("best of {}", fmt::join(all.subspan(begin, shown - begin), ", ")));
        if (shown < end) teachers.back() += fmt::format(" and {} more", end - shown);
      }
    }
    begin = end;
  }
  return fmt::format("{}", fmt::join(teachers, ", "));
}

absl::StatusOr<v1::Job> job_view(const Context& context, const db::JobRow& row) {
  v1::Job job;
  job.set_job_id(number(row.spec.id));
  job.set_experiment_id(number(row.spec.experiment));
  job.set_name(row.spec.name);
  for (const std::string& alias : row.spec.aliases) job.add_aliases(alias);
  job.set_state(to_proto(row.state.state));
  job.set_model(row.spec.model);
  job.set_dataset(row.spec.dataset);
  job.set_method(row.spec.method);
  job.mutable_bits()->set_weights(row.spec.weight_bits);
  job.mutable_bits()->set_activations(row.spec.activation_bits);
  std::vector<std::string> names;
  for (const db::InputRow& input : row.spec.inputs) {
    std::string& from = names.emplace_back();
    if (input.parent) {
      BITRUNG_ASSIGN_OR_RETURN(from, context.reader.job_name(*input.parent));
      job.add_parents(from);
    } else {
      from = fmt::format("artifact:{}", input.artifact->hex());
    }
  }
  job.set_teacher(teacher_text(row, names));
  job.set_seed(row.spec.seed);
  job.set_epochs(row.spec.epochs);
  job.set_attempts(row.state.attempt);
  job.set_cached(row.state.cached_from.has_value());
  if (row.state.result) to_proto(*row.state.result, *job.mutable_result());
  job.set_error(row.state.error);
  job.set_failure_class(to_proto(row.state.failure_class));
  if (row.state.state == JobState::kRunning) {
    if (const auto progress = context.publisher.progress(row.spec.id);
        progress && progress->attempt == row.state.attempt) {
      to_proto(*progress, *job.mutable_progress());
    }
  }
  job.set_worker(row.worker);
  job.set_started_at_ms(row.state.started_at_ms);
  job.set_finished_at_ms(row.state.finished_at_ms);
  job.set_spec_json(row.spec.spec_json);
  job.set_changed_seq(row.changed_seq);
  job.set_priority(row.spec.priority);
  return job;
}

ExperimentState experiment_state(const db::ExperimentCounts& counts) {
  bool failed = false;
  bool cancelled = false;
  for (const auto& [state, count] : counts.jobs_by_state) {
    if (count == 0) continue;
    if (!is_terminal(state)) return ExperimentState::kActive;
    failed |= state == JobState::kFailed;
    cancelled |= state == JobState::kCancelled;
  }
  if (failed) return ExperimentState::kFailed;
  return cancelled ? ExperimentState::kCancelled : ExperimentState::kSucceeded;
}

absl::StatusOr<v1::Experiment> experiment_view(const Context& context,
                                               const db::ExperimentRow& row) {
  BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentCounts counts, context.reader.counts(row.id));
  v1::Experiment experiment;
  experiment.set_experiment_id(number(row.id));
  experiment.set_name(row.name);
  experiment.set_state(to_proto(experiment_state(counts)));
  experiment.set_submitted_at_ms(row.submitted_at_ms);
  experiment.set_submitted_by(row.submitted_by);
  experiment.set_finished_at_ms(row.finished_at_ms);
  for (const auto& [state, count] : counts.jobs_by_state) {
    (*experiment.mutable_jobs_by_state())[std::string(name(state))] = count;
  }
  experiment.set_job_count(counts.jobs);
  experiment.set_cached_count(counts.cached);
  return experiment;
}

absl::StatusOr<db::JobRow> find_job(const Context& context, const v1::JobReference& reference) {
  BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow experiment,
                           context.reader.experiment(reference.experiment()));
  return context.reader.job(experiment.id, reference.job());
}

absl::StatusOr<std::string> report_of(const Context& context, const db::JobRow& job) {
  const std::int64_t experiment = number(job.spec.experiment);
  if (job.state.state != JobState::kSucceeded) {
    return absl::FailedPreconditionError(fmt::format(
        "{0} is {1}; a job has a report when it has succeeded: bitrung {2} {3}{4}", job.spec.name,
        name(job.state.state), is_terminal(job.state.state) ? "retry" : "wait", experiment,
        is_terminal(job.state.state) ? "/" + job.spec.name : std::string()));
  }
  BITRUNG_ASSIGN_OR_RETURN(std::optional<std::string> report, context.reader.report(job.spec.id));
  if (!report) {
    return absl::NotFoundError(
        fmt::format("{0} has no report: the trainer that made it sent none, because it is older or "
                    "because the report was larger than {1} KiB; an entry with `evaluate: {0}` "
                    "measures the network again",
                    job.spec.name, kReportBytesMax >> 10));
  }
  return *std::move(report);
}

}  // namespace bitrung::rpc
