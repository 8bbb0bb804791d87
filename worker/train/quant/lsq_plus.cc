#include "worker/train/quant/lsq_plus.h"

#include <cmath>

#include "worker/train/quant/learned_step.h"

namespace bitrung::train {

namespace {

constexpr int kCandidates = 100;
constexpr std::int64_t kSampleMax = 65536;

at::Tensor first_weight_step(const at::Tensor& w, int bits, bool by_channel) {
  if (bits == 1) {
    return mean_of(w.abs(), by_channel);
  }
  const at::Tensor mean = mean_of(w, by_channel);
  const at::Tensor variance =
      mean_of((w.detach().to(at::kDouble) - train::by_channel(mean, w)).square_(), by_channel);
  const at::Tensor reach = 3.0 * variance.sqrt();
  return at::maximum((mean - reach).abs(), (mean + reach).abs()) *
         std::pow(2.0, -static_cast<double>(bits - 1));
}

// Best range to begin with.
Extremes fitted_range(const at::Tensor& x, int bits) {
  const Extremes all = extremes(x, /*by_channel=*/false);
  const std::int64_t stride = (x.numel() + kSampleMax - 1) / kSampleMax;
  const at::Tensor sample = x.detach().reshape({-1}).slice(0, 0, x.numel(), stride).to(at::kDouble);
  const double n = level_count(bits);
  const at::Tensor width = all.high - all.low;
  const at::Tensor span = width.masked_fill(width.le(0), n);
  std::vector<at::Tensor> errors;
  for (int i = 1; i <= kCandidates; ++i) {
    const double r = static_cast<double>(i) / kCandidates;
    UniformRule rule;
    rule.offset = r * all.low;
    rule.step = r * span / n;
    rule.factor = rule.step.reciprocal();
    rule.code_high = scalar_tensor(n);
    errors.push_back((quantize_uniform(sample, rule) - sample).square_().sum());
  }
  const at::Tensor best = (at::stack(errors).argmin().to(at::kDouble) + 1.0) / kCandidates;
  return {best * all.low, best * all.high};
}

class LsqPlusActivations : public ActivationQuantizer {
 public:
  explicit LsqPlusActivations(const QuantizerSite& site)
      : site_(site), step_(site, 0), offset_(make_learned(site, 0.0)) {}

  at::Tensor quantize(const at::Tensor& x, const Pass& pass) override {
    if (pass.training && !step_.is_ready()) {
      const at::NoGradGuard no_grad;
      const Extremes range = fitted_range(x, site_.bits);
      step_.begin((range.high - range.low) / level_count(site_.bits));
      offset_.copy_(range.low);
    }
    return quantize_uniform(x,
                            rule(static_cast<double>(x.numel()) / static_cast<double>(x.size(0))));
  }

  std::optional<Grid> grid() override { return grid_of(rule(1.0)); }

  std::vector<LearnedTensor> parameters() const override {
    std::vector<LearnedTensor> result = step_.parameters();
    result.push_back({"offset", offset_, 1.0, std::nullopt});
    return result;
  }
  std::vector<NamedTensor> buffers() const override { return step_.buffers(); }

 private:
  UniformRule rule(double features) const {
    if (!step_.is_ready()) {
      fail_no_range(site_, "lsq-plus");
    }
    UniformRule rule = learned_step_rule(step_, site_.bits, features);
    rule.offset = offset_.detach().to(at::kDouble);
    const at::Tensor scale = scalar_tensor(1.0 / std::sqrt(features * level_count(site_.bits)));
    rule.learned.push_back({offset_, scalar_tensor(0.0), scale, scale});
    return rule;
  }

  QuantizerSite site_;
  LearnedStep step_;
  at::Tensor offset_;  // ()
};

}  // namespace

MethodEntry lsq_plus_method() {
  return {
      "lsq-plus",
      [](const QuantizerSite& site) { return make_learned_step_weights(site, first_weight_step); },
      [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
        return std::make_unique<LsqPlusActivations>(site);
      }};
}

}  // namespace bitrung::train
