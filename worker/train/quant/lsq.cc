#include "worker/train/quant/lsq.h"

#include <cmath>

#include "worker/train/quant/learned_step.h"

namespace bitrung::train {

namespace {

at::Tensor first_weight_step(const at::Tensor& w, int bits, bool by_channel) {
  const at::Tensor mean = mean_of(w.abs(), by_channel);
  if (bits == 1) {
    return mean;
  }
  return mean * (2.0 / std::sqrt(level_count(bits - 1)));
}

class LsqActivations : public ActivationQuantizer {
 public:
  explicit LsqActivations(const QuantizerSite& site) : site_(site), step_(site, 0) {}

  at::Tensor quantize(const at::Tensor& x, const Pass& pass) override {
    if (pass.training && !step_.is_ready()) {
      step_.begin(mean_of(x.detach().abs(), false) * (2.0 / std::sqrt(level_count(site_.bits))));
    }
    return quantize_uniform(x,
                            rule(static_cast<double>(x.numel()) / static_cast<double>(x.size(0))));
  }

  std::optional<Grid> grid() override { return grid_of(rule(1.0)); }

  bool has_uniform_rule() const override { return true; }
  std::optional<UniformRule> uniform_rule(double features) const override {
    return step_.is_ready() ? std::optional(rule(features)) : std::nullopt;
  }

  std::vector<LearnedTensor> parameters() const override { return step_.parameters(); }
  std::vector<NamedTensor> buffers() const override { return step_.buffers(); }

 private:
  UniformRule rule(double features) const {
    if (!step_.is_ready()) {
      fail_no_range(site_, "lsq");
    }
    return learned_step_rule(step_, site_.bits, features);
  }

  QuantizerSite site_;
  LearnedStep step_;
};

}  // namespace

MethodEntry lsq_method() {
  return {
      "lsq",
      [](const QuantizerSite& site) { return make_learned_step_weights(site, first_weight_step); },
      [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
        return std::make_unique<LsqActivations>(site);
      }};
}

}  // namespace bitrung::train
