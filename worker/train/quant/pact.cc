#include "worker/train/quant/pact.h"

#include "worker/train/quant/dorefa.h"
#include "worker/train/quant/state.h"
#include "worker/train/quant/uniform.h"

namespace bitrung::train {

namespace {

constexpr double kClipMin = 1e-4;

class PactActivations : public ActivationQuantizer {
 public:
  explicit PactActivations(const QuantizerSite& site)
      : bits_(site.bits),
        clip_decay_(site.options.clip_decay),
        clip_(make_learned(site, site.options.clip_init)) {}

  at::Tensor quantize(const at::Tensor& x, const Pass&) override {
    return quantize_uniform(x, rule());
  }

  std::optional<Grid> grid() override { return grid_of(rule()); }

  bool has_uniform_rule() const override { return true; }
  std::optional<UniformRule> uniform_rule(double) const override { return rule(); }

  std::vector<LearnedTensor> parameters() const override {
    return {{"clip", clip_, 1.0, clip_decay_}};
  }

 private:
  UniformRule rule() const {
    const double n = level_count(bits_);
    UniformRule rule;
    rule.mask = GradientMask::kOpen;
    rule.low = scalar_tensor(0.0);
    rule.high = clip_.detach().to(at::kDouble).clamp_min(kClipMin);
    rule.factor = n / rule.high;
    rule.code_high = scalar_tensor(n);
    rule.step = rule.high / n;
    rule.learned = {{clip_, scalar_tensor(0.0), scalar_tensor(0.0), scalar_tensor(1.0)}};
    return rule;
  }

  int bits_;
  double clip_decay_;
  at::Tensor clip_;  // ()
};

}  // namespace

MethodEntry pact_method() {
  return {"pact", dorefa_method().make_weights,
          [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
            return std::make_unique<PactActivations>(site);
          }};
}

}  // namespace bitrung::train
