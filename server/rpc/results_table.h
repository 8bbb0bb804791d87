// The table of a study: bits down, entries of the experiment file across, seeds folded into mean
// and spread.
#pragma once

#include <vector>

#include "bitrung/v1/results_service.pb.h"
#include "db/rows.h"

namespace bitrung::rpc {

// Sets entries and rows of the response. A job stands in the cell of each of its names:
// "alone.bits=4.seed=20" belongs to entry "alone". Differences are taken between jobs whose names
// agree after the entry, as "bits=4.seed=20" does.
void fill_results_table(const std::vector<db::JobRow>& jobs, v1::GetResultsResponse& response);

}  // namespace bitrung::rpc
