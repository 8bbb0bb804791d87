// Additive powers of two (Li et al. 2019, arXiv 1909.13144): `apot`.
#pragma once

#include <vector>

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// The 2^bits magnitudes in [0, 1], ascending: all sums of one term from each set, divided by the
// largest sum. With m = bits / 2 rounded down there are the sets j = 1 … m of {0, 2^-j, 2^-(j+m),
// 2^-(j+2m)}; an odd number of bits shifts the last terms to 2^-(j+2m+1) and adds the set {0,
// 2^-(2m+1)}. For 1 to 6 bits these are the authors' sets. bits is 1 to 16.
std::vector<double> apot_magnitudes(int bits);

// With a the learned clip, q the nearest level (of two equally near the smaller magnitude) and g
// the gradient from above:
//
//   weights      u = (w - mean w) / (d a), d the unbiased standard deviation (1 where there is
//                none); y = a sign(u) q(min(|u|, 1)), q among the magnitudes of k - 1 bits
//                dw = g / d, not clipped; mean and deviation are constants
//                da = sum of g (sign u where |u| > 1, else y / a - u)
//   activations  u = x / a; y = a q(clamp(u, 0, 1)), q among the magnitudes of k bits
//                dx = g where u <= 1, else 0; da = sum of g (1 where u > 1, else y / a - u)
//
// a begins as 3 for weights and 8 for activations, is taken to be at least 1e-4, has a weight decay
// of 1e-4, and for weights a fifth of the learning rate (the authors train a of activations at 0.1
// and a of weights at 0.02). Weights of 1 bit have no magnitude left and are refused.
MethodEntry apot_method();

}  // namespace bitrung::train
