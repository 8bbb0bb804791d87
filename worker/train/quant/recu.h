// ReCU (Xu et al. 2021, arXiv 2103.12369): standardized weights clamped to a quantile of theirs, so
// that far-off ones, whose sign hardly ever changes, come back.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With q_k of sign_levels.h, u = 2 sqrt(2) (w - mean) / sqrt(variance + 1e-5) for each output
// channel (unbiased variance), and g the gradient from above:
//
//   tau = 0.85 + 0.14 (e^progress - 1) / (e - 1)       from 0.85 to 0.99 during the training
//   Q = -mean |u| log(2 - 2 tau)                       over the whole tensor
//   v = clamp(u, -Q, Q); m = max |v| of each output channel
//   y = x / sqrt(variance of the sample + 1e-5)
//
//                              value          gradient
//   weights, k = 1             sign(v)        g 1[|u| <= Q], through mean and deviation
//   weights, 1 < k < 32        m q_k(v / m)   the same
//   output of the layer        a_c z          a_c g, and for a_c the sum of g z
//   activations, k = 1         sign(y)        g max(0, 2 - 2 |y|), through the deviation
//   activations, 1 < k < 32    q_k(y)         g 1[|y| <= 1], through the deviation
//   k = 32                     unchanged      g
//
// Q and m are constants in the backward pass. sign(0) = 1. A channel of equal weights is zero. The
// schedule of tau is that of the authors' code; outside training the last tau holds, which is kept
// as the buffer "tau". a_c is learned (one for each output channel) and begins with 1, where the
// authors draw it from [0, 1): equal seeds of different methods shall begin equal. Activations have
// no ReLU before them.
MethodEntry recu_method();

}  // namespace bitrung::train
