// Lists and states as text, TSV and JSON: experiments, the jobs of one, workers, explanations.
// Pure; `now_ms` is the wall clock that ages are counted from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bitrung/v1/experiment_service.pb.h"
#include "bitrung/v1/fleet_service.pb.h"
#include "bitrung/v1/job_service.pb.h"
#include "client/cli/output.h"

namespace bitrung::cli {

std::string render_experiments(const std::vector<v1::Experiment>& experiments, OutputMode mode,
                               const Style& style, std::int64_t now_ms);

std::string render_status(const v1::Experiment& experiment, const std::vector<v1::Job>& jobs,
                          OutputMode mode, const Style& style);

std::string render_workers(const std::vector<v1::Worker>& workers, OutputMode mode,
                           const Style& style, std::int64_t now_ms);

std::string render_explanation(const v1::JobReference& job,
                               const v1::ExplainJobResponse& explanation, OutputMode mode,
                               const Style& style);

}  // namespace bitrung::cli
