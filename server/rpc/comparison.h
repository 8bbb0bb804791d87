// What differs between two jobs, or between two sets of jobs that were trained with the same seeds:
// their options, their numbers, their layers. Pure, any thread.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitrung/v1/results_service.pb.h"
#include "db/rows.h"
#include "server/rpc/job_options.h"

namespace bitrung::rpc {

// One side of a comparison. Borrows the rows.
struct ComparedJobs {
  std::string label;  // "3/alone", for people.
  std::vector<NamedJob> jobs;
  std::vector<std::string> keys;  // Of each job: its name without the part that was asked for and
                                  // without the seed.
};

// The jobs that a reference names: a job or an alias; all seeds of "alone.bits=4"; all jobs of an
// entry; of "", the experiment. NOT_FOUND with the nearest names otherwise.
absl::StatusOr<ComparedJobs> select_jobs(const std::vector<db::JobRow>& rows,
                                         std::string_view experiment, std::string_view reference);

// Reports by job, for those that have one.
using Reports = std::map<JobId, nlohmann::json>;

// Jobs of one key are compared, pair by pair of equal seeds; where no key is on both sides, jobs of
// equal bits are. Two single jobs are always a pair. FAILED_PRECONDITION if nothing can be paired.
absl::Status fill_comparison(const ComparedJobs& a, const ComparedJobs& b, const Reports& reports,
                             v1::CompareResponse& response);

}  // namespace bitrung::rpc
