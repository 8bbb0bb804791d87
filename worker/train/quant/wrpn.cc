#include "worker/train/quant/wrpn.h"

#include "worker/train/quant/dorefa_paper.h"
#include "worker/train/quant/uniform.h"

namespace bitrung::train {

namespace {

class WrpnWeights : public WeightQuantizer {
 public:
  explicit WrpnWeights(int bits) : bits_(bits) {}

  at::Tensor quantize(const at::Tensor& w, const Pass&) override {
    return quantize_uniform(w, rule());
  }

  std::optional<Grid> grid(const at::Tensor&) override { return grid_of(rule()); }

 private:
  UniformRule rule() const {
    const double r = level_count(bits_ - 1);
    UniformRule rule;
    rule.mask = GradientMask::kClosed;
    rule.low = scalar_tensor(-1.0);
    rule.high = scalar_tensor(1.0);
    rule.factor = scalar_tensor(r);
    rule.code_low = scalar_tensor(-r);
    rule.code_high = scalar_tensor(r);
    rule.step = scalar_tensor(1.0 / r);
    return rule;
  }

  int bits_;
};

}  // namespace

MethodEntry wrpn_method() {
  return {"wrpn",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<WrpnWeights>(site.bits);
          },
          [](const QuantizerSite& site) { return make_unit_activations(site.bits); }};
}

}  // namespace bitrung::train
