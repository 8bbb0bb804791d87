// Batch normalisation, ReLU and quantization of activations as one operation.
//
// These three lie between any two convolutions of the networks here; done one by one they cost as
// much time as the convolutions, nearly all of it memory traffic. The fast path is for float32 on
// the CPU in channels_last; anything else goes through LibTorch's operations, which are also what
// the fast path is tested against.
#pragma once

#include "worker/train/quant/quantizer.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

// Weights and statistics of one batch normalisation over C channels, PyTorch's BatchNorm2d with its
// defaults (epsilon 1e-5, momentum 0.1, running variance unbiased).
struct BatchNorm {
  at::Tensor weight;               // (C)
  at::Tensor bias;                 // (C)
  at::Tensor running_mean;         // (C)
  at::Tensor running_var;          // (C)
  at::Tensor num_batches_tracked;  // (), int64
};

// quantize(relu(batch_norm(x))); x is (N,C,H,W), so is the result. With `training` the statistics
// are the batch's and the running ones are updated; without, the running ones are used.
// Differentiable with respect to x, weight and bias. A ReLU passes no gradient at 0, so the
// gradient passes where 0 < batch_norm(x) <= 1 (32 bits: where > 0).
at::Tensor norm_relu_quantize(const at::Tensor& x, BatchNorm& norm, ActivationQuantizer& quantizer,
                              bool training);

// The same by LibTorch's own operations only.
at::Tensor norm_relu_quantize_reference(const at::Tensor& x, BatchNorm& norm,
                                        ActivationQuantizer& quantizer, bool training);

}  // namespace bitrung::train
