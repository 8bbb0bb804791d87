#include "worker/train/nn/layer.h"

#include "worker/train/quant/gradient.h"

namespace bitrung::train {

at::Tensor Layer::effective_weight(const Pass& pass) const {
  if (quantizer == nullptr) {
    return weight;
  }
  if (weight.device().is_cpu()) {  // Elsewhere the check would make the device wait.
    require_finite(weight, plan.name + ".weight");
  }
  return quantizer->quantize(weight, pass);
}

at::Tensor Layer::apply(const at::Tensor& x, const Pass& pass, std::int64_t stride) const {
  const at::Tensor w = effective_weight(pass);
  at::Tensor y;
  if (plan.is_convolution) {
    const std::int64_t padding = plan.kernel / 2;
    y = at::conv2d(x, w, /*bias=*/{}, {stride, stride}, {padding, padding});
  } else {
    y = at::addmm(bias, x, w.t());
  }
  if (gradient_bits != kFullPrecisionBits && pass.training) {
    y = quantize_gradient(y, gradient_bits, pass, plan.name);
  }
  return quantizer == nullptr ? y : quantizer->scale_output(y);
}

at::Tensor Layer::apply_and_add(const at::Tensor& x, const at::Tensor& residual,
                                const Pass& pass) const {
  at::Tensor y = apply(x, pass);
  // The gradient's quantization gives a view, which must not be written to.
  return finish(gradient_bits == kFullPrecisionBits ? y.add_(residual) : y.add(residual));
}

}  // namespace bitrung::train
