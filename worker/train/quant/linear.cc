#include "worker/train/quant/linear.h"

#include "worker/train/quant/state.h"
#include "worker/train/quant/uniform.h"

namespace bitrung::train {

namespace {

// Ranges below this count as nothing but 0: n divided by one would overflow a float.
constexpr double kSpanMin = 1e-30;

enum class RangeKind : std::uint8_t { kAsymmetric, kSymmetric, kRestricted };

RangeKind range_kind(const QuantizerSite& site) {
  if (site.options.range == "asymmetric") {
    return RangeKind::kAsymmetric;
  }
  return site.options.range == "symmetric" ? RangeKind::kSymmetric : RangeKind::kRestricted;
}

// Everything but the clamp to the range and the mask.
UniformRule rule_of(RangeKind kind, int bits, const Extremes& range) {
  const double n = level_count(bits);
  const double half = static_cast<double>(std::int64_t{1} << (bits - 1));
  UniformRule rule;
  if (kind == RangeKind::kAsymmetric) {
    const at::Tensor low = range.low.clamp_max(0);
    const at::Tensor width = range.high.clamp_min(0) - low;
    const at::Tensor span = width.masked_fill(width.lt(kSpanMin), n);
    rule.factor = n / span;
    rule.step = span / n;
    rule.shift = -(low * n / span).round_();
    rule.code_high = scalar_tensor(n);
    return rule;
  }
  const double top = kind == RangeKind::kSymmetric ? n / 2.0 : half - 1.0;
  const at::Tensor peak = at::maximum(range.low.abs(), range.high.abs());
  const at::Tensor span = peak.masked_fill(peak.lt(kSpanMin), top);
  rule.factor = top / span;
  rule.step = span / top;
  rule.code_low = scalar_tensor(kind == RangeKind::kSymmetric ? -half : 1.0 - half);
  rule.code_high = scalar_tensor(half - 1.0);
  return rule;
}

class LinearWeights : public WeightQuantizer {
 public:
  explicit LinearWeights(const QuantizerSite& site)
      : bits_(site.bits), kind_(range_kind(site)), by_channel_(is_by_channel(site)) {}

  at::Tensor quantize(const at::Tensor& w, const Pass&) override {
    return quantize_uniform(w, rule(w));
  }

  std::optional<Grid> grid(const at::Tensor& w) override { return grid_of(rule(w)); }

 private:
  UniformRule rule(const at::Tensor& w) const {
    const at::NoGradGuard no_grad;
    const Extremes range = extremes(w, by_channel_);
    return rule_of(kind_, bits_, {by_channel(range.low, w), by_channel(range.high, w)});
  }

  int bits_;
  RangeKind kind_;
  bool by_channel_;
};

class LinearActivations : public ActivationQuantizer {
 public:
  explicit LinearActivations(const QuantizerSite& site)
      : site_(site), kind_(range_kind(site)), range_(site) {}

  at::Tensor quantize(const at::Tensor& x, const Pass& pass) override {
    if (pass.training) {
      range_.update(x);
    }
    return quantize_uniform(x, rule());
  }

  std::optional<Grid> grid() override { return grid_of(rule()); }

  bool has_uniform_rule() const override { return true; }
  std::optional<UniformRule> uniform_rule(double) const override {
    return range_.is_set() ? std::optional(rule()) : std::nullopt;
  }
  bool follows_range() const override { return true; }
  void observe(double low, double high) override { range_.update(low, high); }

  void set_range(double low, double high) override { range_.set(low, high); }

  std::vector<NamedTensor> buffers() const override { return range_.buffers(); }

 private:
  UniformRule rule() const {
    if (!range_.is_set()) {
      fail_no_range(site_, "linear");
    }
    const at::NoGradGuard no_grad;
    const Extremes range{range_.low(), range_.high()};
    UniformRule rule = rule_of(kind_, site_.bits, range);
    rule.mask = GradientMask::kClosed;
    if (kind_ == RangeKind::kAsymmetric) {
      rule.low = range.low;
      rule.high = range.high;
    } else {
      rule.high = at::maximum(range.low.abs(), range.high.abs());
      rule.low = -rule.high;
    }
    return rule;
  }

  QuantizerSite site_;
  RangeKind kind_;
  TrackedRange range_;
};

}  // namespace

MethodEntry linear_method() {
  return {"linear",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<LinearWeights>(site);
          },
          [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
            return std::make_unique<LinearActivations>(site);
          }};
}

}  // namespace bitrung::train
