#include "client/cli/json_shapes.h"

#include "client/cli/words.h"

namespace bitrung::cli {
namespace {

Json time_or_null(std::int64_t time_ms) {
  return time_ms == 0 ? Json(nullptr) : Json(time_ms);
}

}  // namespace

Json text_or_null(const std::string& text) {
  return text.empty() ? Json(nullptr) : Json(text);
}

Json result_job_json(const v1::Job& job) {
  const v1::JobResult& result = job.result();
  const bool done = job.has_result();
  Json json;
  json["name"] = job.name();
  json["aliases"] = strings(job.aliases());
  json["state"] = state_name(job.state());
  json["model"] = job.model();
  json["dataset"] = job.dataset();
  json["method"] = job.method();
  json["bits"] = {{"weights", job.bits().weights()}, {"activations", job.bits().activations()}};
  json["teacher"] = text_or_null(job.teacher());
  json["seed"] = job.seed();
  json["epochs"] = job.epochs();
  json["attempts"] = job.attempts();
  json["cached"] = job.cached();
  json["test_accuracy"] = result.has_test_accuracy() ? Json(result.test_accuracy()) : Json(nullptr);
  json["validation_accuracy"] =
      result.has_validation_accuracy() ? Json(result.validation_accuracy()) : Json(nullptr);
  json["test_loss"] = result.has_test_loss() ? Json(result.test_loss()) : Json(nullptr);
  json["duration_seconds"] = done ? Json(result.duration_seconds()) : Json(nullptr);
  json["images_per_second"] = done ? Json(result.images_per_second()) : Json(nullptr);
  json["artifact_sha256"] = text_or_null(result.artifact_sha256());
  json["error"] = text_or_null(job.error());
  json["backend"] = text_or_null(job.backend());
  json["backend_reason"] = text_or_null(job.backend_reason());
  return json;
}

Json status_job_json(const v1::Job& job) {
  Json json = result_job_json(job);
  json.erase("backend");  // Only where results are asked for.
  json.erase("backend_reason");
  json["job_id"] = job.job_id();
  json["parents"] = strings(job.parents());
  json["priority"] = job.priority();
  json["worker"] = text_or_null(job.worker());
  json["failure_class"] = text_or_null(failure_name(job.failure_class()));
  json["started_at_ms"] = time_or_null(job.started_at_ms());
  json["finished_at_ms"] = time_or_null(job.finished_at_ms());
  json["progress"] = nullptr;
  if (job.has_progress()) {
    const v1::Progress& progress = job.progress();
    json["progress"] = {
        {"epoch", progress.epoch()},
        {"epochs", progress.epochs()},
        {"step", progress.step()},
        {"steps", progress.steps()},
        {"images_per_second", progress.images_per_second()},
        {"accuracy", progress.has_accuracy() ? Json(progress.accuracy()) : Json(nullptr)},
        {"eta_seconds", progress.has_eta_seconds() ? Json(progress.eta_seconds()) : Json(nullptr)}};
  }
  return json;
}

Json experiment_json(const v1::Experiment& experiment) {
  Json json;
  json["experiment_id"] = experiment.experiment_id();
  json["experiment"] = experiment.name();
  json["state"] = state_name(experiment.state());
  json["submitted_at_ms"] = experiment.submitted_at_ms();
  json["submitted_by"] = experiment.submitted_by();
  json["finished_at_ms"] = time_or_null(experiment.finished_at_ms());
  json["job_count"] = experiment.job_count();
  json["cached_count"] = experiment.cached_count();
  // Every state, in the order of a job's life, so that readers need no default.
  Json counts = Json::object();
  for (int value = v1::JobState_MIN; value <= v1::JobState_MAX; ++value) {
    if (value == v1::JOB_STATE_UNSPECIFIED || !v1::JobState_IsValid(value)) continue;
    const std::string name = state_name(static_cast<v1::JobState>(value));
    const auto found = experiment.jobs_by_state().find(name);
    counts[name] = found == experiment.jobs_by_state().end() ? 0U : found->second;
  }
  json["jobs_by_state"] = counts;
  return json;
}

Json worker_json(const v1::Worker& worker) {
  Json json;
  json["worker_id"] = worker.worker_id();
  json["name"] = worker.name();
  json["connected"] = worker.connected();
  json["draining"] = worker.draining();
  json["version"] = worker.version();
  json["last_seen_ms"] = time_or_null(worker.last_seen_ms());
  Json slots = Json::array();
  for (const v1::Slot& slot : worker.slots()) {
    slots.push_back({{"slot", slot.slot()},
                     {"device", slot.device()},
                     {"device_name", slot.device_name()},
                     {"memory_bytes", slot.memory_bytes()},
                     {"threads", slot.threads()}});
  }
  json["slots"] = slots;
  json["shared_cores"] = worker.shared_cores();
  json["free_cores"] = worker.free_cores();
  Json datasets = Json::array();
  for (const v1::Dataset& dataset : worker.datasets()) {
    datasets.push_back({{"name", dataset.name()}, {"sha256", dataset.sha256()}});
  }
  json["datasets"] = datasets;
  json["jobs"] = strings(worker.jobs());
  return json;
}

Json series_json(const v1::Series& series) {
  Json json;
  json["job"] = series.job();
  json["name"] = series.name();
  json["point_count"] = series.point_count();
  Json buckets = Json::array();
  for (const v1::Bucket& bucket : series.buckets()) {
    buckets.push_back({{"step", bucket.step()},
                       {"min", bucket.min()},
                       {"max", bucket.max()},
                       {"last", bucket.last()},
                       {"count", bucket.count()}});
  }
  json["buckets"] = buckets;
  return json;
}

Json log_line_json(const v1::LogLine& line) {
  return {{"attempt", line.attempt()},
          {"line", line.line()},
          {"time_ms", line.time_ms()},
          {"text", line.text()}};
}

std::string json_text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string json_line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace bitrung::cli
