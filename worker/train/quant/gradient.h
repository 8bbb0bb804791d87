// Quantized gradients (Zhou et al. 2016, arXiv 1606.06160, section 2.5).
#pragma once

#include <string_view>

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// The identity, whose gradient is quantized to `bits` (below 32): for each sample of y (N,...) with
// m the largest magnitude of its gradient dy and n = 2^bits - 1,
//   2 m (Q(dy / (2 m) + 1/2 + noise) - 1/2),  Q(v) = rint(n clamp(v, 0, 1)) / n,
// the noise being uniform in +-1/2 of a level, a function of (seed, step, layer, position) only.
// A sample whose gradient is zero stays so.
at::Tensor quantize_gradient(const at::Tensor& y, int bits, const Pass& pass,
                             std::string_view layer);

}  // namespace bitrung::train
