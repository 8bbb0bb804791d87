#include "worker/train/quant/sawb.h"

#include "worker/train/quant/state.h"
#include "worker/train/quant/uniform.h"

namespace bitrung::train {

namespace {

// Below it all weights count as zero.
constexpr double kClipMin = 1e-30;

struct Coefficients {
  double c1;
  double c2;
};

std::optional<Coefficients> coefficients(int bits) {
  switch (bits) {
    case 2:
      return Coefficients{3.12, -2.064};
    case 3:
      return Coefficients{7.509, -6.892};
    case 4:
      return Coefficients{12.68, -12.80};
    case 5:
      return Coefficients{17.74, -18.64};
    case 8:
      return Coefficients{31.76, -35.04};
    default:
      return std::nullopt;
  }
}

class SawbWeights : public WeightQuantizer {
 public:
  explicit SawbWeights(int bits) : bits_(bits) {}

  at::Tensor quantize(const at::Tensor& w, const Pass&) override {
    return quantize_uniform(w, rule(w));
  }

  std::optional<Grid> grid(const at::Tensor& w) override { return grid_of(rule(w)); }

 private:
  UniformRule rule(const at::Tensor& given) const {
    const at::NoGradGuard no_grad;
    const double n = level_count(bits_);
    const at::Tensor w = given.detach().to(at::kDouble);
    at::Tensor clip = w.abs().max();
    if (const auto c = coefficients(bits_)) {
      const at::Tensor fitted = c->c1 * (w * w).mean().sqrt() + c->c2 * w.abs().mean();
      clip = at::where(fitted.gt(0), fitted, clip);
    }
    const at::Tensor is_zero = clip.lt(kClipMin);
    clip = clip.masked_fill(is_zero, 1.0);
    UniformRule rule;
    rule.mask = GradientMask::kClosed;
    rule.low = -clip;
    rule.high = clip;
    rule.factor = n / (2.0 * clip);
    rule.code_high = scalar_tensor(n);
    rule.step = (2.0 * clip / n).masked_fill_(is_zero, 0.0);
    // The code of zero need not be an integer.
    rule.shift = scalar_tensor(n / 2.0);
    return rule;
  }

  int bits_;
};

}  // namespace

MethodEntry sawb_method() {
  return {"sawb",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<SawbWeights>(site.bits);
          },
          nullptr};
}

}  // namespace bitrung::train
