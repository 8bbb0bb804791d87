// WRPN (Mishra et al. 2017, arXiv 1709.01134): `wrpn`, made for widened networks.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With r = 2^(k-1) - 1: weights rint(clamp(w, -1, 1) r) / r, which is one bit for the sign and
// 2^k - 1 levels; the gradient is g on -1 <= w <= 1, else 0. Not for 1 bit. Activations as
// `dorefa-paper`.
MethodEntry wrpn_method();

}  // namespace bitrung::train
