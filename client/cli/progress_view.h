// The live view of an experiment as lines of text. Pure: what is known, the time and the size of
// the terminal go in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bitrung/v1/types.pb.h"
#include "client/cli/experiment_view.h"
#include "client/cli/output.h"

namespace bitrung::cli {

// One line per job and one for the whole, none wider than the terminal and together fewer than its
// height. With more jobs than lines the finished and the waiting ones are counted in a line each,
// what runs or failed stays.
std::vector<std::string> progress_lines(const ExperimentView& view, double elapsed_seconds,
                                        const Terminal& terminal);

// A change of one job as a plain line without a line end, for when there is no terminal; empty if
// it says nothing new to a person.
std::string change_line(const v1::Job& job);

// The same as tab-separated fields and as JSON, for `watch` on a pipe.
std::string change_tsv_header();
std::string change_tsv(const v1::Job& job, std::int64_t now_ms);
std::string change_json(const v1::Job& job, std::int64_t now_ms);

}  // namespace bitrung::cli
