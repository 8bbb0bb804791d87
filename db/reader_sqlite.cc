#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "db/base/check.h"
#include "db/base/status.h"
#include "db/job_columns.h"
#include "db/nearest_names.h"
#include "db/points_text.h"
#include "db/schema.h"
#include "db/sqlite.h"
#include "db/store.h"

namespace bitrung::db {
namespace {

struct Statements {
  Statement begin;
  Statement end;
  Statement experiment_by_id;
  Statement experiment_by_name;
  Statement experiment_names;
  Statement experiment_by_request;
  Statement active_experiment;
  Statement experiments;
  Statement experiments_of_name;
  Statement counts;
  Statement jobs;
  Statement changed_jobs;
  Statement job_by_id;
  Statement job_by_name;
  Statement job_names;
  Statement aliases;
  Statement inputs;
  Statement job_name;
  Statement job_head;
  Statement attempts;
  Statement report;
  Statement evaluations;
  Statement series;
  Statement points;
  Statement logs;
  Statement logs_of_attempt;
  Statement log_count;
  Statement log_count_of_attempt;
  Statement equal_jobs;
  Statement succeeded_like;
  Statement pins;
  Statement workers;
};

// Stands for job_source() in the list below.
constexpr std::string_view kWholeJobs = "job_source";

struct Operation {
  Statement Statements::*statement;
  std::string_view name;
  std::string_view sql;  // {} stands for the columns below.
  std::string_view columns = {};
};

constexpr auto kOperations = std::to_array<Operation>({
    {&Statements::begin, "begin_snapshot", "BEGIN"},
    {&Statements::end, "end_snapshot", "COMMIT"},
    {&Statements::experiment_by_id, "experiment_by_id",
     "SELECT {} FROM experiment AS e WHERE e.id = ?", kExperimentColumns},
    {&Statements::experiment_by_name, "experiment_by_name",
     "SELECT {} FROM experiment AS e WHERE e.name = ? ORDER BY e.id DESC LIMIT 1",
     kExperimentColumns},
    {&Statements::experiment_names, "experiment_names", "SELECT DISTINCT name FROM experiment"},
    {&Statements::experiment_by_request, "experiment_by_request",
     "SELECT {} FROM experiment AS e WHERE e.request_id = ?1 OR e.id IN "
     "(SELECT r.experiment_id FROM joined_request AS r WHERE r.request_id = ?1)",
     kExperimentColumns},
    {&Statements::active_experiment, "active_experiment",
     "SELECT {} FROM experiment AS e WHERE e.name = ? AND e.graph_sha256 = ? AND EXISTS (SELECT 1 "
     "FROM job_count AS c WHERE c.experiment_id = e.id AND c.jobs > 0 AND c.state IN ('blocked', "
     "'ready', 'offered', 'running', 'cancelling')) LIMIT 1",
     kExperimentColumns},
    {&Statements::experiments, "experiments",
     "SELECT {} FROM experiment AS e WHERE e.id < ? ORDER BY e.id DESC LIMIT ?",
     kExperimentColumns},
    {&Statements::experiments_of_name, "experiments_of_name",
     "SELECT {} FROM experiment AS e WHERE e.id < ? AND e.name = ? ORDER BY e.id DESC LIMIT ?",
     kExperimentColumns},
    {&Statements::counts, "counts",
     "SELECT state, jobs, cached FROM job_count WHERE experiment_id = ? AND jobs > 0"},
    {&Statements::jobs, "jobs",
     "SELECT {} WHERE j.experiment_id = ? AND j.id > ? ORDER BY j.id LIMIT ?", kWholeJobs},
    {&Statements::changed_jobs, "changed_jobs",
     "SELECT {} WHERE j.experiment_id = ? AND j.changed_seq > ? ORDER BY j.changed_seq LIMIT ?",
     kWholeJobs},
    {&Statements::job_by_id, "job_by_id", "SELECT {} WHERE j.id = ?", kWholeJobs},
    {&Statements::job_by_name, "job_by_name",
     "SELECT {} WHERE j.id = (SELECT job_id FROM job_name WHERE experiment_id = ? AND name = ?)",
     kWholeJobs},
    {&Statements::job_names, "job_names", "SELECT name FROM job_name WHERE experiment_id = ?"},
    {&Statements::aliases, "aliases",
     "SELECT name FROM job_name WHERE job_id = ? AND is_alias = 1 ORDER BY name"},
    {&Statements::inputs, "inputs",
     "SELECT role, parent_id, artifact_sha256, choice, chosen FROM job_input WHERE job_id = ? "
     "ORDER BY position"},
    {&Statements::job_head, "job_head",
     "SELECT j.id, j.name, j.cached_from FROM job_name AS n JOIN job AS j ON j.id = n.job_id WHERE "
     "n.experiment_id = ? AND n.name = ?"},
    {&Statements::job_name, "job_name", "SELECT name FROM job WHERE id = ?"},
    {&Statements::attempts, "attempts",
     "SELECT {} FROM attempt AS a WHERE a.job_id = ? ORDER BY a.attempt", kAttemptColumns},
    {&Statements::report, "report",
     "SELECT r.report_json FROM job AS j JOIN report AS r ON r.job_id = coalesce(j.cached_from, "
     "j.id) WHERE j.id = ?"},
    {&Statements::evaluations, "evaluations",
     // Text is not a number, whatever SQLite would make of it.
     "SELECT id, iif(typeof(backend) = 'text', backend, ''), "
     "iif(typeof(backend_reason) = 'text', backend_reason, ''), iif(typeof(top1) = 'text', NULL, "
     "top1), iif(typeof(top5) = 'text', NULL, top5), "
     "iif(typeof(nll) = 'text', NULL, nll), iif(typeof(brier) = 'text', NULL, brier), "
     "iif(typeof(ece) = 'text', NULL, ece) FROM (SELECT j.id AS id, "
     "r.report_json ->> '$.backend' AS backend, "
     "r.report_json ->> '$.backend_reason' AS backend_reason, "
     "r.report_json ->> '$.evaluation.top1' AS top1, "
     "r.report_json ->> '$.evaluation.top5' AS top5, "
     "r.report_json ->> '$.evaluation.nll' AS nll, "
     "r.report_json ->> '$.evaluation.brier' AS brier, "
     "r.report_json ->> '$.evaluation.ece' AS ece "
     "FROM job AS j JOIN report AS r ON r.job_id = coalesce(j.cached_from, j.id) "
     "WHERE j.experiment_id = ?) ORDER BY id"},
    {&Statements::series, "series",
     "SELECT series_id, attempt, name, point_count, first_step, last_step, min, max, last FROM "
     "series "
     "WHERE job_id = ? ORDER BY attempt, name"},
    {&Statements::points, "points",
     "SELECT points FROM series_chunk WHERE series_id = ? ORDER BY chunk"},
    {&Statements::logs, "logs",
     "SELECT attempt, line, time_ms, text FROM log_line WHERE job_id = ? AND (attempt, line) > (?, "
     "?) "
     "ORDER BY attempt, line LIMIT ?"},
    {&Statements::logs_of_attempt, "logs_of_attempt",
     "SELECT attempt, line, time_ms, text FROM log_line WHERE job_id = ? AND attempt = ? AND line "
     "> ? "
     "ORDER BY line LIMIT ?"},
    // Lines are numbered from 1 without a gap, so the watermarks count them.
    {&Statements::log_count, "log_count",
     "SELECT coalesce(sum(line_watermark), 0) FROM attempt WHERE job_id = ?"},
    {&Statements::log_count_of_attempt, "log_count_of_attempt",
     "SELECT coalesce(sum(line_watermark), 0) FROM attempt WHERE job_id = ? AND attempt = ?"},
    {&Statements::equal_jobs, "equal_jobs",
     "SELECT experiment_id, name, identity FROM job WHERE spec_sha256 = ? AND state = 'succeeded' "
     "AND cached_from IS NULL ORDER BY id DESC LIMIT ?"},
    {&Statements::succeeded_like, "succeeded_like",
     "SELECT {} WHERE j.model = ? AND j.dataset = ? AND j.state = 'succeeded' AND j.cached_from IS "
     "NULL "
     "ORDER BY j.id DESC LIMIT ?",
     kWholeJobs},
    {&Statements::pins, "pins",
     "SELECT experiment_id, dataset, sha256 FROM dataset_pin WHERE experiment_id = ? ORDER BY "
     "dataset"},
    {&Statements::workers, "workers", "SELECT {} FROM worker ORDER BY name, id", kWorkerColumns},
});

// What every query for whole jobs selects; its conditions follow.
std::string job_source() {
  return fmt::format(
      "{}, a.worker_name, s.spec_json, s.shared_id FROM job AS j "
      "JOIN job_spec AS s ON s.job_id = coalesce(j.cached_from, j.id) "
      "LEFT JOIN attempt AS a ON a.job_id = j.id AND a.attempt = j.attempt",
      kJobColumns);
}

std::int64_t as_limit(std::size_t limit) {
  return static_cast<std::int64_t>(std::min<std::size_t>(
      limit, static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max())));
}

std::optional<std::int64_t> parse_number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

class SqliteReader final : public StoreReader {
 public:
  SqliteReader(Connection connection, std::function<void(const absl::Status&)> on_fault)
      : connection_(std::move(connection)), on_fault_(std::move(on_fault)) {}

  absl::Status start() {
    const std::string job = job_source();
    for (const Operation& operation : kOperations) {
      const std::string_view columns =
          operation.columns == kWholeJobs ? std::string_view(job) : operation.columns;
      std::string sql(operation.sql);
      if (const auto at = sql.find("{}"); at != std::string::npos) sql.replace(at, 2, columns);
      BITRUNG_ASSIGN_OR_RETURN(statements_.*operation.statement,
                               connection_.prepare(operation.name, sql));
    }
    BITRUNG_RETURN_IF_ERROR(specs_.prepare(connection_));
    return absl::OkStatus();
  }

  absl::StatusOr<ExperimentRow> experiment(std::string_view reference) override {
    return in_snapshot([&]() -> absl::StatusOr<ExperimentRow> {
      const auto id = parse_number(reference);
      if (id) {
        BITRUNG_ASSIGN_OR_RETURN(auto found,
                                 one_experiment(statements_.experiment_by_id.query(*id)));
        if (found) return *std::move(found);
      }
      BITRUNG_ASSIGN_OR_RETURN(auto found,
                               one_experiment(statements_.experiment_by_name.query(reference)));
      if (found) return *std::move(found);
      if (id) return no_experiment(*id);
      BITRUNG_ASSIGN_OR_RETURN(const auto known, texts(statements_.experiment_names.query()));
      return absl::NotFoundError(
          fmt::format("there is no experiment \"{}\"; {}`bitrung list` shows all", reference,
                      did_you_mean(reference, known)));
    });
  }

  absl::StatusOr<ExperimentRow> experiment(ExperimentId id) override {
    return in_snapshot([&]() -> absl::StatusOr<ExperimentRow> {
      BITRUNG_ASSIGN_OR_RETURN(auto found, one_experiment(statements_.experiment_by_id.query(id)));
      if (!found) return no_experiment(number(id));
      return *std::move(found);
    });
  }

  absl::StatusOr<bool> knows_request(std::string_view request_id) override {
    return in_snapshot([&]() -> absl::StatusOr<bool> {
      BITRUNG_ASSIGN_OR_RETURN(const auto found,
                               one_experiment(statements_.experiment_by_request.query(request_id)));
      return found.has_value();
    });
  }

  absl::StatusOr<bool> knows_active(std::string_view name, const Digest& graph_sha256) override {
    return in_snapshot([&]() -> absl::StatusOr<bool> {
      BITRUNG_ASSIGN_OR_RETURN(const auto found, one_experiment(statements_.active_experiment.query(
                                                     name, graph_sha256)));
      return found.has_value();
    });
  }

  absl::StatusOr<std::vector<ExperimentRow>> experiments(std::size_t limit, std::int64_t before,
                                                         std::string_view name) override {
    return in_snapshot([&]() -> absl::StatusOr<std::vector<ExperimentRow>> {
      const std::int64_t below = before > 0 ? before : std::numeric_limits<std::int64_t>::max();
      Rows rows = name.empty()
                      ? statements_.experiments.query(below, as_limit(limit))
                      : statements_.experiments_of_name.query(below, name, as_limit(limit));
      return all<ExperimentRow>(std::move(rows), read_experiment);
    });
  }

  absl::StatusOr<ExperimentCounts> counts(ExperimentId id) override {
    return in_snapshot([&]() -> absl::StatusOr<ExperimentCounts> {
      ExperimentCounts counts;
      Rows rows = statements_.counts.query(id);
      while (rows.next()) {
        auto& [state, jobs] = counts.jobs_by_state.emplace_back();
        std::uint32_t cached = 0;
        rows.read(state, jobs, cached);
        counts.jobs += jobs;
        counts.cached += cached;
      }
      BITRUNG_RETURN_IF_ERROR(rows.status());
      std::ranges::sort(counts.jobs_by_state);
      return counts;
    });
  }

  absl::StatusOr<std::vector<JobRow>> jobs(ExperimentId id, std::size_t limit,
                                           std::int64_t after) override {
    return in_snapshot(
        [&] { return read_jobs(statements_.jobs.query(id, after, as_limit(limit))); });
  }

  absl::StatusOr<std::vector<JobRow>> changed_jobs(ExperimentId id, std::int64_t cursor,
                                                   std::size_t limit) override {
    return in_snapshot(
        [&] { return read_jobs(statements_.changed_jobs.query(id, cursor, as_limit(limit))); });
  }

  absl::StatusOr<JobRow> job(JobId id) override {
    return in_snapshot([&]() -> absl::StatusOr<JobRow> {
      BITRUNG_ASSIGN_OR_RETURN(auto found, read_jobs(statements_.job_by_id.query(id)));
      if (found.empty()) return no_job(id);
      return std::move(found.front());
    });
  }

  absl::StatusOr<JobRow> job(ExperimentId id, std::string_view job_name) override {
    return in_snapshot([&]() -> absl::StatusOr<JobRow> {
      BITRUNG_ASSIGN_OR_RETURN(auto found, read_jobs(statements_.job_by_name.query(id, job_name)));
      if (!found.empty()) return std::move(found.front());
      return no_job_named(id, job_name);
    });
  }

  absl::StatusOr<std::vector<JobHead>> job_heads(ExperimentId id,
                                                 const std::vector<std::string>& names) override {
    return in_snapshot([&]() -> absl::StatusOr<std::vector<JobHead>> {
      std::vector<JobHead> heads;
      heads.reserve(names.size());
      for (const std::string& each : names) {
        Rows rows = statements_.job_head.query(id, each);
        JobHead& head = heads.emplace_back();
        const bool is_found = rows.next();
        if (is_found) rows.read(head.id, head.name, head.cached_from);
        BITRUNG_RETURN_IF_ERROR(rows.status());
        if (!is_found) return no_job_named(id, each);
      }
      return heads;
    });
  }

  absl::StatusOr<std::string> job_name(JobId id) override {
    return in_snapshot([&]() -> absl::StatusOr<std::string> {
      BITRUNG_ASSIGN_OR_RETURN(auto names, texts(statements_.job_name.query(id)));
      if (names.empty()) return no_job(id);
      return std::move(names.front());
    });
  }

  absl::StatusOr<std::vector<AttemptRow>> attempts(JobId id) override {
    return in_snapshot(
        [&] { return all<AttemptRow>(statements_.attempts.query(id), read_attempt); });
  }

  absl::StatusOr<std::optional<std::string>> report(JobId id) override {
    return in_snapshot([&]() -> absl::StatusOr<std::optional<std::string>> {
      BITRUNG_ASSIGN_OR_RETURN(auto found, texts(statements_.report.query(id)));
      if (found.empty()) return std::nullopt;
      return std::move(found.front());
    });
  }

  absl::StatusOr<std::vector<EvaluationRow>> evaluations(ExperimentId id) override {
    return in_snapshot([&] {
      return all<EvaluationRow>(statements_.evaluations.query(id),
                                [](Rows& rows, EvaluationRow& row) {
                                  rows.read(row.job, row.backend, row.backend_reason, row.top1,
                                            row.top5, row.nll, row.brier, row.ece);
                                });
    });
  }

  absl::StatusOr<std::vector<SeriesRow>> series(JobId id, const std::vector<std::string>& names,
                                                bool with_points) override;

  absl::StatusOr<std::vector<LogRow>> logs(JobId id, std::uint32_t only_attempt,
                                           std::uint32_t after_attempt, std::uint64_t after_line,
                                           std::size_t limit) override {
    return in_snapshot([&]() -> absl::StatusOr<std::vector<LogRow>> {
      if (only_attempt != 0 && after_attempt > only_attempt) return std::vector<LogRow>();
      // Beyond what the column can hold there is no line, and the number would turn negative.
      const std::uint64_t after =
          std::min<std::uint64_t>(after_line, std::numeric_limits<std::int64_t>::max());
      Rows rows =
          only_attempt == 0
              ? statements_.logs.query(id, after_attempt, after, as_limit(limit))
              : statements_.logs_of_attempt.query(
                    id, only_attempt, after_attempt == only_attempt ? after : std::uint64_t{0},
                    as_limit(limit));
      return all<LogRow>(std::move(rows), [](Rows& from, LogRow& row) {
        from.read(row.attempt, row.line, row.time_ms, row.text);
      });
    });
  }

  absl::StatusOr<std::uint64_t> log_count(JobId id, std::uint32_t only_attempt) override {
    return in_snapshot([&]() -> absl::StatusOr<std::uint64_t> {
      Rows rows = only_attempt == 0 ? statements_.log_count.query(id)
                                    : statements_.log_count_of_attempt.query(id, only_attempt);
      std::uint64_t count = 0;
      while (rows.next()) rows.read(count);
      BITRUNG_RETURN_IF_ERROR(rows.status());
      return count;
    });
  }

  absl::StatusOr<std::vector<JobRow>> succeeded_like(std::string_view model,
                                                     std::string_view dataset,
                                                     std::size_t limit) override {
    return in_snapshot([&] {
      return read_jobs(statements_.succeeded_like.query(model, dataset, as_limit(limit)));
    });
  }

  absl::StatusOr<std::vector<std::vector<EqualJob>>> equal_jobs(const std::vector<Digest>& specs,
                                                                std::size_t limit) override {
    return in_snapshot([&]() -> absl::StatusOr<std::vector<std::vector<EqualJob>>> {
      std::vector<std::vector<EqualJob>> found;
      found.reserve(specs.size());
      for (const Digest& spec : specs) {
        std::vector<EqualJob>& equal = found.emplace_back();
        Rows rows = statements_.equal_jobs.query(spec, as_limit(limit));
        while (rows.next()) {
          EqualJob& job = equal.emplace_back();
          rows.read(job.experiment, job.name, job.identity);
        }
        BITRUNG_RETURN_IF_ERROR(rows.status());
      }
      return found;
    });
  }

  absl::StatusOr<std::vector<PinRow>> pins(ExperimentId id) override {
    return in_snapshot([&] {
      return all<PinRow>(statements_.pins.query(id), [](Rows& rows, PinRow& row) {
        rows.read(row.experiment, row.dataset, row.sha256);
      });
    });
  }

  absl::StatusOr<std::vector<WorkerRow>> workers() override {
    return in_snapshot([&] { return all<WorkerRow>(statements_.workers.query(), read_worker); });
  }

 private:
  // Runs a call alone and on one state of the file, however many queries it makes.
  template <typename Call>
  auto in_snapshot(Call call) -> decltype(call()) {
    const std::lock_guard lock(mutex_);
    auto result = [&]() -> decltype(call()) {
      BITRUNG_RETURN_IF_ERROR(statements_.begin.run());
      auto answer = call();
      const absl::Status ended = statements_.end.run();
      if (answer.ok() && !ended.ok()) return ended;
      return answer;
    }();
    if (on_fault_ != nullptr && is_fault(result.status())) on_fault_(result.status());
    return result;
  }
  // Everything else says something of the question.
  static bool is_fault(const absl::Status& status) {
    return absl::IsUnavailable(status) || absl::IsDataLoss(status) ||
           absl::IsResourceExhausted(status);
  }

  template <typename Row, typename Read>
  static absl::StatusOr<std::vector<Row>> all(Rows rows, Read read) {
    std::vector<Row> found;
    while (rows.next()) read(rows, found.emplace_back());
    BITRUNG_RETURN_IF_ERROR(rows.status());
    return found;
  }

  static absl::StatusOr<std::vector<std::string>> texts(Rows rows) {
    return all<std::string>(std::move(rows),
                            [](Rows& from, std::string& text) { from.read(text); });
  }

  static absl::StatusOr<std::optional<ExperimentRow>> one_experiment(Rows rows) {
    std::optional<ExperimentRow> found;
    if (rows.next()) read_experiment(rows, found.emplace());
    BITRUNG_RETURN_IF_ERROR(rows.status());
    return found;
  }

  static absl::Status no_experiment(std::int64_t id) {
    return absl::NotFoundError(
        fmt::format("there is no experiment {}; `bitrung list` shows all", id));
  }
  static absl::Status no_job(JobId id) {
    return absl::NotFoundError(fmt::format("there is no job {}", number(id)));
  }

  // Why there is none: in a snapshot.
  absl::Status no_job_named(ExperimentId id, std::string_view job_name) {
    BITRUNG_ASSIGN_OR_RETURN(const auto owner,
                             one_experiment(statements_.experiment_by_id.query(id)));
    if (!owner) return no_experiment(number(id));
    BITRUNG_ASSIGN_OR_RETURN(const auto known, texts(statements_.job_names.query(id)));
    return absl::NotFoundError(
        fmt::format("there is no job \"{}\" in experiment {} ({}); {}`bitrung status {}` shows "
                    "all",
                    job_name, number(id), owner->name, did_you_mean(job_name, known), number(id)));
  }

  absl::StatusOr<std::vector<JobRow>> read_jobs(Rows rows);

  std::mutex mutex_;
  Connection connection_;
  const std::function<void(const absl::Status&)> on_fault_;
  Statements statements_;
  SpecJoiner specs_;
};

absl::StatusOr<std::vector<JobRow>> SqliteReader::read_jobs(Rows rows) {
  std::vector<JobRow> found;
  while (rows.next()) {
    JobRow& row = found.emplace_back();
    read_job(rows, row.spec, row.state, row.changed_seq);
    std::optional<std::string> worker;
    rows.read_from(kJobColumnCount, worker);
    BITRUNG_ASSIGN_OR_RETURN(row.spec.spec_json, specs_.read(rows, kJobColumnCount + 1));
    row.worker = std::move(worker).value_or("");

    Rows aliases = statements_.aliases.query(row.spec.id);
    while (aliases.next()) aliases.read(row.spec.aliases.emplace_back());
    BITRUNG_RETURN_IF_ERROR(aliases.status());
    Rows inputs = statements_.inputs.query(row.spec.id);
    while (inputs.next()) {
      InputRow input;
      bool chosen = false;
      inputs.read(input.role, input.parent, input.artifact, input.choice, chosen);
      add_input(input, chosen, row.spec, row.state);
    }
    BITRUNG_RETURN_IF_ERROR(inputs.status());
  }
  BITRUNG_RETURN_IF_ERROR(rows.status());
  return found;
}

absl::StatusOr<std::vector<SeriesRow>> SqliteReader::series(JobId id,
                                                            const std::vector<std::string>& names,
                                                            bool with_points) {
  return in_snapshot([&]() -> absl::StatusOr<std::vector<SeriesRow>> {
    std::vector<SeriesRow> found;
    Rows rows = statements_.series.query(id);
    while (rows.next()) {
      SeriesRow row;
      row.job = id;
      std::int64_t series_id = 0;
      rows.read(series_id, row.attempt, row.name, row.point_count, row.first_step, row.last_step,
                row.min, row.max, row.last);
      if (!names.empty() && std::ranges::find(names, row.name) == names.end()) continue;
      if (with_points) {
        row.points.reserve(row.point_count);
        Rows chunks = statements_.points.query(series_id);
        while (chunks.next()) {
          if (!parse_points(chunks.text(0), row.points)) {
            return absl::DataLossError(
                fmt::format("points of series \"{}\" of job {} in {} are damaged", row.name,
                            number(id), connection_.path().string()));
          }
        }
        BITRUNG_RETURN_IF_ERROR(chunks.status());
      }
      found.push_back(std::move(row));
    }
    BITRUNG_RETURN_IF_ERROR(rows.status());
    return found;
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoreReader>> StoreReader::open(
    const std::filesystem::path& state_directory,
    std::function<void(const absl::Status&)> on_fault) {
  const std::filesystem::path path = state_directory / kDatabaseFile;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(fmt::format("there is no {}; a server creates it", path.string()));
  }
  BITRUNG_ASSIGN_OR_RETURN(Connection connection,
                           Connection::open(path, Connection::Mode::kReadOnly));
  BITRUNG_RETURN_IF_ERROR(check_version(connection, migrations()));
  BITRUNG_ASSIGN_OR_RETURN(const std::int64_t version,
                           connection.query_integer("read_version", "PRAGMA user_version"));
  if (version < std::ssize(migrations())) {
    return absl::FailedPreconditionError(
        fmt::format("{} has version {}, this program reads version {}; start its server once, "
                    "which brings it up to date",
                    path.string(), version, migrations().size()));
  }
  auto reader = std::make_unique<SqliteReader>(std::move(connection), std::move(on_fault));
  BITRUNG_RETURN_IF_ERROR(reader->start());
  return reader;
}

}  // namespace bitrung::db
