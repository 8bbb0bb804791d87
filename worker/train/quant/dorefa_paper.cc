#include "worker/train/quant/dorefa_paper.h"

#include "worker/train/quant/uniform.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

class BinaryWeightFunction : public Function<BinaryWeightFunction> {
 public:
  static at::Tensor forward(AutogradContext*, const at::Tensor& w) {
    const at::Tensor mean = w.abs().mean();
    return at::where(w.ge(0), mean, -mean);
  }

  static variable_list backward(AutogradContext*, variable_list gradients) {
    return {gradients[0]};
  }
};

class UnitFunction : public Function<UnitFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, double levels) {
    context->save_for_backward({x});
    return x.clamp(0, 1).mul_(levels).round_().div_(levels);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor x = context->get_saved_variables()[0];
    return {gradients[0] * x.ge(0).logical_and_(x.le(1)), at::Tensor()};
  }
};

class PaperWeights : public WeightQuantizer {
 public:
  explicit PaperWeights(int bits) : bits_(bits) {}

  at::Tensor quantize(const at::Tensor& w, const Pass&) override {
    if (bits_ == 1) {
      return BinaryWeightFunction::apply(w);
    }
    const at::Tensor t = at::tanh(w);
    const at::Tensor peak = t.abs().max();  // Its gradient is shared by equal maxima.
    const at::Tensor is_zero = peak.detach().eq(0);
    const at::Tensor q = quantize_uniform(t / (2 * (peak + is_zero)) + 0.5, unit_rule());
    const at::Tensor y = 2 * q - 1;
    return y - y.detach() * is_zero;  // Zeros become zeros, and keep their gradient.
  }

  std::optional<Grid> grid(const at::Tensor& w) override {
    const at::NoGradGuard no_grad;
    if (bits_ == 1) {
      return Grid{w.abs().mean() * 2.0, scalar_tensor(0.5), {}};
    }
    const double n = level_count(bits_);
    return Grid{w.ne(0).any().to(at::kDouble) * (2.0 / n), scalar_tensor(n / 2.0), {}};
  }

 private:
  UniformRule unit_rule() const {
    const double n = level_count(bits_);
    UniformRule rule;
    rule.factor = scalar_tensor(n);
    rule.code_high = scalar_tensor(n);
    rule.step = scalar_tensor(1.0 / n);
    return rule;
  }

  int bits_;
};

class UnitActivations : public ActivationQuantizer {
 public:
  explicit UnitActivations(int bits) : bits_(bits) {}

  at::Tensor quantize(const at::Tensor& x, const Pass&) override {
    return UnitFunction::apply(x, level_count(bits_));
  }

  std::optional<Grid> grid() override {
    return Grid{scalar_tensor(1.0 / level_count(bits_)), scalar_tensor(0.0), {}};
  }

  std::optional<UnitGrid> unit_grid() const override {
    return UnitGrid{UnitGrid::Rounding::kNearest, static_cast<float>(level_count(bits_))};
  }

 private:
  int bits_;
};

}  // namespace

std::unique_ptr<ActivationQuantizer> make_unit_activations(int bits) {
  return std::make_unique<UnitActivations>(bits);
}

MethodEntry dorefa_paper_method() {
  return {"dorefa-paper",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<PaperWeights>(site.bits);
          },
          [](const QuantizerSite& site) { return make_unit_activations(site.bits); }};
}

}  // namespace bitrung::train
