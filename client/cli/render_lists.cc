#include "client/cli/render_lists.h"

#include <fmt/format.h>

#include <map>

#include "client/cli/json_shapes.h"
#include "client/cli/render_results.h"
#include "client/cli/words.h"

namespace bitrung::cli {
namespace {

constexpr std::size_t kErrorWidthMax = 100;

std::uint32_t count_of(const v1::Experiment& experiment, const std::string& state) {
  const auto found = experiment.jobs_by_state().find(state);
  return found == experiment.jobs_by_state().end() ? 0 : found->second;
}

std::string number_or_empty(bool has, double value) {
  return has ? fmt::format("{}", value) : std::string();
}

std::string time_or_empty(std::int64_t time_ms) {
  return time_ms == 0 ? std::string() : fmt::format("{}", time_ms);
}

// What is worth knowing about the job beyond its columns: why it failed, or what it waits for.
std::string remark(const v1::Job& job, const Style& style) {
  if (job.state() == v1::JOB_STATE_FAILED)
    return fit(printable(job.error()), kErrorWidthMax, style);
  if (job.state() == v1::JOB_STATE_BLOCKED && !job.parents().empty()) {
    return fit(
        fmt::format(
            "needs {}",
            join(std::vector<std::string>(job.parents().begin(), job.parents().end()), ", ")),
        kErrorWidthMax, style);
  }
  // A job that runs or waits again after a failure.
  if (!is_terminal(job.state()) && !job.error().empty()) {
    return fit(fmt::format("before: {}", printable(job.error())), kErrorWidthMax, style);
  }
  return {};
}

std::string epochs_text(const v1::Job& job) {
  if (job.state() == v1::JOB_STATE_RUNNING && job.has_progress()) {
    return fmt::format("{}/{}", job.progress().epoch(), job.progress().epochs());
  }
  return fmt::format("{}", job.epochs());
}

std::string time_text(const v1::Job& job, const Style& style) {
  if (job.state() == v1::JOB_STATE_RUNNING && job.progress().has_eta_seconds()) {
    return format_duration(job.progress().eta_seconds()) + " left";
  }
  if (job.state() == v1::JOB_STATE_SUCCEEDED && job.has_result()) {
    return format_duration(job.result().duration_seconds());
  }
  return std::string(style.none());
}

std::string accuracy_text(const v1::Job& job, const Style& style) {
  if (job.result().has_test_accuracy()) return format_percent(job.result().test_accuracy());
  if (job.state() == v1::JOB_STATE_RUNNING && job.progress().has_accuracy()) {
    return format_percent(job.progress().accuracy());
  }
  return std::string(style.none());
}

std::string status_text(const v1::Experiment& experiment, const std::vector<v1::Job>& jobs,
                        const Style& style) {
  std::string out =
      fmt::format("{}  {}  {}\n\n",
                  style.paint(Tone::kStrong,
                              fmt::format("{} #{}", experiment.name(), experiment.experiment_id())),
                  style.paint(tone_of(experiment.state()), state_name(experiment.state())),
                  style.paint(Tone::kFaint, count_line(experiment)));
  Table table({{"job", Align::kLeft},
               {"state", Align::kLeft},
               {"bits", Align::kRight},
               {"epochs", Align::kRight},
               {"accuracy", Align::kRight},
               {"time", Align::kRight},
               {"attempts", Align::kRight},
               {"worker", Align::kLeft},
               {"", Align::kLeft}});
  for (const v1::Job& job : jobs) {
    table.add_row({job.name(), Cell(shown_state(job), tone_of(job.state())), bits_label(job.bits()),
                   epochs_text(job), accuracy_text(job, style), time_text(job, style),
                   fmt::format("{}", job.attempts()),
                   job.worker().empty() ? std::string(style.none()) : printable(job.worker()),
                   Cell(remark(job, style),
                        job.state() == v1::JOB_STATE_FAILED ? Tone::kBad : Tone::kFaint)});
    for (const std::string& alias : job.aliases()) {
      table.add_row({Cell(fmt::format("  also {}", alias), Tone::kFaint)});
    }
  }
  out += table.text(style);
  const std::string id = experiment_argument(experiment);
  if (!is_terminal(experiment.state())) {
    out += fmt::format("\nnext: bitrung watch {0}   bitrung explain {0}/JOB\n", id);
  } else if (experiment.state() == v1::EXPERIMENT_STATE_SUCCEEDED) {
    out += fmt::format("\nnext: bitrung results {}\n", id);
  } else {
    out += fmt::format("\nnext: bitrung results {0}   bitrung retry {0}\n", id);
  }
  return out;
}

std::string status_tsv(const std::vector<v1::Job>& jobs) {
  std::string out = tsv_line({"job",
                              "state",
                              "cached",
                              "model",
                              "dataset",
                              "method",
                              "weight_bits",
                              "activation_bits",
                              "seed",
                              "epoch",
                              "epochs",
                              "test_accuracy",
                              "validation_accuracy",
                              "duration_seconds",
                              "images_per_second",
                              "attempts",
                              "worker",
                              "started_at_ms",
                              "finished_at_ms",
                              "aliases",
                              "parents",
                              "error"});
  for (const v1::Job& job : jobs) {
    const v1::JobResult& result = job.result();
    out +=
        tsv_line({job.name(),
                  state_name(job.state()),
                  job.cached() ? "true" : "false",
                  job.model(),
                  job.dataset(),
                  job.method(),
                  fmt::format("{}", job.bits().weights()),
                  fmt::format("{}", job.bits().activations()),
                  fmt::format("{}", job.seed()),
                  job.has_progress() ? fmt::format("{}", job.progress().epoch()) : "",
                  fmt::format("{}", job.epochs()),
                  number_or_empty(result.has_test_accuracy(), result.test_accuracy()),
                  number_or_empty(result.has_validation_accuracy(), result.validation_accuracy()),
                  number_or_empty(job.has_result(), result.duration_seconds()),
                  number_or_empty(job.has_result(), result.images_per_second()),
                  fmt::format("{}", job.attempts()),
                  job.worker(),
                  time_or_empty(job.started_at_ms()),
                  time_or_empty(job.finished_at_ms()),
                  join(std::vector<std::string>(job.aliases().begin(), job.aliases().end()), ","),
                  join(std::vector<std::string>(job.parents().begin(), job.parents().end()), ","),
                  job.error()});
  }
  return out;
}

std::string worker_state(const v1::Worker& worker) {
  if (!worker.connected()) return "away";
  return worker.draining() ? "draining" : "connected";
}

// "2 x cpu, 4 x cuda (NVIDIA H200)": equal devices are counted. "8 cpu cores, 3 free" where slots
// share them.
std::string slots_text(const v1::Worker& worker) {
  if (worker.shared_cores() > 0) {
    return fmt::format("{} cpu core{}{}", worker.shared_cores(),
                       worker.shared_cores() == 1 ? "" : "s",
                       worker.connected() ? fmt::format(", {} free", worker.free_cores()) : "");
  }
  std::map<std::string, int> counts;
  for (const v1::Slot& slot : worker.slots()) {
    const std::string kind = slot.device().substr(0, slot.device().find(':'));
    ++counts[slot.device_name().empty() || kind == "cpu"
                 ? kind
                 : fmt::format("{} ({})", kind, printable(slot.device_name()))];
  }
  std::vector<std::string> parts;
  for (const auto& [kind, count] : counts) parts.push_back(fmt::format("{} x {}", count, kind));
  return join(parts, ", ");
}

std::string dataset_names(const v1::Worker& worker, std::string_view separator) {
  std::vector<std::string> names;
  for (const v1::Dataset& dataset : worker.datasets()) names.push_back(dataset.name());
  return join(names, separator);
}

}  // namespace

std::string render_experiments(const std::vector<v1::Experiment>& experiments, OutputMode mode,
                               const Style& style, std::int64_t now_ms) {
  if (mode == OutputMode::kJson) {
    Json json;
    json["experiments"] = Json::array();
    for (const v1::Experiment& experiment : experiments) {
      json["experiments"].push_back(experiment_json(experiment));
    }
    return json_text(json);
  }
  if (mode == OutputMode::kTsv) {
    std::string out =
        tsv_line({"experiment_id", "experiment", "state", "jobs", "succeeded", "cached", "failed",
                  "running", "submitted_at_ms", "finished_at_ms"});
    for (const v1::Experiment& experiment : experiments) {
      out += tsv_line({fmt::format("{}", experiment.experiment_id()), experiment.name(),
                       state_name(experiment.state()), fmt::format("{}", experiment.job_count()),
                       fmt::format("{}", count_of(experiment, "succeeded")),
                       fmt::format("{}", experiment.cached_count()),
                       fmt::format("{}", count_of(experiment, "failed")),
                       fmt::format("{}", count_of(experiment, "running")),
                       time_or_empty(experiment.submitted_at_ms()),
                       time_or_empty(experiment.finished_at_ms())});
    }
    return out;
  }
  if (experiments.empty()) return "no experiment yet; next: bitrung run FILE\n";
  Table table({{"#", Align::kRight},
               {"experiment", Align::kLeft},
               {"state", Align::kLeft},
               {"done", Align::kRight},
               {"cached", Align::kRight},
               {"failed", Align::kRight},
               {"submitted", Align::kLeft}});
  for (const v1::Experiment& experiment : experiments) {
    const std::uint32_t failed = count_of(experiment, "failed");
    table.add_row({fmt::format("{}", experiment.experiment_id()), experiment.name(),
                   Cell(state_name(experiment.state()), tone_of(experiment.state())),
                   fmt::format("{}/{}", count_of(experiment, "succeeded"), experiment.job_count()),
                   fmt::format("{}", experiment.cached_count()),
                   Cell(fmt::format("{}", failed), failed > 0 ? Tone::kBad : Tone::kPlain),
                   format_age(now_ms, experiment.submitted_at_ms())});
  }
  return table.text(style) + fmt::format("\nnext: bitrung status {0}   bitrung results {0}\n",
                                         experiment_argument(experiments.front()));
}

std::string render_status(const v1::Experiment& experiment, const std::vector<v1::Job>& jobs,
                          OutputMode mode, const Style& style) {
  switch (mode) {
    case OutputMode::kText:
      return status_text(experiment, jobs, style);
    case OutputMode::kTsv:
      return status_tsv(jobs);
    case OutputMode::kJson:
      break;
  }
  Json json = experiment_json(experiment);
  json["jobs"] = Json::array();
  for (const v1::Job& job : jobs) json["jobs"].push_back(status_job_json(job));
  return json_text(json);
}

std::string render_workers(const std::vector<v1::Worker>& workers, OutputMode mode,
                           const Style& style, std::int64_t now_ms) {
  if (mode == OutputMode::kJson) {
    Json json;
    json["workers"] = Json::array();
    for (const v1::Worker& worker : workers) json["workers"].push_back(worker_json(worker));
    return json_text(json);
  }
  if (mode == OutputMode::kTsv) {
    std::string out = tsv_line(
        {"worker_id", "name", "state", "slots", "datasets", "jobs", "last_seen_ms", "version"});
    for (const v1::Worker& worker : workers) {
      out +=
          tsv_line({worker.worker_id(), worker.name(), worker_state(worker),
                    fmt::format("{}", worker.slots_size()), dataset_names(worker, ","),
                    join(std::vector<std::string>(worker.jobs().begin(), worker.jobs().end()), ","),
                    time_or_empty(worker.last_seen_ms()), worker.version()});
    }
    return out;
  }
  if (workers.empty()) {
    return "no worker has connected yet; start one: bitrung-worker --server ADDRESS --state-dir "
           "DIR\n";
  }
  Table table({{"worker", Align::kLeft},
               {"state", Align::kLeft},
               {"slots", Align::kLeft},
               {"jobs", Align::kLeft},
               {"data sets", Align::kLeft},
               {"last seen", Align::kLeft},
               {"version", Align::kLeft}});
  for (const v1::Worker& worker : workers) {
    const Tone tone = !worker.connected() ? Tone::kFaint
                      : worker.draining() ? Tone::kWarning
                                          : Tone::kGood;
    const std::string jobs =
        join(std::vector<std::string>(worker.jobs().begin(), worker.jobs().end()), ", ");
    const std::string datasets = dataset_names(worker, ", ");
    table.add_row({printable(worker.name()), Cell(worker_state(worker), tone), slots_text(worker),
                   jobs.empty() ? std::string(style.none()) : jobs,
                   datasets.empty() ? std::string(style.none()) : datasets,
                   worker.connected() ? "now" : format_age(now_ms, worker.last_seen_ms()),
                   printable(worker.version())});
  }
  return table.text(style);
}

std::string render_explanation(const v1::JobReference& job,
                               const v1::ExplainJobResponse& explanation, OutputMode mode,
                               const Style& style) {
  const std::string state = state_name(explanation.state());
  if (mode == OutputMode::kJson) {
    Json json;
    json["experiment"] = job.experiment();
    json["job"] = job.job();
    json["state"] = state;
    json["lines"] = Json::array();
    for (const std::string& line : explanation.lines()) json["lines"].push_back(line);
    return json_text(json);
  }
  if (mode == OutputMode::kTsv) {
    std::string out = tsv_line({"state", "line"});
    for (const std::string& line : explanation.lines()) out += tsv_line({state, line});
    return out;
  }
  std::string out = fmt::format("{}/{} is {}\n", job.experiment(), job.job(),
                                style.paint(tone_of(explanation.state()), state));
  for (const std::string& line : explanation.lines()) {
    out += fmt::format("  {}\n", printable(line));
  }
  return out;
}

}  // namespace bitrung::cli
