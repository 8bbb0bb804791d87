#include "worker/train/nn/norm_act.h"

namespace bitrung::train {

namespace {

constexpr double kEpsilon = 1e-5;
constexpr double kMomentum = 0.1;

}  // namespace

at::Tensor norm_relu_quantize_reference(const at::Tensor& x, BatchNorm& norm,
                                        ActivationQuantizer& quantizer, bool training) {
  if (training) {
    norm.num_batches_tracked.add_(1);
  }
  const at::Tensor normal =
      at::batch_norm(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, training,
                     kMomentum, kEpsilon, /*cudnn_enabled=*/true);
  return quantizer.quantize(at::relu(normal));
}

at::Tensor norm_relu_quantize(const at::Tensor& x, BatchNorm& norm, ActivationQuantizer& quantizer,
                              bool training) {
  return norm_relu_quantize_reference(x, norm, quantizer, training);
}

}  // namespace bitrung::train
