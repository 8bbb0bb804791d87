// XNOR-Net (Rastegari et al. 2016, arXiv 1603.05279): signs with a scale for each output channel.
//
// The map of scales of the activations (K in the paper) is left out, as in most later work: the
// batch normalisation that follows takes its place.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With q_k of sign_levels.h, a = mean |w| of each output channel of n weights at 1 bit, else
// max |w|, and g the gradient from above:
//
//                              value          gradient
//   weights, k = 1             a sign(w)      g (1 / n + a 1[|w| <= 1])
//   weights, 1 < k < 32        a q_k(w / a)   g
//   activations, k < 32        q_k(x)         g 1[|x| <= 1]
//   k = 32                     unchanged      g
//
// 1 / n is the scale's own part of the gradient, as the paper writes it. sign(0) = 1. A channel of
// zeros stays zero. Activations have no ReLU before them.
MethodEntry xnor_method();

}  // namespace bitrung::train
