// A made-up study in the middle of its life, as the API describes it, for the tests of renderers.
#pragma once

#include <string>
#include <vector>

#include "bitrung/v1/experiment_service.pb.h"
#include "bitrung/v1/fleet_service.pb.h"
#include "bitrung/v1/job_service.pb.h"
#include "bitrung/v1/results_service.pb.h"
#include "client/cli/output.h"

namespace bitrung::cli {

inline constexpr Style kPlainStyle{.colour = false, .unicode = false};
inline constexpr Style kFullStyle{.colour = true, .unicode = true};
inline constexpr std::int64_t kNowMs = 1'800'000'000'000;

v1::Job make_job(std::int64_t id, const std::string& name, std::uint32_t bits, v1::JobState state);

// Five jobs: succeeded, cached, running, failed, blocked.
std::vector<v1::Job> sample_jobs();
v1::Experiment sample_experiment(v1::ExperimentState state = v1::EXPERIMENT_STATE_ACTIVE);
// A ladder of two seeds with a failed and a running cell.
v1::GetResultsResponse sample_results();
// A ladder of one seed.
v1::GetResultsResponse sample_single_seed();
// One entry per method at two bitwidths.
v1::GetResultsResponse sample_methods();
// The ladder of one seed with the best paths of a search.
v1::GetResultsResponse sample_paths();
// Three layers; one of them has more values than its bits allow.
v1::GetReportResponse sample_report();
// Over three seeds.
v1::CompareResponse sample_comparison();
v1::CompareResponse sample_comparison_of_entries();
std::vector<v1::Worker> sample_workers();

}  // namespace bitrung::cli
