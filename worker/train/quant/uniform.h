// The one operation behind the methods whose levels are equally spaced.
//
// A method says where its levels lie and which gradients pass; the operation does it in one pass
// over the tensor forwards and one backwards (CPU; elsewhere by LibTorch's operations). Functions
// without state.
#pragma once

#include <limits>
#include <vector>

#include "worker/train/quant/levels.h"
#include "worker/train/quant/quantizer.h"
#include "worker/train/quant/uniform_kernels.h"

namespace bitrung::train {

// The gradient of a learned tensor, by the sums of UniformSums:
//   inside * sums.inside + below * sums.below + above * sums.above.
struct UniformLearned {
  at::Tensor tensor;  // (), or (C) for one value for each output channel of weights.
  at::Tensor inside;  // These three: () or (C).
  at::Tensor below;
  at::Tensor above;
};

// UniformNumbers as tensors: () or, for weights by channel, (C,1,…). Double; they are rounded to
// the type of x before they are used. None carries a gradient.
struct UniformRule {
  GradientMask mask = GradientMask::kEverywhere;
  at::Tensor low = scalar_tensor(-std::numeric_limits<double>::infinity());
  at::Tensor high = scalar_tensor(std::numeric_limits<double>::infinity());
  at::Tensor offset = scalar_tensor(0.0);
  at::Tensor factor = scalar_tensor(1.0);
  at::Tensor shift = scalar_tensor(0.0);
  at::Tensor code_low = scalar_tensor(0.0);
  at::Tensor code_high = scalar_tensor(0.0);
  at::Tensor step = scalar_tensor(1.0);
  std::vector<UniformLearned> learned;  // At most two.
};

// x quantized by the rule, differentiable with respect to x and to the learned tensors. NaN stays
// NaN. The layout of x is kept if x is dense.
at::Tensor quantize_uniform(const at::Tensor& x, const UniformRule& rule);

// The same by LibTorch's own operations only; for other devices and for the tests of the loops.
at::Tensor quantize_uniform_reference(const at::Tensor& x, const UniformRule& rule);

// The rule's grid. The smallest code gets number 0.
Grid grid_of(const UniformRule& rule);

// (C) as (C,1,…) with as many dimensions as x; () stays.
at::Tensor by_channel(const at::Tensor& values, const at::Tensor& x);

}  // namespace bitrung::train
