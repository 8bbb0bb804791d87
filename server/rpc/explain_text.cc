#include "server/rpc/explain_text.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "db/base/status.h"
#include "server/rpc/planner.h"
#include "server/rpc/report.h"

namespace bitrung::rpc {
namespace {

// Of the jobs that have a worker's cores.
constexpr std::size_t kGrantsShown = 4;

std::string seconds(std::chrono::milliseconds time) {
  return fmt::format("{:.0f} s", static_cast<double>(time.count()) / 1000);
}

std::string gibibytes(std::uint64_t bytes) {
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1024.0 * 1024 * 1024));
}

class Explainer {
 public:
  Explainer(db::StoreReader& reader, const db::JobRow& job) : reader_(reader), job_(job) {}

  absl::StatusOr<std::vector<std::string>> run(const std::vector<core::Reason>& reasons) {
    for (const core::Reason& reason : reasons) {
      BITRUNG_ASSIGN_OR_RETURN(
          std::string line, std::visit([this](const auto& value) { return text(value); }, reason));
      lines_.push_back(std::move(line));
    }
    BITRUNG_RETURN_IF_ERROR(add_chosen_teachers());
    BITRUNG_RETURN_IF_ERROR(add_computation());
    for (const std::string& advice : advice_) lines_.push_back(advice);
    if (!job_.state.error.empty() && job_.state.state != JobState::kFailed) {
      lines_.push_back(fmt::format("its last attempt ended as {}: {}",
                                   name(job_.state.failure_class), job_.state.error));
    }
    return std::move(lines_);
  }

 private:
  using Line = absl::StatusOr<std::string>;

  // "experiment/job" for a job of another experiment, the name alone within this one.
  Line display(JobId id) {
    BITRUNG_ASSIGN_OR_RETURN(const db::JobRow row, reader_.job(id));
    if (row.spec.experiment == job_.spec.experiment) return row.spec.name;
    BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow experiment,
                             reader_.experiment(row.spec.experiment));
    return fmt::format("{} (experiment {})/{}", experiment.name, number(experiment.id),
                       row.spec.name);
  }

  Line text(const core::WaitsForParent& reason) {
    BITRUNG_ASSIGN_OR_RETURN(const std::string parent, display(reason.parent));
    return fmt::format("waits for {}, which is {}", parent, name(reason.state));
  }
  Line text(const core::WaitsForCandidates& reason) {
    BITRUNG_ASSIGN_OR_RETURN(const std::string first, display(reason.first));
    return fmt::format("waits for {} of {} candidates for its teacher{} {}, which is {}",
                       reason.undecided, reason.candidates,
                       reason.undecided == 1 ? ":" : ", the first is", first, name(reason.state));
  }
  Line text(const core::WaitsForEqualJob& reason) {
    BITRUNG_ASSIGN_OR_RETURN(const std::string other, display(reason.job));
    return fmt::format("an equal job is at work, {}; its result will be taken", other);
  }
  Line text(const core::WaitsForRetry& reason) {
    return fmt::format("retry {} of {} begins in {}", reason.retries_used, reason.retries,
                       seconds(reason.remaining));
  }
  Line text(const core::NoWorkerConnected&) {
    advice_.insert("start one: bitrung-worker --server ADDRESS --state-dir DIR");
    return "no worker is connected";
  }
  Line text(const core::WorkerDoesNotFit& reason) {
    using Reason = core::WorkerDoesNotFit::Reason;
    switch (reason.reason) {
      case Reason::kDraining:
        advice_.insert(fmt::format("give it jobs again: bitrung drain {} --off", reason.worker));
        return fmt::format("worker {} is draining", reason.worker);
      case Reason::kStopping:
        return fmt::format("worker {} is stopping", reason.worker);
      case Reason::kNoDataset:
        advice_.insert(fmt::format(
            "on the worker: bitrung data fetch {0}, or start it with --data-dir DIR where {0} lies",
            reason.dataset));
        return fmt::format("worker {} does not have {}", reason.worker, reason.dataset);
      case Reason::kOtherDataset:
        return fmt::format(
            "worker {} has another copy of {}: {} there, the experiment began with {}",
            reason.worker, reason.dataset,
            reason.present ? reason.present->hex().substr(0, 12) : "none",
            reason.wanted ? reason.wanted->hex().substr(0, 12) : "none");
      case Reason::kMemory:
        return fmt::format("worker {} has no slot with {} (its largest device has {})",
                           reason.worker, gibibytes(reason.memory_wanted),
                           gibibytes(reason.memory_present));
      case Reason::kNumerics:
        return fmt::format("worker {} computes with another numerics version than this job wants",
                           reason.worker);
      case Reason::kBusy:
        return fmt::format("worker {} fits, but all its slots are busy", reason.worker);
    }
    return absl::InternalError("unknown reason");
  }
  Line text(const core::QueuedBehind& reason) {
    return reason.jobs == 0 ? std::string("it is the next to get a slot")
                            : fmt::format("{} ready job{} come{} first", reason.jobs,
                                          reason.jobs == 1 ? "" : "s", reason.jobs == 1 ? "s" : "");
  }
  Line text(const core::CoresTaken& reason) {
    std::vector<std::string> grants;
    for (const auto& [job, cores] : reason.grants) {
      if (grants.size() == kGrantsShown) {
        grants.push_back(
            fmt::format("{} more jobs the others", reason.grants.size() - kGrantsShown));
        break;
      }
      BITRUNG_ASSIGN_OR_RETURN(const std::string name, display(job));
      grants.push_back(fmt::format("{} has {}", name, cores));
    }
    return fmt::format("worker {} shares {} cores: {}", reason.worker, reason.shared_cores,
                       fmt::join(grants, ", "));
  }
  // Why it has that many cores; nothing where the worker's slots decide.
  static std::string text(const core::Width& width) {
    if (width.shared_cores <= 1) return {};
    if (width.threads >= width.shared_cores) {
      return fmt::format(" with all its {} cores: no other job waited for them",
                         width.shared_cores);
    }
    return fmt::format(
        " with {} of its {} cores: those that were free were divided among the jobs that waited",
        width.threads, width.shared_cores);
  }
  Line text(const core::IsOffered& reason) {
    return fmt::format("attempt {} is offered to worker {}{}", reason.attempt, reason.worker,
                       text(reason.width));
  }
  Line text(const core::IsRunning& reason) {
    if (reason.connected)
      return fmt::format("attempt {} runs on worker {}{}", reason.attempt, reason.worker,
                         text(reason.width));
    return fmt::format(
        "attempt {} ran on worker {}, which is away; it is given up in {} unless the worker comes "
        "back",
        reason.attempt, reason.worker, seconds(reason.lease_remaining));
  }
  Line text(const core::IsSkipped& reason) {
    BITRUNG_ASSIGN_OR_RETURN(const std::string because, display(reason.because));
    BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow experiment,
                             reader_.experiment(job_.spec.experiment));
    BITRUNG_ASSIGN_OR_RETURN(const db::JobRow cause, reader_.job(reason.because));
    advice_.insert(fmt::format("run both again: bitrung retry {} {}", experiment.name, because));
    return fmt::format("skipped, because {} is {}", because, name(cause.state.state));
  }
  Line text(const core::HasEnded& reason) {
    if (reason.cached_from) {
      BITRUNG_ASSIGN_OR_RETURN(const std::string original, display(*reason.cached_from));
      return fmt::format("cached: the result of {} was taken", original);
    }
    if (job_.state.state == JobState::kSucceeded) {
      BITRUNG_ASSIGN_OR_RETURN(const std::string why, why_not_cached());
      return fmt::format("succeeded in attempt {}{}", job_.state.attempt, why);
    }
    if (job_.state.state == JobState::kFailed) {
      return fmt::format("failed after {} attempt{} as {}: {}", job_.state.attempt,
                         job_.state.attempt == 1 ? "" : "s", name(job_.state.failure_class),
                         job_.state.error);
    }
    return std::string(name(job_.state.state));
  }

  // What its result was computed with.
  absl::Status add_computation() {
    if (job_.state.state != JobState::kSucceeded) return absl::OkStatus();
    BITRUNG_ASSIGN_OR_RETURN(const auto report, reader_.report(job_.spec.id));
    if (!report) return absl::OkStatus();
    if (std::string line = computation_text(*report); !line.empty()) {
      lines_.push_back(std::move(line));
    }
    return absl::OkStatus();
  }

  // Which candidates were taken, and by what.
  absl::Status add_chosen_teachers() {
    const std::vector<db::InputRow>& inputs = job_.spec.inputs;
    for (const std::uint32_t position : job_.state.chosen) {
      const db::InputRow& taken = inputs.at(position);
      const auto candidates = std::ranges::count(inputs, taken.choice, &db::InputRow::choice);
      BITRUNG_ASSIGN_OR_RETURN(const db::JobRow teacher, reader_.job(taken.parent.value()));
      const std::optional<double> accuracy =
          teacher.state.result ? teacher.state.result->validation_accuracy : std::nullopt;
      lines_.push_back(fmt::format(
          "its teacher is {}, the best of {} candidates{}", teacher.spec.name, candidates,
          accuracy ? fmt::format(" with {:.2f} % on the validation images", *accuracy)
                   : std::string()));
    }
    return absl::OkStatus();
  }

  // It was trained although something similar had been recorded before: the first option that
  // differs.
  absl::StatusOr<std::string> why_not_cached() {
    BITRUNG_ASSIGN_OR_RETURN(const auto similar,
                             reader_.succeeded_like(job_.spec.model, job_.spec.dataset, 64));
    const db::JobRow* nearest = nullptr;
    std::size_t fewest = 0;
    std::string difference;
    for (const db::JobRow& other : similar) {
      if (number(other.spec.experiment) >= number(job_.spec.experiment)) continue;
      if ((other.spec.epochs == 0) != (job_.spec.epochs == 0)) continue;  // Another kind of job.
      std::size_t count = 0;
      std::string first = first_difference(other.spec.spec_json, job_.spec.spec_json, &count);
      if (nearest != nullptr && count >= fewest) continue;
      nearest = &other;
      fewest = count;
      difference = count == 0 ? "another teacher, start or copy of the data set" : std::move(first);
    }
    if (nearest == nullptr) return std::string();
    BITRUNG_ASSIGN_OR_RETURN(const std::string there, display(nearest->spec.id));
    return fmt::format("; not cached, the nearest earlier job is {}: {}", there, difference);
  }

  db::StoreReader& reader_;
  const db::JobRow& job_;
  std::vector<std::string> lines_;
  std::set<std::string> advice_;  // Each once.
};

}  // namespace

absl::StatusOr<std::vector<std::string>> explain_text(db::StoreReader& reader,
                                                      const db::JobRow& job,
                                                      const std::vector<core::Reason>& reasons) {
  return Explainer(reader, job).run(reasons);
}

}  // namespace bitrung::rpc
