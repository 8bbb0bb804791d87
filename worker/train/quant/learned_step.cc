#include "worker/train/quant/learned_step.h"

#include <cmath>

namespace bitrung::train {

namespace {

constexpr double kStepMin = 1e-8;

// The codes of weights: -2^(k-1) to 2^(k-1) - 1.
double lowest_code(int bits) {
  return -static_cast<double>(std::int64_t{1} << (bits - 1));
}

class LearnedStepWeights : public WeightQuantizer {
 public:
  LearnedStepWeights(const QuantizerSite& site, FirstStep first)
      : bits_(site.bits),
        by_channel_(is_by_channel(site)),
        first_(first),
        step_(site, by_channel_ ? site.channels : 0) {}

  at::Tensor quantize(const at::Tensor& w, const Pass& pass) override {
    if (pass.training && !step_.is_ready()) {
      step_.begin(first_(w, bits_, by_channel_));
    }
    UniformRule rule = bits_ == 1 ? signs(w) : levels(w);
    if (step_.is_ready()) {
      rule.learned = {learned(w)};
    }
    return quantize_uniform(w, rule);
  }

  std::optional<Grid> grid(const at::Tensor& w) override {
    return grid_of(bits_ == 1 ? signs(w) : levels(w));
  }

  std::vector<LearnedTensor> parameters() const override { return step_.parameters(); }
  std::vector<NamedTensor> buffers() const override { return step_.buffers(); }

 private:
  // Before the first batch, what it would begin as. As many dimensions as w.
  at::Tensor step(const at::Tensor& w) const {
    return by_channel(
        step_.is_ready() ? step_.current() : usable_step(first_(w, bits_, by_channel_)), w);
  }

  UniformRule levels(const at::Tensor& w) const {
    UniformRule rule;
    rule.mask = GradientMask::kOpenCode;
    rule.step = step(w);
    rule.factor = rule.step.reciprocal();
    rule.code_low = scalar_tensor(lowest_code(bits_));
    rule.code_high = scalar_tensor(-lowest_code(bits_) - 1.0);
    return rule;
  }

  // Codes 1 and 2 stand for -1 and 1. Zero lies between them, at 1.5, which rounds to the even 2.
  UniformRule signs(const at::Tensor& w) const {
    UniformRule rule;
    rule.mask = GradientMask::kOpenCode;
    const at::Tensor s = step(w);
    rule.factor = 0.5 / s;
    rule.shift = scalar_tensor(1.5);
    rule.code_low = scalar_tensor(1.0);
    rule.code_high = scalar_tensor(2.0);
    const at::Tensor peak =
        by_channel_ ? w.detach().abs().reshape({w.size(0), -1}).amax(1) : w.detach().abs().max();
    rule.step = 2.0 * s * by_channel(peak.ne(0), w);
    return rule;
  }

  UniformLearned learned(const at::Tensor& w) const {
    const double low = bits_ == 1 ? -1.0 : lowest_code(bits_);
    const double high = bits_ == 1 ? 1.0 : -lowest_code(bits_) - 1.0;
    const double scale = 1.0 / std::sqrt(static_cast<double>(w.numel()) * high);
    // Between the signs the code counts in units of two steps.
    return {step_.learned(), scalar_tensor(scale * (bits_ == 1 ? 2.0 : 1.0)),
            scalar_tensor(scale * low), scalar_tensor(scale * high)};
  }

  int bits_;
  bool by_channel_;
  FirstStep first_;
  LearnedStep step_;
};

}  // namespace

LearnedStep::LearnedStep(const QuantizerSite& site, std::int64_t channels)
    : step_(make_learned(site, 1.0, channels)) {}

void LearnedStep::begin(const at::Tensor& first) {
  const at::NoGradGuard no_grad;
  step_.copy_(usable_step(first));
  ready_.increase();
}

at::Tensor LearnedStep::current() const {
  return step_.detach().to(at::kDouble).clamp_min(kStepMin);
}

at::Tensor usable_step(const at::Tensor& first) {
  return first.masked_fill(first.le(kStepMin), 1.0);
}

UniformRule learned_step_rule(const LearnedStep& step, int bits, double features) {
  const double n = level_count(bits);
  const double scale = 1.0 / std::sqrt(features * n);
  UniformRule rule;
  rule.mask = GradientMask::kOpenCode;
  rule.step = step.current();
  rule.factor = rule.step.reciprocal();
  rule.code_high = scalar_tensor(n);
  rule.learned = {
      {step.learned(), scalar_tensor(scale), scalar_tensor(0.0), scalar_tensor(scale * n)}};
  return rule;
}

std::unique_ptr<WeightQuantizer> make_learned_step_weights(const QuantizerSite& site,
                                                           FirstStep first) {
  return std::make_unique<LearnedStepWeights>(site, first);
}

}  // namespace bitrung::train
