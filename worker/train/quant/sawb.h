// Statistics-aware weight binning (Choi et al. 2019, Accurate and efficient 2-bit quantized neural
// networks, MLSys): `sawb`, the weights that PACT was published with at few bits.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With n = 2^k - 1 and the published c1, c2 of k bits:
//
//   a = c1 sqrt(mean w^2) + c2 mean |w|;  y = rint(n (clamp(w, -a, a) + a) / 2a) 2a / n - a
//
// and the gradient g where -a <= w <= a, else 0. a = max |w| where the formula is not positive
// (possible for odd distributions) and at 6, 7 and 16 bits, for which nobody published
// coefficients. A tensor of zeros stays zero. Not for 1 bit, nor for activations.
MethodEntry sawb_method();

}  // namespace bitrung::train
