// A made-up study in the middle of its life, as the API describes it, for the tests of renderers.
#pragma once

#include <string>
#include <vector>

#include "bitrung/v1/experiment_service.pb.h"
#include "bitrung/v1/fleet_service.pb.h"
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
std::vector<v1::Worker> sample_workers();

}  // namespace bitrung::cli
