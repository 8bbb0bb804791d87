// Ways down from many bits to few: a ladder, every path of teacher assistants, or the edges of the
// search for the best path. Each turns the list of rungs into the values of one axis, and says for
// every value which others of it teach. Pure.
#pragma once

#include <cstddef>
#include <cstdint>

#include "client/experiment/document.h"

namespace bitrung::client {

// Each rung is taught by the one above it.
void make_ladder(Axis& rungs);

// How many trainings there are from the first rung down: one for each set of rungs between.
// Saturates.
std::uint64_t path_count(std::size_t rungs);

// A value for every path: "32", "32-16", "32-16-8", "32-8", …; each is taught by the path that ends
// one rung before it. Paths that begin alike share that beginning. At most kJobsMax paths.
void make_paths(Axis& rungs);

// A value for every pair of rungs: "32", "16.from=32", "8.from=32", "8.from=16", …. B.from=C is
// taught by the best of all values at rung C.
void make_best_path(Axis& rungs);

}  // namespace bitrung::client
