#include "worker/train/quant/react.h"

#include "worker/train/quant/levels.h"
#include "worker/train/quant/sign_levels.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr double kSlopeFirst = 0.25;

class WeightFunction : public Function<WeightFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& w, std::int64_t bits) {
    context->saved_data["bits"] = bits;
    context->save_for_backward({w});
    return scaled_sign_levels(w, magnitude_scale(w, static_cast<int>(bits)),
                              static_cast<int>(bits));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    if (context->saved_data["bits"].toInt() != 1) {
      return {gradients[0], at::Tensor()};  // No weight lies outside the levels.
    }
    return {surrogate_gradient(context->get_saved_variables()[0], gradients[0], Surrogate{}),
            at::Tensor()};
  }
};

// (C) as channels of x, (N,C,H,W) or (N,C).
at::Tensor for_channels_of(const at::Tensor& x, const at::Tensor& values) {
  return x.dim() == 4 ? values.view({1, -1, 1, 1}) : values;
}

// Sums over all but the channels of x, (C).
at::Tensor sum_of_channels(const at::Tensor& x) {
  return x.dim() == 4 ? x.sum({0, 2, 3}) : x.sum(0);
}

// u for u > 0, else slope u; and the shifts on both sides.
class ShiftedPreluFunction : public Function<ShiftedPreluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y,
                            const at::Tensor& shift_in, const at::Tensor& slope,
                            const at::Tensor& shift_out) {
    const at::Tensor u = y - for_channels_of(y, shift_in);
    context->save_for_backward({u, slope});
    return at::where(u.gt(0), u, u * for_channels_of(u, slope)).add_(for_channels_of(u, shift_out));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& u = saved[0];
    const at::Tensor& g = gradients[0];
    const at::Tensor dy = at::where(u.gt(0), g, g * for_channels_of(u, saved[1]));
    return {dy, sum_of_channels(dy).neg_(), sum_of_channels(u.clamp_max(0).mul_(g)),
            sum_of_channels(g)};
  }
};

class ReactWeights : public WeightQuantizer {
 public:
  explicit ReactWeights(int bits) : bits_(bits) {}

  at::Tensor quantize(const at::Tensor& w, const Pass&) override {
    return bits_ == kFullPrecisionBits ? w : WeightFunction::apply(w, std::int64_t{bits_});
  }

  std::optional<Grid> grid(const at::Tensor& w) override {
    if (bits_ == kFullPrecisionBits) {
      return std::nullopt;
    }
    const at::NoGradGuard no_grad;
    return sign_grid(magnitude_scale(w, bits_), bits_);
  }

 private:
  int bits_;
};

class ReactActivations : public ActivationQuantizer {
 public:
  explicit ReactActivations(const QuantizerSite& site) : bits_(site.bits) {
    if (bits_ == kFullPrecisionBits) {
      return;
    }
    threshold_ = at::zeros({site.channels}, site.tensors).set_requires_grad(true);
    if (site.out_channels > 0) {
      shift_in_ = at::zeros({site.out_channels}, site.tensors).set_requires_grad(true);
      slope_ = at::full({site.out_channels}, kSlopeFirst, site.tensors).set_requires_grad(true);
      shift_out_ = at::zeros({site.out_channels}, site.tensors).set_requires_grad(true);
    }
  }

  std::vector<LearnedTensor> parameters() const override {
    std::vector<LearnedTensor> learned;
    const auto add = [&learned](const char* name, const at::Tensor& tensor) {
      if (tensor.defined()) {
        learned.push_back({.name = name, .tensor = tensor, .weight_decay = 0.0});
      }
    };
    add("threshold", threshold_);
    add("prelu_shift_in", shift_in_);
    add("prelu_slope", slope_);
    add("prelu_shift_out", shift_out_);
    return learned;
  }

  bool takes_relu() const override { return bits_ == kFullPrecisionBits; }

  at::Tensor quantize(const at::Tensor& x, const Pass&) override {
    if (bits_ == kFullPrecisionBits) {
      return x;
    }
    return quantize_signs(x - for_channels_of(x, threshold_), bits_,
                          surrogate_for(bits_, {.shape = Surrogate::Shape::kTriangle}));
  }

  std::optional<Grid> grid() override {
    if (bits_ == kFullPrecisionBits) {
      return std::nullopt;
    }
    return sign_grid(scalar_tensor(1.0), bits_);
  }

  at::Tensor after_sum(const at::Tensor& y) override {
    return slope_.defined() ? ShiftedPreluFunction::apply(y, shift_in_, slope_, shift_out_) : y;
  }

 private:
  int bits_;
  at::Tensor threshold_;  // (C)
  at::Tensor shift_in_;   // (out_channels), as are the next two.
  at::Tensor slope_;
  at::Tensor shift_out_;
};

}  // namespace

MethodEntry react_method() {
  return {"react",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<ReactWeights>(site.bits);
          },
          [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
            return std::make_unique<ReactActivations>(site);
          }};
}

}  // namespace bitrung::train
