// What a worker talks about, as plain values: attempts, offers, points, log lines, outcomes.
//
// No protobuf, JSON, Asio or clock: adapters translate at the edges (wire.h, trainer_protocol.h,
// spool.h).
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "db/base/digest.h"
#include "db/words.h"

namespace bitrung::agent {

// A monotonic instant handed in with each event; nothing in the core reads a clock.
using Time = std::chrono::steady_clock::time_point;
using std::chrono::milliseconds;

// Limits of the wire, from worker_service.proto.
inline constexpr std::uint64_t kPointsPerBatchMax = 1000;
// 200 lines of 4 KiB stay below the 1 MiB that a message may have.
inline constexpr std::uint64_t kLinesPerBatchMax = 200;
inline constexpr std::size_t kLineBytesMax = 4096;
// Names of series are short words (is_valid_name). The server ends a session in which another one
// is said, and a batch with it would be said again in the next.
inline constexpr std::size_t kSeriesNameBytesMax = 64;
// Of one attempt. The server ends a session in which there are more.
inline constexpr std::size_t kSeriesPerAttemptMax = 1000;
// A report that fits a message with the numbers beside it, and the trainer's line of 1 MiB.
inline constexpr std::size_t kReportBytesMax = std::size_t{768} << 10;

struct AttemptKey {
  JobId job{};
  AttemptNumber attempt{};

  auto operator<=>(const AttemptKey&) const = default;
};

// "12-3": names the attempt's directories and is its key in the trainer protocol.
std::string to_string(const AttemptKey& key);
std::optional<AttemptKey> parse_attempt_key(std::string_view text);

struct OfferInput {
  InputRole role{};
  Digest artifact;

  auto operator<=>(const OfferInput&) const = default;
};

struct Offer {
  AttemptKey key;
  std::uint32_t slot = 0;
  // Of its trainer, each on a core of its own where slots share cores; 0 for the slot's own number.
  // An interrupted attempt has no use for it, so it is not in the journal.
  std::uint32_t threads = 0;
  std::string display_name;
  std::string spec_json;
  std::string dataset;  // Taken out of spec_json; empty when that cannot be read.
  std::vector<OfferInput> inputs;
  std::optional<Digest> resume;
  std::optional<Digest> dataset_sha256;
  milliseconds timeout{};  // 0 is unlimited.
};

struct Point {
  std::string series;
  std::int64_t step = 0;
  double value = 0;

  auto operator<=>(const Point&) const = default;
};

struct LogLine {
  std::int64_t time_ms = 0;  // Wall clock, for people only.
  std::string text;          // Valid UTF-8, at most kLineBytesMax.

  auto operator<=>(const LogLine&) const = default;
};

struct Progress {
  std::uint32_t epoch = 0;
  std::uint32_t epochs = 0;
  std::uint64_t step = 0;
  std::uint64_t steps = 0;
  double images_per_second = 0;
  std::optional<double> accuracy;
  std::optional<double> eta_seconds;
};

struct Result {
  std::optional<double> test_accuracy;
  std::optional<double> validation_accuracy;
  std::optional<double> test_loss;
  std::uint32_t best_epoch = 0;
  double duration_seconds = 0;
  double images_per_second = 0;
};

struct Succeeded {
  Result result;
  Digest artifact;
  std::string report_json = {};  // What was measured of the network; empty for none.
};
struct Failed {
  FailureClass failure_class = FailureClass::kTrainerCrashed;
  std::string message;
};
struct Cancelled {};
using Outcome = std::variant<Succeeded, Failed, Cancelled>;

// A data set this worker has; `directory` is the --data-dir that holds it, empty for the synthetic
// one.
struct DatasetEntry {
  std::string name;
  Digest sha256;
  std::string directory;

  auto operator<=>(const DatasetEntry&) const = default;
};

// Replaces what is not valid UTF-8 by U+FFFD: protobuf refuses other text, and a trainer may print
// anything.
std::string to_utf8(std::string_view text);

// Pieces of at most kLineBytesMax that do not cut a character in two; one empty piece for an empty
// text.
std::vector<std::string> split_line(std::string_view text);

}  // namespace bitrung::agent
