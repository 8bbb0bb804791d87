// What is on disk about the attempts of this worker until the server has acknowledged their
// outcome.
//
//   spool.journal                        what was offered, noted before anything is done about it,
//                                        and how it ended, durable before it is said (journal.h)
//   spool/<job>-<attempt>/points.log     every point, numbered from 1, and the acknowledged
//   watermark
//                         lines.log      every log line, likewise
//   work/<job>-<attempt>/                the trainer's private directory
//
// Offers, points and lines survive the death of this process as soon as they are appended, that of
// the host once synced, a second later. Not thread-safe, but sync() may run on another thread with
// what duplicates() gave.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/files.h"
#include "worker/agent/core.h"
#include "worker/agent/journal.h"
#include "worker/agent/record_log.h"
#include "worker/agent/types.h"

namespace bitrung::agent {

class AttemptSpool {
 public:
  static absl::StatusOr<AttemptSpool> open(const std::filesystem::path& directory);

  absl::Status append_points(std::span<const Point> points);
  absl::Status append_line(const LogLine& line);
  absl::StatusOr<std::vector<Point>> read_points(std::uint64_t first, std::uint64_t last) const;
  absl::StatusOr<std::vector<LogLine>> read_lines(std::uint64_t first, std::uint64_t last) const;
  absl::Status acknowledge(std::uint64_t points, std::uint64_t lines);

  StreamPosition points() const { return {points_.size(), points_.acknowledged()}; }
  StreamPosition lines() const { return {lines_.size(), lines_.acknowledged()}; }
  absl::StatusOr<std::vector<FileDescriptor>> duplicates() const;

 private:
  AttemptSpool(RecordLog points, RecordLog lines)
      : points_(std::move(points)), lines_(std::move(lines)) {}

  RecordLog points_;
  RecordLog lines_;
};

// The directories of a worker's attempts.
struct SpoolLayout {
  std::filesystem::path state_directory;

  std::filesystem::path journal() const { return state_directory / "spool.journal"; }
  std::filesystem::path spool(const AttemptKey& key) const;
  std::filesystem::path work(const AttemptKey& key) const;
};

// Notes that everything measured before the resume state of this epoch is in the spool, durably.
// Only such a state is recovered: one that the trainer wrote and nobody heard of may be ahead of
// its points, and a training that went on from it would leave a hole in them.
absl::Status persist_resume_epoch(const SpoolLayout& layout, const AttemptKey& key,
                                  std::uint32_t epoch);
// Removes both directories. Interrupted, it is finished by the next recover().
absl::Status remove_attempt(const SpoolLayout& layout, const AttemptKey& key);
// Every attempt in the journal, and those that an earlier version left with an offer.json and
// perhaps an outcome.json in their directory. Directories without an offer were never accepted and
// are removed, as is a work directory without a spool.
absl::StatusOr<std::vector<RecoveredAttempt>> recover(const SpoolLayout& layout,
                                                      const Journal& journal);

absl::StatusOr<Offer> parse_offer(std::string_view json);
absl::StatusOr<Outcome> parse_outcome(std::string_view json);

// The data set that canonical options name; empty if they name none.
std::string dataset_of(std::string_view spec_json);

}  // namespace bitrung::agent
