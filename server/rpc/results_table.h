// The table of a study: bits down, entries of the experiment file across, seeds folded into mean,
// spread and confidence. Pure, any thread.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitrung/v1/results_service.pb.h"
#include "db/rows.h"
#include "server/rpc/statistics.h"

namespace bitrung::rpc {

// What is compared.
enum class Metric { kTop1, kTop5, kNll, kBrier, kEce, kValidation };
// "top1", ...
std::string_view name(Metric metric);
// Empty means top1; INVALID_ARGUMENT names the others.
absl::StatusOr<Metric> parse_metric(std::string_view text);

// What reports say, by job.
using Evaluations = std::map<JobId, db::EvaluationRow>;

// The job's value; nothing while there is none.
std::optional<double> value_of(const db::JobRow& job, Metric metric,
                               const Evaluations& evaluations);

struct ResultsQuery {
  std::vector<std::string> group_by;  // Empty for the default lines.
  Metric metric = Metric::kTop1;
};

// Sets entries, rows and what describes them in the response. A job stands in the cell of each of
// its names: "alone.bits=4.seed=20" belongs to entry "alone".
//
// Default lines: model, data set, method, bits, and every further option that differs among an
// entry's jobs. An entry without such an option stands in every line that differs in it: alone at
// 4 bits beside each temperature of assisted at 4 bits.
//
// Pairs are of equal seed, network, data set, method and bits; options that differ within one of
// the two entries must agree where both jobs have them.
//
// INVALID_ARGUMENT for an option that no job has.
absl::Status fill_results_table(const std::vector<db::JobRow>& jobs, const Evaluations& evaluations,
                                const ResultsQuery& query, v1::GetResultsResponse& response);

void to_proto(const Summary& summary, v1::Summary& out);

// Two values of one seed.
struct SeedPair {
  std::uint64_t seed = 0;
  double first = 0;
  double second = 0;
};
// The paired test of "second minus first", with the pairs; nothing for no pairs.
std::optional<v1::PairedTest> compare_seeds(const std::vector<SeedPair>& pairs);

}  // namespace bitrung::rpc
