// What differs between two jobs or sets of jobs, as text, TSV and JSON. Pure; the server has
// computed every number.
#pragma once

#include <string>

#include "bitrung/v1/results_service.pb.h"
#include "client/cli/output.h"

namespace bitrung::cli {

std::string render_comparison(const v1::CompareResponse& comparison, OutputMode mode,
                              const Style& style);

}  // namespace bitrung::cli
