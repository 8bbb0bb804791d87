// IR-Net (Qin et al. 2019, arXiv 1909.10788): balanced, standardized weights whose scale is a power
// of two, and a gradient that sharpens during the training.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With q_k of sign_levels.h, z the weights of an output channel less their mean and over their
// unbiased deviation, and g the gradient from above:
//
//   t = 10^(-3 + 4 progress)                           from 1e-3 to 10 during the training
//   E(x) = max(1 / t, 1) t (1 - tanh^2(t x))           the error decay estimator
//   s = 2^rint(log2 mean |z|) at 1 bit, else 2^rint(log2 max |z|)
//
//                              value          gradient
//   weights, k = 1             s sign(z)      g s E(z), through mean and deviation
//   weights, 1 < k < 32        s q_k(z / s)   g 1[|z| <= s], through mean and deviation
//   activations, k = 1         sign(x)        g E(x)
//   activations, 1 < k < 32    q_k(x)         g 1[|x| <= 1]
//   k = 32                     unchanged      g
//
// s is a constant in the backward pass. sign(0) = 1. A channel of equal weights is zero; its
// deviation and scale count as 1 in the gradient, so that it can leave that state. Activations have
// no ReLU before them.
MethodEntry ir_net_method();

}  // namespace bitrung::train
