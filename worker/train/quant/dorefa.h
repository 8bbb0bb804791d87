// DoReFa (Zhou et al. 2016, arXiv 1606.06160) as the bit-ladder study writes it: `dorefa`.
//
// It departs from the paper in three places, on purpose, because published ladders were trained
// this way: weights of more than 1 bit keep their own scale M, the gradient does not flow through
// M, and 1-bit activations are sign(clamp(x, 0, 1)), whose threshold is 0 and not 1/2. The gradient
// is never quantized.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With n = 2^k - 1, rint to even, and g the gradient from above:
//
//   weights, k = 32     w                                                                   g
//   weights, 1 < k < 32 t = tanh w, M = max |t|: M (2 rint(n (t / 2M + 1/2)) / n - 1)       g (1 -
//   t^2) weights, k = 1      mean |w| sign(w), sign(0) = 0                                       g
//   activations, k = 32 x                                                                   g
//   activations, k < 32 rint(n clamp(x, 0, 1)) / n; k = 1: sign(clamp(x, 0, 1))             g on 0
//   <= x <= 1, else 0
//
// M and the mean are taken over the whole tensor. A tensor of zeros stays zero. 2^k levels are
// symmetric about zero and do not contain it: w = 0 lies between two levels and goes to the upper
// one, M / n.
MethodEntry dorefa_method();

}  // namespace bitrung::train
