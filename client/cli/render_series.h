// Series of jobs as text with a sparkline, as points in TSV, and as JSON. Pure.
#pragma once

#include <string>

#include "bitrung/v1/job_service.pb.h"
#include "client/cli/output.h"

namespace bitrung::cli {

std::string render_series(const v1::GetSeriesResponse& response, OutputMode mode,
                          const Style& style);

}  // namespace bitrung::cli
