// The results of an experiment as text, TSV and JSON. Pure: the server has computed every number,
// nothing is computed here again.
#pragma once

#include <string>

#include "bitrung/v1/results_service.pb.h"
#include "client/cli/output.h"

namespace bitrung::cli {

// The table of bits by entry, best paths, the counts, the failures and the next commands.
std::string render_results_text(const v1::GetResultsResponse& results, const Style& style);
// A header and one line per cell of the table.
std::string render_results_tsv(const v1::GetResultsResponse& results);
// {experiment, state, jobs, metric, …}: the promised shape.
std::string render_results_json(const v1::GetResultsResponse& results);

std::string render_results(const v1::GetResultsResponse& results, OutputMode mode,
                           const Style& style);

// "11 jobs: 9 succeeded (3 cached), 1 failed, 1 skipped".
std::string count_line(const v1::Experiment& experiment);

// How commands name an experiment to people: its number, which stays right when a newer one takes
// the name.
std::string experiment_argument(const v1::Experiment& experiment);

}  // namespace bitrung::cli
