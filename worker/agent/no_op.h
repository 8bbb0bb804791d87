// Attempts that are done at once, without a trainer: what the benchmarks of the coordinator run.
//
// Everything but the training is real: the session, the spool, the upload, the outcome. A worker in
// this mode says numerics that no trainer has, so that no real job ever fits it, nor one of its
// jobs a real worker.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "worker/agent/slots.h"
#include "worker/agent/types.h"

namespace bitrung::agent {

inline constexpr std::uint32_t kNoOpNumerics = std::numeric_limits<std::uint32_t>::max();

struct NoOpOptions {
  // Reported by each attempt before it succeeds, in batches as a trainer sends them.
  std::uint32_t points = 0;
};

// So many slots of a device that computes nothing.
std::vector<Slot> no_op_slots(std::uint32_t count);

// The network that every attempt "makes": a container without tensors.
std::string no_op_model();

// Points first..first+count-1 (from 1) of an attempt: four series by turns, one step per turn,
// values as a training reports them (single precision, widened).
std::vector<Point> no_op_points(std::uint64_t first, std::uint64_t count);

}  // namespace bitrung::agent
