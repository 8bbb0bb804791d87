#include "worker/train/quant/ir_net.h"

#include <cmath>

#include "worker/train/quant/levels.h"
#include "worker/train/quant/sign_levels.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

Surrogate error_decay(int bits, const Pass& pass) {
  return surrogate_for(bits, {Surrogate::Shape::kTanh, std::pow(10.0, -3.0 + 4.0 * pass.progress)});
}

// 2^rint(log2 of the magnitude of z) for each output channel; 0 for a channel without spread.
at::Tensor shift_scale(const Standardized& standardized, int bits) {
  const at::Tensor scale = magnitude_scale(standardized.z, bits).log2_().round_().exp2_();
  return scale.mul_(standardized.spread);
}

class WeightFunction : public Function<WeightFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& w, std::int64_t bits,
                            double sharpness) {
    const Standardized standardized = standardize(w, /*epsilon=*/0.0);
    const at::Tensor scale = shift_scale(standardized, static_cast<int>(bits));
    context->saved_data["bits"] = bits;
    context->saved_data["sharpness"] = sharpness;
    context->save_for_backward(
        {standardized.z, standardized.deviation, standardized.spread, scale});
    return scaled_sign_levels(standardized.z, scale, static_cast<int>(bits));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Standardized standardized{saved[0], saved[1], saved[2]};
    const at::Tensor scale = saved[3] + (1 - standardized.spread);
    at::Tensor h;
    if (context->saved_data["bits"].toInt() == 1) {
      const Surrogate surrogate{Surrogate::Shape::kTanh,
                                context->saved_data["sharpness"].toDouble()};
      h = surrogate_gradient(standardized.z, gradients[0], surrogate).mul_(scale);
    } else {
      h = gradients[0] * standardized.z.abs().le(scale);
    }
    return {standardize_gradient(standardized, h), at::Tensor(), at::Tensor()};
  }
};

class IrNetWeights : public WeightQuantizer {
 public:
  explicit IrNetWeights(int bits) : bits_(bits) {}

  at::Tensor quantize(const at::Tensor& w, const Pass& pass) override {
    return WeightFunction::apply(w, std::int64_t{bits_}, error_decay(bits_, pass).sharpness);
  }

  std::optional<Grid> grid(const at::Tensor& w) override {
    const at::NoGradGuard no_grad;
    return sign_grid(shift_scale(standardize(w, /*epsilon=*/0.0), bits_), bits_);
  }

  bool follows_training() const override { return bits_ == 1; }

 private:
  int bits_;
};

class IrNetActivations : public SignActivations {
 public:
  using SignActivations::SignActivations;

  at::Tensor quantize(const at::Tensor& x, const Pass& pass) override {
    // The published Hardtanh in front of the sign: no gradient beyond 1, where at 1 bit the
    // surrogate alone would let it pass. At more bits that has none there either.
    return quantize_signs(bits() == 1 ? at::hardtanh(x) : x, bits(), error_decay(bits(), pass));
  }

  bool follows_training() const override { return bits() == 1; }
};

}  // namespace

MethodEntry ir_net_method() {
  return {"ir-net",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<IrNetWeights>(site.bits);
          },
          [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
            return std::make_unique<IrNetActivations>(site.bits);
          }};
}

}  // namespace bitrung::train
