// PyTorch's fake quantization: `affine`.
//
// torch.fake_quantize_per_tensor_affine and _per_channel_affine with option scale: fixed, the
// learnable operators of the same names with scale: learned. Weights by tensor or by output
// channel, activations by tensor.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With n = 2^k - 1, s the scale, z the integer zero point and g the gradient from above:
//
//   q = rint(x (1 / s)) + z, y = (clamp(q, 0, n) - z) s;  dx = g where 0 <= q <= n, else 0
//
// Fixed: as PyTorch's observers, from the range widened to contain 0: s = max((b' - a') / n,
// 2^-23), z = rint(-a' / s). The range of weights is the present tensor's, that of activations is
// tracked (state.h).
//
// Learned: s and z begin as above with the first training batch. s is taken to be at least 2^-23, z
// is rounded and clamped to [0, n]. With f = 1 / sqrt(N n), N being the elements of x (of a batch
// all of them), PyTorch's gradient scaling:
//
//   ds = f sum of g (-z where q < 0, n - z where q > n, else q - z - x / s)
//   dz = f sum of g (-s where q is outside [0, n], else 0)
MethodEntry affine_method();

}  // namespace bitrung::train
