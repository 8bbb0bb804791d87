// Learned step size quantization (Esser et al. 2019, arXiv 1902.08153): `lsq`.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With s the learned step, v = x / s and g the gradient from above; weights have L = -2^(k-1) and
// H = 2^(k-1) - 1, activations L = 0 and H = 2^k - 1:
//
//   y = rint(clamp(v, L, H)) s;  dx = g where L < v < H, else 0
//   ds = sum of g (L where v <= L, H where v >= H, else rint(v) - v) / sqrt(N H)
//
// N: elements of the weights (of the whole tensor with a step for each output channel), and of
// activations those of one sample, the paper's number of features. First value 2 mean |x| /
// sqrt(H), from the weights and from the first training batch; 1 if they are all zero.
//
// Weights of 1 bit would have H = 0. They are s sign(w), sign(0) = 1, L = -1 and H = 1 with rint
// replaced by the sign, and s begins as mean |w|, which is the best for signs. A tensor or channel
// of zeros gives zeros.
MethodEntry lsq_method();

}  // namespace bitrung::train
