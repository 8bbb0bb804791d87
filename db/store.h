// What the server keeps, durable in one SQLite file: experiments, jobs, attempts, series, logs,
// workers.
//
// Store is the one writer: one connection, one thread, one transaction per turn of the engine.
// StoreReader is a separate read-only connection with its own snapshot per call; any number may
// live beside the writer. Neither knows how jobs are scheduled, but the schema defends what must
// never happen (two winners, two live attempts of a job, a changed winner).
//
// Every error of the writer is final for the process: memory is ahead of the disk by then. The
// caller stops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/disk_reserve.h"
#include "db/rows.h"

namespace bitrung::db {

// Name of the file in the state directory.
inline constexpr std::string_view kDatabaseFile = "bitrung.db";

struct StoreOptions {
  // A transaction that finds this many pages in the log begins with bringing them into the database
  // file, 4 MiB at SQLite's 4 KiB: the log is short, and a checkpoint writes a page once that many
  // commits changed.
  int checkpoint_pages = 1000;
  // Told before each transaction; outlives the store. Nothing if null.
  DiskReserve* reserve = nullptr;
};

// The writer. Not thread-safe; owned by the engine's thread.
class Store {
 public:
  // Opens or creates the file, applies migrations (all or nothing), raises the term by one. A file
  // written by a newer program, or that of a backup, is refused (FAILED_PRECONDITION) before
  // anything is changed; damage is DATA_LOSS. A second Store on the same directory is
  // FAILED_PRECONDITION: a lock file is held until this one is destroyed.
  static absl::StatusOr<std::unique_ptr<Store>> open(const std::filesystem::path& state_directory,
                                                     const StoreOptions& options = {});

  virtual ~Store() = default;

  // Rises by one with each open.
  virtual std::int64_t term() const = 0;

  // All of it, for the start.
  virtual absl::StatusOr<Snapshot> load() = 0;

  // A transaction brackets a turn. Everything below but the look-ups must be called inside one.
  virtual absl::Status begin() = 0;
  // Durable on return. After an error it may be durable all the same; it is then not to be
  // acknowledged either.
  virtual absl::Status commit() = 0;

  virtual absl::Status insert_experiment(const ExperimentRow& row) = 0;
  virtual absl::Status insert_job(const JobSpecRow& spec, const JobStateRow& state) = 0;
  // Writes the changeable columns and gives the job the next value of the change counter. Refuses
  // (INTERNAL, through the schema) to change a succeeded job's result.
  virtual absl::Status update_job(const JobStateRow& state) = 0;
  virtual absl::Status set_experiment_finished(ExperimentId id, std::int64_t finished_at_ms) = 0;
  // Inserts or updates by (job, attempt).
  virtual absl::Status save_attempt(const AttemptRow& row) = 0;
  virtual absl::Status insert_pin(const PinRow& row) = 0;
  // What was measured of the network of a job that has succeeded, a JSON object. The schema refuses
  // (INTERNAL) a second one and what is no object.
  virtual absl::Status insert_report(JobId job, std::string_view report_json) = 0;
  // Inserts or updates by id.
  virtual absl::Status save_worker(const WorkerRow& row) = 0;
  virtual absl::Status record_artifact(const Digest& sha256, std::uint64_t size_bytes,
                                       std::int64_t now_ms) = 0;

  // Appends points first_sequence, first_sequence+1, …; those at or below the attempt's watermark
  // are skipped (a repeat), a gap above it is OUT_OF_RANGE and changes nothing. Returns the new
  // watermark. Sequences start at 1. A point without a series name or with a value that is not
  // finite is INVALID_ARGUMENT, an attempt that was never saved is NOT_FOUND; both change nothing
  // either.
  virtual absl::StatusOr<std::uint64_t> append_points(JobId job, std::uint32_t attempt,
                                                      std::uint64_t first_sequence,
                                                      const std::vector<PointRow>& points) = 0;
  // The same for log lines; LogRow::line and attempt are ignored on input.
  virtual absl::StatusOr<std::uint64_t> append_logs(JobId job, std::uint32_t attempt,
                                                    std::uint64_t first_line,
                                                    const std::vector<LogRow>& lines) = 0;

  // Another submit that got this experiment as its answer.
  virtual absl::Status insert_joined_request(std::string_view request_id,
                                             const Digest& request_sha256, ExperimentId id) = 0;

  // Look-ups of the engine itself; see uncommitted rows of the running turn.
  // The experiment that a submit got as its answer, with that submit's id and digest.
  virtual absl::StatusOr<std::optional<ExperimentRow>> find_request(
      std::string_view request_id) = 0;
  // Newest experiment of this name and graph that has a job which is not terminal.
  virtual absl::StatusOr<std::optional<ExperimentId>> find_active(std::string_view name,
                                                                  const Digest& graph_sha256) = 0;
  struct OfferText {
    std::string display_name;  // "experiment/job", for people.
    std::string spec_json;
    std::string dataset;
    double timeout_seconds = 0;
  };
  virtual absl::StatusOr<OfferText> offer_text(JobId id) = 0;
};

// Read-only connection. Thread-safe: calls are serialised inside; each sees one consistent
// snapshot.
class StoreReader {
 public:
  // `on_fault` is told, on the thread of the call, of each answer that the disk or damage
  // prevented.
  static absl::StatusOr<std::unique_ptr<StoreReader>> open(
      const std::filesystem::path& state_directory,
      std::function<void(const absl::Status&)> on_fault = nullptr);

  virtual ~StoreReader() = default;

  // By number ("12") or by name (newest of that name). NOT_FOUND with the nearest names otherwise.
  virtual absl::StatusOr<ExperimentRow> experiment(std::string_view reference) = 0;
  virtual absl::StatusOr<ExperimentRow> experiment(ExperimentId id) = 0;
  // Whether a submit with this id is recorded. Readers that keep no requests know none.
  virtual absl::StatusOr<bool> knows_request(std::string_view /*request_id*/) { return false; }
  // As Store::find_active().
  virtual absl::StatusOr<bool> knows_active(std::string_view /*name*/,
                                            const Digest& /*graph_sha256*/) {
    return false;
  }
  // Newest first; ids below `before` (0 for all); of this name, or all if empty.
  virtual absl::StatusOr<std::vector<ExperimentRow>> experiments(std::size_t limit,
                                                                 std::int64_t before,
                                                                 std::string_view name) = 0;
  virtual absl::StatusOr<ExperimentCounts> counts(ExperimentId id) = 0;

  // Jobs of an experiment with ids above `after`, by id.
  virtual absl::StatusOr<std::vector<JobRow>> jobs(ExperimentId id, std::size_t limit,
                                                   std::int64_t after) = 0;
  // Jobs of an experiment with a change counter above `cursor`, by counter.
  virtual absl::StatusOr<std::vector<JobRow>> changed_jobs(ExperimentId id, std::int64_t cursor,
                                                           std::size_t limit) = 0;
  virtual absl::StatusOr<JobRow> job(JobId id) = 0;
  // By name or alias. NOT_FOUND with the nearest names otherwise.
  virtual absl::StatusOr<JobRow> job(ExperimentId id, std::string_view job_name) = 0;
  virtual absl::StatusOr<std::string> job_name(JobId id) = 0;
  // Jobs of an experiment by name or alias, in the order of the names, without what is long about
  // them. NOT_FOUND as job().
  struct JobHead {
    JobId id{};
    std::string name;
    std::optional<JobId> cached_from;
  };
  virtual absl::StatusOr<std::vector<JobHead>> job_heads(ExperimentId id,
                                                         const std::vector<std::string>& names) = 0;
  virtual absl::StatusOr<std::vector<AttemptRow>> attempts(JobId id) = 0;

  // The report of a job, or of the job it was cached from; nothing if there is none.
  virtual absl::StatusOr<std::optional<std::string>> report(JobId id) = 0;
  // The final evaluations in the reports of an experiment's jobs, by id; jobs without a report are
  // left out.
  virtual absl::StatusOr<std::vector<EvaluationRow>> evaluations(ExperimentId id) = 0;

  // Names of the series with their summaries; points too if asked. Empty `names` means all. By
  // attempt, then name.
  virtual absl::StatusOr<std::vector<SeriesRow>> series(JobId id,
                                                        const std::vector<std::string>& names,
                                                        bool with_points) = 0;
  // Lines of a job after (attempt, line), in order; attempt 0 and line 0 for the first.
  // only_attempt 0 means all.
  virtual absl::StatusOr<std::vector<LogRow>> logs(JobId id, std::uint32_t only_attempt,
                                                   std::uint32_t after_attempt,
                                                   std::uint64_t after_line, std::size_t limit) = 0;
  virtual absl::StatusOr<std::uint64_t> log_count(JobId id, std::uint32_t only_attempt) = 0;

  // What a plan asks of succeeded jobs with given options.
  struct EqualJob {
    ExperimentId experiment{};
    std::string name;
    std::optional<Digest> identity;
  };
  // For each digest of canonical options the succeeded jobs that have them, newest first, without
  // those that took an equal one's result.
  virtual absl::StatusOr<std::vector<std::vector<EqualJob>>> equal_jobs(
      const std::vector<Digest>& specs, std::size_t limit) = 0;
  // Succeeded jobs of the same network and data set, newest first, without those that took an equal
  // one's result (for "why not cached" and for estimates).
  virtual absl::StatusOr<std::vector<JobRow>> succeeded_like(std::string_view model,
                                                             std::string_view dataset,
                                                             std::size_t limit) = 0;
  virtual absl::StatusOr<std::vector<PinRow>> pins(ExperimentId id) = 0;
  virtual absl::StatusOr<std::vector<WorkerRow>> workers() = 0;
};

}  // namespace bitrung::db
