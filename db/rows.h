// What the server keeps, as plain rows: one struct per table, the columns a caller needs. No SQLite
// here. Times are wall-clock milliseconds since 1970 and only for people; 0 means "not yet".
// Accuracies are percent.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "db/base/digest.h"
#include "db/words.h"

namespace bitrung::db {

struct ExperimentRow {
  ExperimentId id{};
  std::string name;
  std::string request_id;
  Digest request_sha256;  // Over the whole request; tells a repeated submit from a different one.
  Digest graph_sha256;    // Over names, options and inputs only; equal for equal graphs.
  std::string source_yaml;
  std::int64_t submitted_at_ms = 0;
  std::int64_t finished_at_ms = 0;
  std::string submitted_by;  // Name of a token, or "owner".

  bool operator==(const ExperimentRow&) const = default;
};

struct InputRow {
  InputRole role{};
  std::optional<JobId> parent;  // Exactly one of the two is set.
  std::optional<Digest> artifact;
  // Inputs with the same number above 0 are candidates of which the best one is taken.
  std::uint32_t choice = 0;

  bool operator==(const InputRow&) const = default;
};

// What never changes about a job.
struct JobSpecRow {
  JobId id{};
  ExperimentId experiment{};
  std::string name;
  std::vector<std::string> aliases;
  // Every option, canonical JSON. What is written may have a part of them in `shared_spec`, which
  // many jobs point to (db/base/shared_spec.h); what was read has none.
  std::string spec_json;
  std::shared_ptr<const std::string> shared_spec;
  Digest spec_sha256;  // Of the whole.
  std::string model;
  std::string dataset;
  std::string method;
  std::uint32_t weight_bits = 32;
  std::uint32_t activation_bits = 32;
  std::uint64_t seed = 0;
  std::uint32_t epochs = 0;
  std::uint32_t numerics = 0;
  std::uint32_t retries = 0;
  double timeout_seconds = 0;
  std::int32_t priority = 0;
  std::uint32_t devices = 1;
  std::uint64_t memory_bytes = 0;
  double estimated_flops = 0;
  std::vector<InputRow> inputs;

  bool operator==(const JobSpecRow&) const = default;
};

// Final numbers.
struct ResultRow {
  std::optional<double> test_accuracy;
  std::optional<double> validation_accuracy;
  std::optional<double> test_loss;
  std::uint32_t best_epoch = 0;
  double duration_seconds = 0;
  double images_per_second = 0;
  Digest artifact;

  bool operator==(const ResultRow&) const = default;
};

// What changes about a job.
struct JobStateRow {
  JobId id{};
  JobState state = JobState::kBlocked;
  std::uint32_t attempt = 0;  // Number of the latest attempt; 0 before the first.
  std::uint32_t retries_used = 0;
  std::uint32_t losses = 0;        // Attempts that ended without using up a retry.
  std::optional<Digest> identity;  // Known once the data set is pinned.
  std::optional<JobId> cached_from;
  std::optional<ResultRow> result;  // Set exactly when succeeded.
  FailureClass failure_class = FailureClass::kNone;
  std::string error;
  std::optional<Digest> resume;  // Newest resume state.
  std::uint32_t resume_epoch = 0;
  std::int64_t started_at_ms = 0;
  std::int64_t finished_at_ms = 0;
  // Positions in JobSpecRow::inputs of the candidates that were taken, rising. None is taken back.
  std::vector<std::uint32_t> chosen;

  bool operator==(const JobStateRow&) const = default;
};

struct JobRow {
  JobSpecRow spec;
  JobStateRow state;
  std::string worker;  // Name of the latest attempt's worker; empty before the first.
  std::int64_t changed_seq = 0;

  bool operator==(const JobRow&) const = default;
};

struct AttemptRow {
  JobId job{};
  std::uint32_t attempt = 0;
  AttemptState state = AttemptState::kOffered;
  std::string worker_id;
  std::string worker_name;
  std::uint32_t slot = 0;
  std::string device;
  std::uint32_t threads = 0;
  FailureClass failure_class = FailureClass::kNone;
  std::string error;
  std::int64_t offered_at_ms = 0;
  std::int64_t started_at_ms = 0;
  std::int64_t finished_at_ms = 0;
  std::uint32_t resumed_epoch = 0;

  bool operator==(const AttemptRow&) const = default;
};

// The digest a data set must have for the jobs of one experiment.
struct PinRow {
  ExperimentId experiment{};
  std::string dataset;
  Digest sha256;

  bool operator==(const PinRow&) const = default;
};

struct WorkerRow {
  std::string id;
  std::string name;
  std::string version;
  bool draining = false;
  std::int64_t last_seen_ms = 0;
  std::string inventory_json;  // Slots and data sets when last connected, for people.

  bool operator==(const WorkerRow&) const = default;
};

struct PointRow {
  std::string series;
  std::int64_t step = 0;
  double value = 0;

  bool operator==(const PointRow&) const = default;
};

struct LogRow {
  std::uint32_t attempt = 0;
  std::uint64_t line = 0;
  std::int64_t time_ms = 0;
  std::string text;

  bool operator==(const LogRow&) const = default;
};

// The numbers of a report's final evaluation on the test set, accuracies in percent, and what it
// was computed with.
struct EvaluationRow {
  JobId job{};
  std::string backend;         // Empty if the report does not say.
  std::string backend_reason;  // Why not another one; empty for none.
  std::optional<double> top1;
  std::optional<double> top5;
  std::optional<double> nll;
  std::optional<double> brier;
  std::optional<double> ece;

  bool operator==(const EvaluationRow&) const = default;
};

// One metric of one attempt.
struct SeriesRow {
  JobId job{};
  std::uint32_t attempt = 0;
  std::string name;
  std::uint64_t point_count = 0;
  std::int64_t first_step = 0;
  std::int64_t last_step = 0;
  double min = 0;
  double max = 0;
  double last = 0;
  std::vector<std::pair<std::int64_t, double>>
      points;  // By arrival; empty where only summaries are asked for.

  bool operator==(const SeriesRow&) const = default;
};

// Numbers of jobs per state, for lists.
struct ExperimentCounts {
  std::vector<std::pair<JobState, std::uint32_t>> jobs_by_state;  // States that occur.
  std::uint32_t jobs = 0;
  std::uint32_t cached = 0;

  bool operator==(const ExperimentCounts&) const = default;
};

// Everything the core needs to go on after a restart.
struct Snapshot {
  struct Job {
    JobSpecRow spec;  // spec_json, aliases left empty: the core does not need them.
    JobStateRow state;
    std::optional<AttemptRow> live_attempt;  // The latest attempt if offered or running.
  };
  std::vector<Job> jobs;  // By id.
  std::vector<PinRow> pins;
  std::vector<WorkerRow> workers;
  std::int64_t next_experiment_id = 1;
  std::int64_t next_job_id = 1;
};

}  // namespace bitrung::db
