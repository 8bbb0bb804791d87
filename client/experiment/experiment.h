// The experiment file: read, checked and expanded into a graph of jobs.
//
// The only YAML reader of the product. Nothing here talks to a server or knows how a job is run: a
// file and overrides go in, a graph with one node per distinct training comes out, or one message
// that names file, line, value, what is allowed and what to do. Thread-safe: functions of their
// arguments and the file system.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "db/base/digest.h"
#include "db/words.h"

namespace bitrung::client {

// What a job takes from before it: another job of the graph, the best of several, or a file
// outside.
struct Input {
  InputRole role;
  // Indices in Graph::jobs. Of several the one with the highest validation accuracy is taken, of
  // equals the earlier. Empty for a file.
  std::vector<std::size_t> jobs = {};
  std::optional<std::filesystem::path> file =
      {};  // Outside artifact, existing and readable; uploaded before a submit.
  std::optional<Digest> file_sha256 = {};  // Its digest; set exactly when file is.
};

enum class JobKind : std::uint8_t { kTrain, kQuantize, kEvaluate };

// One distinct training, quantization or evaluation.
struct Job {
  std::string name;                  // First name met in the file.
  std::vector<std::string> aliases;  // Further names of the same work, in file order.
  std::string spec_json;             // Canonical options; see worker/train/PROTOCOL.md.
  std::vector<Input> inputs;         // Teachers in their order, then init; or one source.
  std::uint32_t retries = 2;
  double timeout_seconds = 0;  // 0 is unlimited.
  std::int32_t priority = 0;
  std::uint32_t devices = 1;
  std::uint64_t memory_bytes = 0;  // 0 for any.

  // Headline options, as in spec_json, for tables.
  JobKind kind = JobKind::kTrain;
  std::string model;
  std::string shortcut;  // "block" or "convolution".
  std::string dataset;
  std::string method;  // "dorefa", or "weights/activations" when they differ.
  int weight_bits = 32;
  int activation_bits = 32;
  std::uint64_t seed = 0;
  int epochs = 0;  // 0 where nothing is trained.
};

// "dorefa", or "weights/activations" when they differ.
std::string method_name(std::string_view weights, std::string_view activations);

// The expanded file.
struct Graph {
  std::string name;
  std::string source_yaml;  // As written, before overrides.
  std::vector<Job> jobs;    // In file order; parents may come after children.
};

// "defaults.epochs=1" split at the first '='; the value is YAML ("[32, 4]", "{kind: cosine}",
// "cifar10").
using Override = std::pair<std::string, std::string>;
absl::StatusOr<Override> parse_override(std::string_view text);

// Reads, overrides, checks and expands. Errors are InvalidArgument (bad content, with file:line),
// NotFound (no file), ResourceExhausted (a limit). Limits: 4 MiB file, 100,000 jobs, nesting 32.
absl::StatusOr<Graph> load_experiment(const std::filesystem::path& file,
                                      const std::vector<Override>& overrides);

// The same from text; `display_name` stands for the file in messages, relative artifact paths start
// at `directory`.
absl::StatusOr<Graph> parse_experiment(std::string_view text, std::string_view display_name,
                                       const std::filesystem::path& directory,
                                       const std::vector<Override>& overrides);

// Floating-point operations of a job: 2 per multiply-accumulate, backward counted as twice the
// forward, plus the teachers' forward. An estimate for people and for the order of the jobs.
double training_flops(const Graph& graph, std::size_t job);

// Jobs on the longest chain of inputs, e.g. 6 for a ladder of six rungs.
std::size_t critical_path_length(const Graph& graph);

}  // namespace bitrung::client
