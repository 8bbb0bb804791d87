// Range-based linear quantization: `linear`.
//
// The formulas are those of IntelLabs' distiller (range_linear.py), whose scale multiplies and
// whose zero point is taken away before the rounding. Weights by tensor or by output channel,
// activations by tensor.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With n = 2^k - 1 and [a, b] the range:
//
//   asymmetric            a' = min(a, 0), b' = max(b, 0), s = n / (b' - a'), z = rint(s a'),
//                         codes 0 to n
//   symmetric             m = max(|a|, |b|), s = (n / 2) / m, z = 0, codes -2^(k-1) to 2^(k-1) - 1
//   symmetric-restricted  s = (2^(k-1) - 1) / m, z = 0, codes +-(2^(k-1) - 1); not at k = 1
//
//   code = clamp(rint(s x - z)), value = (code + z) / s
//
// Weights: the range is the present tensor's (or channel's), and the gradient is g everywhere. The
// codes are clamped, so that the largest element of a symmetric range does not take a level beyond
// the 2^k.
//
// Activations: the tracked range (state.h), which changes with training batches only. x is clamped
// to it first: to [a, b] if asymmetric, to [-m, m] if symmetric; the gradient is g inside, both
// ends included, and 0 outside. After a ReLU the symmetric ranges use half of their codes, and at
// 1 bit none but that of zero: take asymmetric there.
//
// A range of nothing but 0 gives zeros.
MethodEntry linear_method();

}  // namespace bitrung::train
