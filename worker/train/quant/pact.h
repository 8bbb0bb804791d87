// PACT (Choi et al. 2018, arXiv 1805.06085): activations clipped at a learned level: `pact`.
//
// Its weights are those of `dorefa`.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With n = 2^k - 1, a the clip and g the gradient from above:
//
//   y = rint(clamp(x, 0, a) n / a) a / n;  dx = g where 0 < x < a, else 0;  da = sum of g where
//   x >= a
//
// One a for each layer, options clip_init and clip_decay. It is taken to be at least 1e-4, so that
// the range is never empty; from there its gradient leads it back.
MethodEntry pact_method();

}  // namespace bitrung::train
