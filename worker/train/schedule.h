// Learning rate of each epoch. Pure functions; no LibTorch.
#pragma once

#include <cstdint>

#include "worker/train/spec.h"

namespace bitrung::train {

// Rate of an epoch counted from 0, for a training of `epochs` epochs and base rate `base`:
//   constant  base
//   step      base * factor^(number of fractions f in `at` with epoch >= floor(f * epochs))
//   cosine    base * (1 + cos(pi * epoch / epochs)) / 2      (Loshchilov and Hutter 2017, one
//   cycle, no restart)
// In the first warmup_epochs epochs w the result is scaled by (epoch + 1) / (w + 1).
double learning_rate_at(const Schedule& schedule, double base, std::int64_t epoch,
                        std::int64_t epochs);

}  // namespace bitrung::train
