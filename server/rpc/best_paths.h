// Entries made by `paths:` or `search: best-path`: the best path of teachers to each bitwidth, and
// what the fixed chain 32 -> 16 -> 8 -> ... loses against it. Pure, any thread.
//
// The jobs are known by their names: "ENTRY.path=32-16-4" ends at 4 bits and was taught along
// 32 and 16; "ENTRY.bits=4.from=16" was taught by the best network of 16 bits.
#pragma once

#include <vector>

#include "bitrung/v1/results_service.pb.h"
#include "db/rows.h"

namespace bitrung::rpc {

// Adds a table for each such entry.
//
// The best is chosen by validation accuracy where every result has one, else by test accuracy. Of
// `paths:` one path is chosen, by the mean over seeds. A search has chosen for each seed on its
// own, of equals the earlier job, so its numbers are those of each seed's best. The chain is the
// path that takes every rung; for a search it is the first entry that is a ladder.
void fill_best_paths(const std::vector<db::JobRow>& jobs, v1::GetResultsResponse& response);

}  // namespace bitrung::rpc
