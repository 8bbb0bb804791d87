// LSQ+ (Bhalgat et al. 2020, arXiv 2004.09576): learned step size and offset: `lsq-plus`.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// Activations, with s the learned step, b the learned offset, v = (x - b) / s, n = 2^k - 1 and f =
// 1 / sqrt(N n), N being the elements of one sample:
//
//   y = rint(clamp(v, 0, n)) s + b;  dx = g where 0 < v < n, else 0
//   ds = f sum of g (0 where v <= 0, n where v >= n, else rint(v) - v)
//   db = f sum of g where v <= 0 or v >= n
//
// s and b begin as the best of 100 grids over the first training batch: from r min x to r max x,
// r = 0.01, 0.02 … 1, the one with the smallest squared error (of equals the narrower one; at most
// 65536 values, evenly spread, are looked at). A batch of zeros gives s = 1 and b = 0.
//
// Weights as `lsq`, with another first step: max(|m - 3 d|, |m + 3 d|) / 2^(k-1), m being their
// mean and d their standard deviation (of the population); at 1 bit mean |w|.
MethodEntry lsq_plus_method();

}  // namespace bitrung::train
