#include "worker/train/quant/dorefa.h"

#include <limits>

#include "worker/train/quant/levels.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

class WeightFunction : public Function<WeightFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& w, double levels) {
    const at::Tensor t = at::tanh(w);
    const at::Tensor peak = t.abs().max();  // M, a scalar.
    // A divisor of 0 would make NaN out of a tensor of zeros; the factor `peak` below still makes
    // it 0.
    const at::Tensor divisor = peak.clamp_min(std::numeric_limits<float>::min());
    // The order of the operations is the study's, since another one moves values that lie on a tie.
    at::Tensor q = t / 2;
    q.div_(divisor).add_(0.5).mul_(levels).round_().div_(levels).mul_(2).sub_(1).mul_(peak);
    context->save_for_backward({t});
    return q;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor t = context->get_saved_variables()[0];
    return {gradients[0] * (1 - t * t), at::Tensor()};
  }
};

class BinaryWeightFunction : public Function<BinaryWeightFunction> {
 public:
  static at::Tensor forward(AutogradContext*, const at::Tensor& w) {
    return w.sign().mul_(w.abs().mean());  // sign(w / E) = sign(w), and stays 0 where E is 0.
  }

  static variable_list backward(AutogradContext*, variable_list gradients) {
    return {gradients[0]};
  }
};

class ActivationFunction : public Function<ActivationFunction> {
 public:
  // levels == 1 stands for the sign.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, double levels) {
    context->save_for_backward({x});
    at::Tensor y = x.clamp(0, 1);
    // On [0, 1] the ceiling is the sign; LibTorch's sign would make 0 of NaN.
    return levels == 1.0 ? y.ceil_() : y.mul_(levels).round_().div_(levels);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor x = context->get_saved_variables()[0];
    return {gradients[0] * x.ge(0).logical_and_(x.le(1)), at::Tensor()};
  }
};

class DorefaWeights : public WeightQuantizer {
 public:
  explicit DorefaWeights(int bits) : bits_(bits) {}

  at::Tensor quantize(const at::Tensor& w, const Pass&) override {
    return bits_ == 1 ? BinaryWeightFunction::apply(w)
                      : WeightFunction::apply(w, level_count(bits_));
  }

  std::optional<Grid> grid(const at::Tensor& w) override {
    const at::NoGradGuard no_grad;
    if (bits_ == 1) {
      return Grid{w.abs().mean() * 2.0, scalar_tensor(0.5), {}};
    }
    const double n = level_count(bits_);
    return Grid{at::tanh(w).abs().max() * (2.0 / n), scalar_tensor(n / 2.0), {}};
  }

 private:
  int bits_;
};

class DorefaActivations : public ActivationQuantizer {
 public:
  explicit DorefaActivations(int bits) : bits_(bits) {}

  at::Tensor quantize(const at::Tensor& x, const Pass&) override {
    return ActivationFunction::apply(x, level_count(bits_));
  }

  std::optional<Grid> grid() override {
    return Grid{scalar_tensor(1.0 / level_count(bits_)), scalar_tensor(0.0), {}};
  }

  std::optional<UnitGrid> unit_grid() const override {
    if (bits_ == 1) {
      return UnitGrid{UnitGrid::Rounding::kSign, 1.0F};
    }
    return UnitGrid{UnitGrid::Rounding::kNearest, static_cast<float>(level_count(bits_))};
  }

 private:
  int bits_;
};

}  // namespace

MethodEntry dorefa_method() {
  return {"dorefa",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<DorefaWeights>(site.bits);
          },
          [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
            return std::make_unique<DorefaActivations>(site.bits);
          }};
}

}  // namespace bitrung::train
