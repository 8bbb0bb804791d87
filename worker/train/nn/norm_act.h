// Batch normalisation, ReLU and quantization of activations, as one operation where that is faster.
//
// These three lie between any two convolutions of the networks here; done one by one they cost as
// much time as the convolutions, nearly all of it memory traffic. The fast path is for float32 on
// the CPU in channels_last; anything else goes through LibTorch's operations, which are also what
// the fast path is tested against.
#pragma once

#include <string>

#include "worker/train/quant/quantizer.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

// Weights and statistics of one batch normalisation over C channels, PyTorch's BatchNorm2d with its
// defaults (epsilon 1e-5, momentum 0.1, running variance unbiased).
struct BatchNorm {
  std::string name;                // "layer1.0.bn1", for messages.
  at::Tensor weight;               // (C)
  at::Tensor bias;                 // (C)
  at::Tensor running_mean;         // (C)
  at::Tensor running_var;          // (C)
  at::Tensor num_batches_tracked;  // (), int64
};

// batch_norm(x), then a ReLU if asked for; x is (N,C,H,W), so is the result. With
// pass.uses_batch_statistics() the statistics are the batch's and the running ones are updated;
// without, the running ones are used. Differentiable with respect to x, weight and bias. A training
// batch on the CPU that holds NaN or infinite values is a Failure(kDiverged) that names the layer.
at::Tensor normalize(const at::Tensor& x, BatchNorm& norm, bool relu, const Pass& pass);

// quantizer.quantize(normalize(x)), with a ReLU between if the quantizer takes one. A ReLU passes
// no gradient at 0, so with a UnitGrid the gradient passes where 0 < batch_norm(x) <= 1.
at::Tensor norm_activate(const at::Tensor& x, BatchNorm& norm, ActivationQuantizer& quantizer,
                         const Pass& pass);

// The same by LibTorch's own operations only.
at::Tensor norm_activate_reference(const at::Tensor& x, BatchNorm& norm,
                                   ActivationQuantizer& quantizer, const Pass& pass);

}  // namespace bitrung::train
