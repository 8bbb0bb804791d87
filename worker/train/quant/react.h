// ReActNet (Liu et al. 2020, arXiv 2003.03488): signs about a learned threshold, and a learned,
// shifted PReLU after each sum.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With q_k of sign_levels.h, a = mean |w| of each output channel at 1 bit, else max |w|, b_c the
// learned thresholds of the channels, and g the gradient from above:
//
//                              value            gradient
//   weights, k = 1             a sign(w)        g 1[|w| <= 1]
//   weights, 1 < k < 32        a q_k(w / a)     g
//   activations, k = 1         sign(x - b_c)    g max(0, 2 - 2 |x - b_c|)
//   activations, 1 < k < 32    q_k(x - b_c)     g 1[|x - b_c| <= 1]
//   after the sum, k < 32      P(y - c_c) + d_c, P(u) = u for u > 0, else p_c u
//   k = 32                     unchanged        g
//
// a is a constant in the backward pass; b_c gets minus the sum of what x gets. sign(0) = 1. A
// channel of zeros stays zero. Thresholds and shifts begin with 0, the slopes p_c with 1/4; none of
// them decays, as in the authors' code. Activations have no ReLU before them.
MethodEntry react_method();

}  // namespace bitrung::train
