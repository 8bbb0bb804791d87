// One convolution or linear layer with its quantizers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "worker/train/nn/architecture.h"
#include "worker/train/quant/quantizer.h"
#include "worker/train/spec.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

struct Layer {
  LayerPlan plan;
  LayerBits bits;  // The activations are the layer's input.
  int gradient_bits = 32;
  std::string weight_method;
  std::string activation_method;
  at::Tensor weight;                           // (out,in,k,k), or (out,in) of a linear layer.
  at::Tensor bias;                             // (out) of a linear layer, else undefined.
  std::unique_ptr<WeightQuantizer> quantizer;  // Null at 32 bits.
  std::unique_ptr<ActivationQuantizer> input;  // Null at 32 bits, and where another layer's serves.

  // Whether a ReLU stands before the quantization of its input.
  bool takes_relu() const { return input == nullptr || input->takes_relu(); }

  // What the layer multiplies with. On the CPU weights that hold NaN or infinite values are a
  // Failure(kDiverged) that names the layer.
  at::Tensor effective_weight(const Pass& pass) const;

  // x: (N,in,H,W), quantized; result: (N,out,H/stride,W/stride), or (N,in) and (N,out).
  at::Tensor apply(const at::Tensor& x, const Pass& pass) const {
    return apply(x, pass, plan.stride);
  }
  at::Tensor apply(const at::Tensor& x, const Pass& pass, std::int64_t stride) const;

  // apply(x) + residual, finished.
  at::Tensor apply_and_add(const at::Tensor& x, const at::Tensor& residual, const Pass& pass) const;
  // The layer's result, or its sum with a shortcut, with the activation function that the method
  // of the input puts behind it. (N,out,H,W)
  at::Tensor finish(const at::Tensor& sum) const {
    return input == nullptr ? sum : input->after_sum(sum);
  }
};

}  // namespace bitrung::train
