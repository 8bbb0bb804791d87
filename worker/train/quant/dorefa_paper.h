// DoReFa as published (Zhou et al. 2016, arXiv 1606.06160): `dorefa-paper`.
//
// Its gradients of k bits are in gradient.h.
#pragma once

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// With n = 2^k - 1, rint to even, t = tanh w, M = max |t|, and g the gradient from above:
//
//   weights, 1 < k < 32   2 rint(n (t / 2M + 1/2)) / n - 1, so in [-1, 1]
//                         h_i = g_i (1 - t_i^2) / M; the element j that is the maximum gets
//                         -sign(t_j) (1 - t_j^2) sum(g t) / M^2 as well (several share it equally)
//   weights, k = 1        mean |w| sign(w), sign(0) = 1; gradient g
//   activations, k < 32   rint(n clamp(x, 0, 1)) / n, so 1/2 becomes 0 at k = 1; gradient g on
//                         0 <= x <= 1, else 0
//
// M and the mean are taken over the whole tensor. A tensor of zeros stays zero; the gradient is
// taken as if M were 1.
MethodEntry dorefa_paper_method();

// Those activations, for methods that share them.
std::unique_ptr<ActivationQuantizer> make_unit_activations(int bits);

}  // namespace bitrung::train
