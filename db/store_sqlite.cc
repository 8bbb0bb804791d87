#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "db/base/check.h"
#include "db/base/files.h"
#include "db/base/status.h"
#include "db/job_columns.h"
#include "db/job_counter.h"
#include "db/points_text.h"
#include "db/schema.h"
#include "db/sqlite.h"
#include "db/state_marks.h"
#include "db/store.h"

namespace bitrung::db {
namespace {

// A full chunk of usual points has about 10 KB: three pages to rewrite when a point is added, and a
// million points are two thousand rows.
constexpr std::uint64_t kChunkPoints = 512;

struct Statements {
  Statement begin;
  Statement commit;
  Statement save_changed_seq;
  Statement save_job_count;
  Statement insert_experiment;
  Statement insert_job;
  Statement insert_shared_spec;
  Statement insert_job_spec;
  Statement insert_job_name;
  Statement insert_job_input;
  Statement choose_job_input;
  Statement update_job;
  Statement set_experiment_finished;
  Statement insert_attempt;
  Statement update_attempt;
  Statement insert_pin;
  Statement insert_report;
  Statement save_worker;
  Statement record_artifact;
  Statement find_watermarks;
  Statement save_point_watermark;
  Statement save_line_watermark;
  Statement find_series;
  Statement insert_series;
  Statement update_series;
  Statement append_chunk;
  Statement insert_log_line;
  Statement insert_joined_request;
  Statement find_request;
  Statement find_active;
  Statement offer_text;
};

struct Operation {
  Statement Statements::*statement;
  std::string_view name;
  std::string_view sql;
};

constexpr auto kOperations = std::to_array<Operation>({
    {&Statements::begin, "begin", "BEGIN IMMEDIATE"},
    {&Statements::commit, "commit", "COMMIT"},
    {&Statements::save_changed_seq, "save_changed_seq",
     "UPDATE meta SET value = ? WHERE key = 'changed_seq'"},
    {&Statements::save_job_count, "save_job_count",
     "INSERT INTO job_count (experiment_id, state, jobs, cached) VALUES (?, ?, ?, ?) "
     "ON CONFLICT (experiment_id, state) DO UPDATE SET jobs = excluded.jobs, cached = "
     "excluded.cached"},
    {&Statements::insert_experiment, "insert_experiment",
     "INSERT INTO experiment (id, name, request_id, request_sha256, graph_sha256, source_yaml, "
     "submitted_at_ms, "
     "finished_at_ms, submitted_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"},
    {&Statements::insert_joined_request, "insert_joined_request",
     "INSERT INTO joined_request (request_id, request_sha256, experiment_id) VALUES (?, ?, ?)"},
    {&Statements::insert_job, "insert_job",
     "INSERT INTO job (id, experiment_id, name, spec_sha256, model, dataset, method, weight_bits, "
     "activation_bits, "
     "seed, epochs, numerics, retries, timeout_seconds, priority, devices, memory_bytes, "
     "estimated_flops, state, "
     "attempt, retries_used, losses, identity, cached_from, failure_class, error, resume_sha256, "
     "resume_epoch, "
     "started_at_ms, finished_at_ms, artifact_sha256, test_accuracy, validation_accuracy, "
     "test_loss, best_epoch, "
     "duration_seconds, images_per_second, changed_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
     "?, ?, ?, ?, ?, ?, ?, "
     "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"},
    {&Statements::insert_job_spec, "insert_job_spec",
     "INSERT INTO job_spec (job_id, spec_json, shared_id) VALUES (?, ?, ?)"},
    {&Statements::insert_shared_spec, "insert_shared_spec",
     "INSERT INTO shared_spec (spec_json) VALUES (?) RETURNING id"},
    {&Statements::insert_job_name, "insert_job_name",
     "INSERT INTO job_name (experiment_id, name, job_id, is_alias) VALUES (?, ?, ?, ?)"},
    {&Statements::insert_job_input, "insert_job_input",
     "INSERT INTO job_input (job_id, position, role, parent_id, artifact_sha256, choice, chosen) "
     "VALUES (?, ?, ?, ?, ?, ?, 0)"},
    {&Statements::choose_job_input, "choose_job_input",
     "UPDATE job_input SET chosen = 1 WHERE job_id = ? AND position = ? AND chosen = 0"},
    {&Statements::update_job, "update_job",
     "UPDATE job SET state = ?, attempt = ?, retries_used = ?, losses = ?, identity = ?, "
     "cached_from = ?, "
     "failure_class = ?, error = ?, resume_sha256 = ?, resume_epoch = ?, started_at_ms = ?, "
     "finished_at_ms = ?, "
     "artifact_sha256 = ?, test_accuracy = ?, validation_accuracy = ?, test_loss = ?, best_epoch = "
     "?, "
     "duration_seconds = ?, images_per_second = ?, changed_seq = ? WHERE id = ?"},
    {&Statements::set_experiment_finished, "set_experiment_finished",
     "UPDATE experiment SET finished_at_ms = ? WHERE id = ?"},
    {&Statements::insert_attempt, "save_attempt",
     "INSERT INTO attempt (state, worker_id, worker_name, slot, device, threads, failure_class, "
     "error, offered_at_ms, started_at_ms, finished_at_ms, resumed_epoch, job_id, attempt) "
     "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
     "ON CONFLICT (job_id, attempt) DO UPDATE SET state = excluded.state, worker_id = "
     "excluded.worker_id, worker_name = excluded.worker_name, slot = excluded.slot, device = "
     "excluded.device, threads = excluded.threads, failure_class = excluded.failure_class, error = "
     "excluded.error, offered_at_ms = excluded.offered_at_ms, started_at_ms = "
     "excluded.started_at_ms, finished_at_ms = excluded.finished_at_ms, resumed_epoch = "
     "excluded.resumed_epoch"},
    {&Statements::update_attempt, "save_attempt",
     "UPDATE attempt SET state = ?, worker_id = ?, worker_name = ?, slot = ?, device = ?, threads "
     "= ?, failure_class = ?, error = ?, offered_at_ms = ?, started_at_ms = ?, finished_at_ms = ?, "
     "resumed_epoch = ? WHERE job_id = ? AND attempt = ?"},
    {&Statements::insert_pin, "insert_pin",
     "INSERT INTO dataset_pin (experiment_id, dataset, sha256) VALUES (?, ?, ?)"},
    {&Statements::insert_report, "insert_report",
     "INSERT INTO report (job_id, report_json) VALUES (?, ?)"},
    {&Statements::save_worker, "save_worker",
     "INSERT INTO worker (id, name, version, draining, last_seen_ms, inventory_json) VALUES (?, ?, "
     "?, ?, ?, ?) "
     "ON CONFLICT (id) DO UPDATE SET name = excluded.name, version = excluded.version, draining = "
     "excluded.draining, "
     "last_seen_ms = excluded.last_seen_ms, inventory_json = excluded.inventory_json"},
    // The same digest again is the same file again.
    {&Statements::record_artifact, "record_artifact",
     "INSERT INTO artifact (sha256, size_bytes, recorded_at_ms) VALUES (?, ?, ?) ON CONFLICT "
     "(sha256) DO NOTHING"},
    {&Statements::find_watermarks, "find_watermarks",
     "SELECT point_watermark, line_watermark FROM attempt WHERE job_id = ? AND attempt = ?"},
    {&Statements::save_point_watermark, "save_point_watermark",
     "UPDATE attempt SET point_watermark = ? WHERE job_id = ? AND attempt = ?"},
    {&Statements::save_line_watermark, "save_line_watermark",
     "UPDATE attempt SET line_watermark = ? WHERE job_id = ? AND attempt = ?"},
    {&Statements::find_series, "find_series",
     "SELECT series_id, point_count, min, max FROM series WHERE job_id = ? AND attempt = ? AND "
     "name = ?"},
    {&Statements::insert_series, "insert_series",
     "INSERT INTO series (job_id, attempt, name, point_count, first_step, last_step, min, max, "
     "last) "
     "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING series_id"},
    {&Statements::update_series, "update_series",
     "UPDATE series SET point_count = ?, last_step = ?, min = ?, max = ?, last = ? WHERE series_id "
     "= ?"},
    {&Statements::append_chunk, "append_chunk",
     "INSERT INTO series_chunk (series_id, chunk, point_count, points) VALUES (?, ?, ?, ?) "
     "ON CONFLICT (series_id, chunk) DO UPDATE SET points = points || ',' || excluded.points, "
     "point_count = point_count + excluded.point_count"},
    {&Statements::insert_log_line, "insert_log_line",
     "INSERT INTO log_line (job_id, attempt, line, time_ms, text) VALUES (?, ?, ?, ?, ?)"},
    {&Statements::find_request, "find_request",
     "SELECT e.id, e.name, e.request_id, e.request_sha256, e.graph_sha256, e.source_yaml, "
     "e.submitted_at_ms, "
     "e.finished_at_ms, e.submitted_by FROM experiment AS e WHERE e.request_id = ?1 UNION ALL "
     "SELECT e.id, e.name, r.request_id, r.request_sha256, e.graph_sha256, e.source_yaml, "
     "e.submitted_at_ms, e.finished_at_ms, e.submitted_by FROM joined_request AS r "
     "JOIN experiment AS e ON e.id = r.experiment_id WHERE r.request_id = ?1"},
    {&Statements::find_active, "find_active",
     "SELECT e.id FROM experiment AS e WHERE e.name = ? AND e.graph_sha256 = ? ORDER BY e.id DESC"},
    {&Statements::offer_text, "offer_text",
     "SELECT e.name || '/' || j.name, j.dataset, j.timeout_seconds, s.spec_json, s.shared_id "
     "FROM job AS j JOIN experiment AS e ON e.id = j.experiment_id "
     "JOIN job_spec AS s ON s.job_id = coalesce(j.cached_from, j.id) WHERE j.id = ?"},
});

// The columns of a result, all NULL while there is none.
struct ResultColumns {
  std::optional<Digest> artifact;
  std::optional<double> test_accuracy;
  std::optional<double> validation_accuracy;
  std::optional<double> test_loss;
  std::optional<std::uint32_t> best_epoch;
  std::optional<double> duration_seconds;
  std::optional<double> images_per_second;

  explicit ResultColumns(const std::optional<ResultRow>& result) {
    if (!result) return;
    artifact = result->artifact;
    test_accuracy = result->test_accuracy;
    validation_accuracy = result->validation_accuracy;
    test_loss = result->test_loss;
    best_epoch = result->best_epoch;
    duration_seconds = result->duration_seconds;
    images_per_second = result->images_per_second;
  }
};

class SqliteStore final : public Store {
 public:
  SqliteStore(FileDescriptor lock, Connection connection, const StoreOptions& options)
      : lock_(std::move(lock)), connection_(std::move(connection)), options_(options) {}

  absl::Status start() {
    for (const Operation& operation : kOperations) {
      BITRUNG_ASSIGN_OR_RETURN(statements_.*operation.statement,
                               connection_.prepare(operation.name, operation.sql));
    }
    BITRUNG_RETURN_IF_ERROR(specs_.prepare(connection_));
    BITRUNG_ASSIGN_OR_RETURN(
        term_,
        connection_.query_integer(
            "raise_term", "UPDATE meta SET value = value + 1 WHERE key = 'term' RETURNING value"));
    BITRUNG_ASSIGN_OR_RETURN(
        changed_seq_, connection_.query_integer(
                          "load_changed_seq", "SELECT value FROM meta WHERE key = 'changed_seq'"));
    saved_changed_seq_ = changed_seq_;
    return count_jobs();
  }

  std::int64_t term() const override { return term_; }
  absl::StatusOr<Snapshot> load() override;

  absl::Status begin() override {
    BITRUNG_CHECK(!connection_.in_transaction());
    if (options_.reserve != nullptr) options_.reserve->keep_up();
    // Not in the commit that made the log long: whoever waits for that is told first.
    if (connection_.log_pages() >= options_.checkpoint_pages) {
      BITRUNG_RETURN_IF_ERROR(failure_);
      BITRUNG_RETURN_IF_ERROR(note(connection_.checkpoint()));
    }
    return run(statements_.begin);
  }

  absl::Status commit() override {
    BITRUNG_RETURN_IF_ERROR(failure_);
    BITRUNG_CHECK(connection_.in_transaction());
    if (changed_seq_ != saved_changed_seq_) {
      BITRUNG_RETURN_IF_ERROR(run(statements_.save_changed_seq, changed_seq_));
      saved_changed_seq_ = changed_seq_;
    }
    BITRUNG_RETURN_IF_ERROR(save_counts());
    shared_spec_ids_.clear();
    return run(statements_.commit);
  }

  absl::Status insert_experiment(const ExperimentRow& row) override {
    return run_in_turn(statements_.insert_experiment, row.id, row.name, row.request_id,
                       row.request_sha256, row.graph_sha256, row.source_yaml, row.submitted_at_ms,
                       row.finished_at_ms, row.submitted_by);
  }

  absl::Status insert_joined_request(std::string_view request_id, const Digest& request_sha256,
                                     ExperimentId id) override {
    return run_in_turn(statements_.insert_joined_request, request_id, request_sha256, id);
  }

  absl::Status insert_job(const JobSpecRow& spec, const JobStateRow& state) override;
  absl::Status update_job(const JobStateRow& state) override;

  absl::Status set_experiment_finished(ExperimentId id, std::int64_t finished_at_ms) override {
    BITRUNG_RETURN_IF_ERROR(run_in_turn(statements_.set_experiment_finished, finished_at_ms, id));
    return expect_one_row("experiment", number(id));
  }

  absl::Status save_attempt(const AttemptRow& row) override {
    const auto write = [&](Statement& statement) {
      return run_in_turn(statement, row.state, row.worker_id, row.worker_name, row.slot, row.device,
                         row.threads, row.failure_class, row.error, row.offered_at_ms,
                         row.started_at_ms, row.finished_at_ms, row.resumed_epoch, row.job,
                         row.attempt);
    };
    // One that is offered is nearly always new, another nearly never; insert_attempt takes both.
    if (row.state != AttemptState::kOffered) {
      BITRUNG_RETURN_IF_ERROR(write(statements_.update_attempt));
      if (connection_.changes() > 0) return absl::OkStatus();
    }
    return write(statements_.insert_attempt);
  }

  absl::Status insert_pin(const PinRow& row) override {
    return run_in_turn(statements_.insert_pin, row.experiment, row.dataset, row.sha256);
  }

  absl::Status insert_report(JobId job, std::string_view report_json) override {
    return run_in_turn(statements_.insert_report, job, report_json);
  }

  absl::Status save_worker(const WorkerRow& row) override {
    return run_in_turn(statements_.save_worker, row.id, row.name, row.version, row.draining,
                       row.last_seen_ms, row.inventory_json);
  }

  absl::Status record_artifact(const Digest& sha256, std::uint64_t size_bytes,
                               std::int64_t now_ms) override {
    return run_in_turn(statements_.record_artifact, sha256, size_bytes, now_ms);
  }

  absl::StatusOr<std::uint64_t> append_points(JobId job, std::uint32_t attempt,
                                              std::uint64_t first_sequence,
                                              const std::vector<PointRow>& points) override;
  absl::StatusOr<std::uint64_t> append_logs(JobId job, std::uint32_t attempt,
                                            std::uint64_t first_line,
                                            const std::vector<LogRow>& lines) override;

  absl::StatusOr<std::optional<ExperimentRow>> find_request(std::string_view request_id) override;
  absl::StatusOr<std::optional<ExperimentId>> find_active(std::string_view name,
                                                          const Digest& graph_sha256) override;

  absl::StatusOr<OfferText> offer_text(JobId id) override {
    Rows rows = statements_.offer_text.query(id);
    OfferText text;
    const bool found = rows.next();
    if (found) {
      rows.read(text.display_name, text.dataset, text.timeout_seconds);
      BITRUNG_ASSIGN_OR_RETURN(text.spec_json, specs_.read(rows, 3));
    }
    BITRUNG_RETURN_IF_ERROR(rows.status());
    if (!found) return absl::NotFoundError(fmt::format("there is no job {}", number(id)));
    return text;
  }

 private:
  struct Watermarks {
    std::uint64_t points = 0;
    std::uint64_t lines = 0;
  };

  // After an error nothing is written or committed any more: the engine's memory is ahead of the
  // disk, and SQLite may have rolled the transaction back.
  absl::Status note(absl::Status status) {
    if (!status.ok()) {
      failure_ = status;
      connection_.keep_log();
    }
    return status;
  }

  template <typename... Values>
  absl::Status run(Statement& statement, const Values&... values) {
    BITRUNG_RETURN_IF_ERROR(failure_);
    return note(statement.run(values...));
  }

  template <typename... Values>
  absl::Status run_in_turn(Statement& statement, const Values&... values) {
    BITRUNG_RETURN_IF_ERROR(failure_);
    BITRUNG_CHECK(connection_.in_transaction());
    return note(statement.run(values...));
  }

  absl::Status expect_one_row(std::string_view what, std::int64_t id) {
    if (connection_.changes() == 1) return absl::OkStatus();
    return note(absl::InternalError(fmt::format("{} {} is not in {}, so it cannot be changed", what,
                                                id, connection_.path().string())));
  }

  // Counts all jobs, and corrects what the table says of them.
  absl::Status count_jobs();
  // Writes the counts that changed.
  absl::Status save_counts();
  absl::Status save_chosen(const JobStateRow& state);
  absl::StatusOr<std::int64_t> shared_spec_id(const std::shared_ptr<const std::string>& text);
  absl::StatusOr<Watermarks> watermarks(JobId job, std::uint32_t attempt);
  absl::Status append_to_series(JobId job, std::uint32_t attempt, std::string_view name,
                                const std::vector<const PointRow*>& points);

  FileDescriptor lock_;
  Connection connection_;
  const StoreOptions options_;
  Statements statements_;
  absl::Status failure_;
  std::int64_t term_ = 0;
  std::int64_t changed_seq_ = 0;        // Last value given out.
  std::int64_t saved_changed_seq_ = 0;  // As in table meta.
  JobCounter counter_;
  SpecJoiner specs_;
  // Of the running turn's.
  std::unordered_map<std::shared_ptr<const std::string>, std::int64_t> shared_spec_ids_;
};

absl::Status SqliteStore::save_counts() {
  absl::Status status;
  counter_.take_changes([&](ExperimentId id, JobState state, const JobCounter::Count& count) {
    if (status.ok()) status = run(statements_.save_job_count, id, state, count.jobs, count.cached);
  });
  return status;
}

absl::Status SqliteStore::count_jobs() {
  {
    BITRUNG_ASSIGN_OR_RETURN(
        Statement statement,
        connection_.prepare("count_jobs",
                            "SELECT id, experiment_id, state, cached_from IS NOT NULL FROM job"));
    Rows rows = statement.query();
    while (rows.next()) {
      JobId job{};
      ExperimentId experiment{};
      JobState state{};
      bool is_cached = false;
      rows.read(job, experiment, state, is_cached);
      if (rows.status().ok()) counter_.insert(job, experiment, state, is_cached);
    }
    BITRUNG_RETURN_IF_ERROR(rows.status());
  }
  std::map<std::pair<ExperimentId, JobState>, JobCounter::Count> counted;
  counter_.take_changes([&](ExperimentId id, JobState state, const JobCounter::Count& count) {
    counted[{id, state}] = count;
  });
  {
    BITRUNG_ASSIGN_OR_RETURN(
        Statement statement,
        connection_.prepare("load_counts",
                            "SELECT experiment_id, state, jobs, cached FROM job_count"));
    Rows rows = statement.query();
    while (rows.next()) {
      std::pair<ExperimentId, JobState> key;
      JobCounter::Count stored;
      rows.read(key.first, key.second, stored.jobs, stored.cached);
      if (counted[key] == stored) counted.erase(key);
    }
    BITRUNG_RETURN_IF_ERROR(rows.status());
  }
  if (counted.empty()) return absl::OkStatus();
  BITRUNG_RETURN_IF_ERROR(run(statements_.begin));
  for (const auto& [key, count] : counted) {
    BITRUNG_RETURN_IF_ERROR(
        run(statements_.save_job_count, key.first, key.second, count.jobs, count.cached));
  }
  return run(statements_.commit);
}

absl::StatusOr<Snapshot> SqliteStore::load() {
  Snapshot snapshot;
  {
    BITRUNG_ASSIGN_OR_RETURN(const std::int64_t jobs,
                             connection_.query_integer("count_jobs", "SELECT count(*) FROM job"));
    snapshot.jobs.reserve(static_cast<std::size_t>(jobs));
    BITRUNG_ASSIGN_OR_RETURN(
        Statement statement,
        connection_.prepare("load_jobs",
                            fmt::format("SELECT {} FROM job AS j ORDER BY j.id", kJobColumns)));
    Rows rows = statement.query();
    while (rows.next()) {
      Snapshot::Job& job = snapshot.jobs.emplace_back();
      std::int64_t changed_seq = 0;
      read_job(rows, job.spec, job.state, changed_seq);
    }
    BITRUNG_RETURN_IF_ERROR(rows.status());
  }
  // Both lists below are in the order of the jobs, so one pass over the jobs places them.
  const auto job_at = [&snapshot](std::size_t& index, JobId id) -> Snapshot::Job* {
    while (index < snapshot.jobs.size() && snapshot.jobs[index].spec.id < id) ++index;
    if (index == snapshot.jobs.size() || snapshot.jobs[index].spec.id != id) return nullptr;
    return &snapshot.jobs[index];
  };
  const auto missing = [this](JobId id) {
    return absl::DataLossError(
        fmt::format("{} refers to job {}, which is not there; the file is damaged",
                    connection_.path().string(), number(id)));
  };
  {
    BITRUNG_ASSIGN_OR_RETURN(
        Statement statement,
        connection_.prepare("load_inputs",
                            "SELECT i.job_id, i.role, i.parent_id, i.artifact_sha256, i.choice, "
                            "i.chosen "
                            "FROM job_input AS i ORDER BY i.job_id, i.position"));
    Rows rows = statement.query();
    for (std::size_t index = 0; rows.next();) {
      JobId id{};
      InputRow input;
      bool chosen = false;
      rows.read(id, input.role, input.parent, input.artifact, input.choice, chosen);
      Snapshot::Job* job = job_at(index, id);
      if (job == nullptr) return missing(id);
      add_input(input, chosen, job->spec, job->state);
    }
    BITRUNG_RETURN_IF_ERROR(rows.status());
  }
  {
    BITRUNG_ASSIGN_OR_RETURN(
        Statement statement,
        connection_.prepare(
            "load_live_attempts",
            fmt::format("SELECT {} FROM attempt AS a WHERE a.state IN ('offered', 'running') "
                        "ORDER BY a.job_id",
                        kAttemptColumns)));
    Rows rows = statement.query();
    for (std::size_t index = 0; rows.next();) {
      AttemptRow attempt;
      read_attempt(rows, attempt);
      Snapshot::Job* job = job_at(index, attempt.job);
      if (job == nullptr) return missing(attempt.job);
      job->live_attempt = std::move(attempt);
    }
    BITRUNG_RETURN_IF_ERROR(rows.status());
  }
  {
    BITRUNG_ASSIGN_OR_RETURN(
        Statement statement,
        connection_.prepare("load_pins",
                            "SELECT experiment_id, dataset, sha256 FROM dataset_pin "
                            "ORDER BY experiment_id, dataset"));
    Rows rows = statement.query();
    while (rows.next()) {
      PinRow& pin = snapshot.pins.emplace_back();
      rows.read(pin.experiment, pin.dataset, pin.sha256);
    }
    BITRUNG_RETURN_IF_ERROR(rows.status());
  }
  {
    BITRUNG_ASSIGN_OR_RETURN(
        Statement statement,
        connection_.prepare("load_workers",
                            fmt::format("SELECT {} FROM worker ORDER BY id", kWorkerColumns)));
    Rows rows = statement.query();
    while (rows.next()) read_worker(rows, snapshot.workers.emplace_back());
    BITRUNG_RETURN_IF_ERROR(rows.status());
  }
  BITRUNG_ASSIGN_OR_RETURN(
      snapshot.next_experiment_id,
      connection_.query_integer("next_experiment_id",
                                "SELECT coalesce(max(id), 0) + 1 FROM experiment"));
  BITRUNG_ASSIGN_OR_RETURN(
      snapshot.next_job_id,
      connection_.query_integer("next_job_id", "SELECT coalesce(max(id), 0) + 1 FROM job"));
  return snapshot;
}

absl::Status SqliteStore::insert_job(const JobSpecRow& spec, const JobStateRow& state) {
  BITRUNG_CHECK(spec.id == state.id);
  const ResultColumns result(state.result);
  BITRUNG_RETURN_IF_ERROR(run_in_turn(
      statements_.insert_job, spec.id, spec.experiment, spec.name, spec.spec_sha256, spec.model,
      spec.dataset, spec.method, spec.weight_bits, spec.activation_bits, spec.seed, spec.epochs,
      spec.numerics, spec.retries, spec.timeout_seconds, spec.priority, spec.devices,
      spec.memory_bytes, spec.estimated_flops, state.state, state.attempt, state.retries_used,
      state.losses, state.identity, state.cached_from, state.failure_class, state.error,
      state.resume, state.resume_epoch, state.started_at_ms, state.finished_at_ms, result.artifact,
      result.test_accuracy, result.validation_accuracy, result.test_loss, result.best_epoch,
      result.duration_seconds, result.images_per_second, ++changed_seq_));
  // The options of a job that takes an equal one's result are those of that one.
  if (!state.cached_from) {
    std::optional<std::int64_t> shared_id;
    if (spec.shared_spec) {
      BITRUNG_ASSIGN_OR_RETURN(shared_id, shared_spec_id(spec.shared_spec));
    }
    BITRUNG_RETURN_IF_ERROR(run(statements_.insert_job_spec, spec.id, spec.spec_json, shared_id));
  }
  BITRUNG_RETURN_IF_ERROR(
      run(statements_.insert_job_name, spec.experiment, spec.name, spec.id, false));
  for (const std::string& alias : spec.aliases) {
    BITRUNG_RETURN_IF_ERROR(
        run(statements_.insert_job_name, spec.experiment, alias, spec.id, true));
  }
  std::int64_t position = 0;
  for (const InputRow& input : spec.inputs) {
    BITRUNG_RETURN_IF_ERROR(run(statements_.insert_job_input, spec.id, position++, input.role,
                                input.parent, input.artifact, input.choice));
  }
  counter_.insert(spec.id, spec.experiment, state.state, state.cached_from.has_value());
  return save_chosen(state);
}

absl::StatusOr<std::int64_t> SqliteStore::shared_spec_id(
    const std::shared_ptr<const std::string>& text) {
  const auto [known, is_new] = shared_spec_ids_.try_emplace(text, 0);
  if (is_new) {
    Rows rows = statements_.insert_shared_spec.query(*text);
    while (rows.next()) rows.read(known->second);
    BITRUNG_RETURN_IF_ERROR(note(rows.status()));
  }
  return known->second;
}

absl::Status SqliteStore::save_chosen(const JobStateRow& state) {
  for (const std::uint32_t position : state.chosen) {
    BITRUNG_RETURN_IF_ERROR(run(statements_.choose_job_input, state.id, position));
  }
  return absl::OkStatus();
}

absl::Status SqliteStore::update_job(const JobStateRow& state) {
  const ResultColumns result(state.result);
  BITRUNG_RETURN_IF_ERROR(run_in_turn(
      statements_.update_job, state.state, state.attempt, state.retries_used, state.losses,
      state.identity, state.cached_from, state.failure_class, state.error, state.resume,
      state.resume_epoch, state.started_at_ms, state.finished_at_ms, result.artifact,
      result.test_accuracy, result.validation_accuracy, result.test_loss, result.best_epoch,
      result.duration_seconds, result.images_per_second, ++changed_seq_, state.id));
  BITRUNG_RETURN_IF_ERROR(expect_one_row("job", number(state.id)));
  counter_.update(state.id, state.state, state.cached_from.has_value());
  return save_chosen(state);
}

absl::StatusOr<SqliteStore::Watermarks> SqliteStore::watermarks(JobId job, std::uint32_t attempt) {
  BITRUNG_RETURN_IF_ERROR(failure_);
  BITRUNG_CHECK(connection_.in_transaction());
  Rows rows = statements_.find_watermarks.query(job, attempt);
  Watermarks found;
  const bool any = rows.next();
  if (any) rows.read(found.points, found.lines);
  BITRUNG_RETURN_IF_ERROR(note(rows.status()));
  if (!any)
    return absl::NotFoundError(fmt::format("job {} has no attempt {}", number(job), attempt));
  return found;
}

absl::StatusOr<std::uint64_t> SqliteStore::append_points(JobId job, std::uint32_t attempt,
                                                         std::uint64_t first_sequence,
                                                         const std::vector<PointRow>& points) {
  BITRUNG_ASSIGN_OR_RETURN(const Watermarks before, watermarks(job, attempt));
  if (points.empty()) return before.points;
  if (first_sequence > before.points + 1) {
    return absl::OutOfRangeError(
        fmt::format("points of attempt {} of job {} go on at {}, but {} would be the next", attempt,
                    number(job), first_sequence, before.points + 1));
  }
  const std::uint64_t known = before.points + 1 - first_sequence;
  if (known >= points.size()) return before.points;

  // Sorted by name, so that the same batch always gives the same rows.
  std::map<std::string_view, std::vector<const PointRow*>> by_series;
  for (std::size_t i = known; i < points.size(); ++i) {
    const PointRow& point = points[i];
    if (point.series.empty() || !std::isfinite(point.value)) {
      return absl::InvalidArgumentError(fmt::format(
          "point {} of attempt {} of job {} (series \"{}\", step {}, value {}) needs a name and a "
          "finite "
          "value",
          first_sequence + i, attempt, number(job), point.series, point.step, point.value));
    }
    by_series[point.series].push_back(&point);
  }
  for (const auto& [name, added] : by_series) {
    BITRUNG_RETURN_IF_ERROR(note(append_to_series(job, attempt, name, added)));
  }
  const std::uint64_t after = first_sequence + points.size() - 1;
  BITRUNG_RETURN_IF_ERROR(run(statements_.save_point_watermark, after, job, attempt));
  return after;
}

absl::Status SqliteStore::append_to_series(JobId job, std::uint32_t attempt, std::string_view name,
                                           const std::vector<const PointRow*>& points) {
  std::int64_t series_id = 0;
  std::uint64_t count = 0;
  double min = std::numeric_limits<double>::infinity();
  double max = -std::numeric_limits<double>::infinity();
  bool exists = false;
  {
    Rows rows = statements_.find_series.query(job, attempt, name);
    exists = rows.next();
    if (exists) rows.read(series_id, count, min, max);
    BITRUNG_RETURN_IF_ERROR(rows.status());
  }
  for (const PointRow* point : points) {
    min = std::min(min, point->value);
    max = std::max(max, point->value);
  }
  const PointRow& last = *points.back();
  const std::uint64_t total = count + points.size();
  if (exists) {
    BITRUNG_RETURN_IF_ERROR(
        statements_.update_series.run(total, last.step, min, max, last.value, series_id));
  } else {
    Rows rows = statements_.insert_series.query(job, attempt, name, total, points.front()->step,
                                                last.step, min, max, last.value);
    while (rows.next()) rows.read(series_id);
    BITRUNG_RETURN_IF_ERROR(rows.status());
  }
  std::string text;
  for (std::size_t i = 0; i < points.size();) {
    const std::uint64_t chunk = count / kChunkPoints;
    const std::uint64_t room = kChunkPoints - count % kChunkPoints;
    const std::size_t end =
        i + static_cast<std::size_t>(std::min<std::uint64_t>(room, points.size() - i));
    const std::uint64_t added = end - i;
    text.clear();
    for (; i < end; ++i) append_point(text, points[i]->step, points[i]->value);
    BITRUNG_RETURN_IF_ERROR(statements_.append_chunk.run(series_id, chunk, added, text));
    count += added;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::uint64_t> SqliteStore::append_logs(JobId job, std::uint32_t attempt,
                                                       std::uint64_t first_line,
                                                       const std::vector<LogRow>& lines) {
  BITRUNG_ASSIGN_OR_RETURN(const Watermarks before, watermarks(job, attempt));
  if (lines.empty()) return before.lines;
  if (first_line > before.lines + 1) {
    return absl::OutOfRangeError(
        fmt::format("lines of attempt {} of job {} go on at {}, but {} would be the next", attempt,
                    number(job), first_line, before.lines + 1));
  }
  const std::uint64_t known = before.lines + 1 - first_line;
  if (known >= lines.size()) return before.lines;
  for (std::size_t i = known; i < lines.size(); ++i) {
    BITRUNG_RETURN_IF_ERROR(run(statements_.insert_log_line, job, attempt, first_line + i,
                                lines[i].time_ms, lines[i].text));
  }
  const std::uint64_t after = first_line + lines.size() - 1;
  BITRUNG_RETURN_IF_ERROR(run(statements_.save_line_watermark, after, job, attempt));
  return after;
}

absl::StatusOr<std::optional<ExperimentRow>> SqliteStore::find_request(
    std::string_view request_id) {
  Rows rows = statements_.find_request.query(request_id);
  std::optional<ExperimentRow> found;
  if (rows.next()) read_experiment(rows, found.emplace());
  BITRUNG_RETURN_IF_ERROR(rows.status());
  return found;
}

absl::StatusOr<std::optional<ExperimentId>> SqliteStore::find_active(std::string_view name,
                                                                     const Digest& graph_sha256) {
  Rows rows = statements_.find_active.query(name, graph_sha256);
  std::optional<ExperimentId> found;
  while (!found && rows.next()) {
    ExperimentId id{};
    rows.read(id);
    for (const JobState state : {JobState::kBlocked, JobState::kReady, JobState::kOffered,
                                 JobState::kRunning, JobState::kCancelling}) {
      if (counter_.count(id, state).jobs > 0) found = id;
    }
  }
  BITRUNG_RETURN_IF_ERROR(rows.status());
  return found;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> Store::open(const std::filesystem::path& state_directory,
                                                   const StoreOptions& options) {
  BITRUNG_RETURN_IF_ERROR(make_directories(state_directory, 0700));
  BITRUNG_ASSIGN_OR_RETURN(FileDescriptor lock, lock_writer(state_directory));
  BITRUNG_RETURN_IF_ERROR(check_restored(state_directory));
  BITRUNG_ASSIGN_OR_RETURN(Connection connection, Connection::open(state_directory / kDatabaseFile,
                                                                   Connection::Mode::kReadWrite));
  // Before the first change, the change of the journal mode included.
  BITRUNG_RETURN_IF_ERROR(check_version(connection, migrations()));
  BITRUNG_RETURN_IF_ERROR(check_not_backup(connection));
  BITRUNG_RETURN_IF_ERROR(connection.use_write_ahead_log());
  BITRUNG_RETURN_IF_ERROR(migrate(connection, migrations()));
  auto store = std::make_unique<SqliteStore>(std::move(lock), std::move(connection), options);
  BITRUNG_RETURN_IF_ERROR(store->start());
  return store;
}

}  // namespace bitrung::db
