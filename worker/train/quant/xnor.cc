#include "worker/train/quant/xnor.h"

#include "worker/train/quant/levels.h"
#include "worker/train/quant/sign_levels.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

class WeightFunction : public Function<WeightFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& w, std::int64_t bits) {
    const at::Tensor scale = magnitude_scale(w, static_cast<int>(bits));
    context->saved_data["bits"] = bits;
    context->save_for_backward({w, scale});
    return scaled_sign_levels(w, scale, static_cast<int>(bits));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    if (context->saved_data["bits"].toInt() != 1) {
      return {gradients[0], at::Tensor()};
    }
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& w = saved[0];
    const at::Tensor& scale = saved[1];
    const double share = 1.0 / static_cast<double>(channel_size(w));
    return {(w.abs().le(1) * scale).add_(share).mul_(gradients[0]), at::Tensor()};
  }
};

class XnorActivations : public SignActivations {
 public:
  using SignActivations::SignActivations;

  at::Tensor quantize(const at::Tensor& x, const Pass&) override {
    return quantize_signs(x, bits(), Surrogate{});
  }
};

}  // namespace

MethodEntry xnor_method() {
  return {"xnor",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<MagnitudeSignWeights<WeightFunction>>(site.bits);
          },
          [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
            return std::make_unique<XnorActivations>(site.bits);
          }};
}

}  // namespace bitrung::train
