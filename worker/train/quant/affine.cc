#include "worker/train/quant/affine.h"

#include <cmath>

#include "worker/train/quant/state.h"
#include "worker/train/quant/uniform.h"

namespace bitrung::train {

namespace {

constexpr double kScaleMin = 0x1p-23;

// Both () or (C), double, without gradient.
struct Affine {
  at::Tensor scale;  // Already rounded to the type of x, as PyTorch computes with it.
  at::Tensor zero_point;
};

Affine affine_of(const Extremes& range, int bits, at::ScalarType type) {
  const double n = level_count(bits);
  const at::Tensor low = range.low.clamp_max(0);
  const at::Tensor scale = ((range.high.clamp_min(0) - low) / n).clamp_min_(kScaleMin).to(type);
  const at::Tensor wide = scale.to(at::kDouble);
  return {wide, (-low / wide).round_().clamp_(0, n)};
}

UniformRule rule_of(const Affine& affine, int bits, const at::Tensor& x) {
  UniformRule rule;
  rule.mask = GradientMask::kRoundedCode;
  const at::Tensor scale = by_channel(affine.scale, x);
  const at::Tensor zero_point = by_channel(affine.zero_point, x);
  rule.factor = scale.reciprocal();
  rule.code_low = -zero_point;
  rule.code_high = level_count(bits) - zero_point;
  rule.step = scale;
  return rule;
}

// The learned pair, of weights or of activations.
class LearnedAffine {
 public:
  LearnedAffine(const QuantizerSite& site, std::int64_t channels)
      : bits_(site.bits),
        scale_(make_learned(site, 1.0, channels)),
        zero_point_(make_learned(site, 0.0, channels)) {}

  bool is_ready() const { return ready_.value() > 0; }

  void begin(const Extremes& range) {
    const at::NoGradGuard no_grad;
    const Affine first = affine_of(range, bits_, scale_.scalar_type());
    scale_.copy_(first.scale);
    zero_point_.copy_(first.zero_point);
    ready_.increase();
  }

  Affine current() const {
    return {scale_.detach().to(at::kDouble).clamp_min(kScaleMin),
            zero_point_.detach().to(at::kDouble).round().clamp_(0, level_count(bits_))};
  }

  UniformRule rule(const at::Tensor& x) const {
    const Affine affine = current();
    const double n = level_count(bits_);
    const double factor = 1.0 / std::sqrt(static_cast<double>(x.numel()) * n);
    const at::Tensor none = at::zeros_like(affine.scale);
    const at::Tensor outside = affine.scale * -factor;
    UniformRule rule = rule_of(affine, bits_, x);
    rule.learned = {{scale_, at::full_like(affine.scale, factor), affine.zero_point * -factor,
                     (n - affine.zero_point) * factor},
                    {zero_point_, none, outside, outside}};
    return rule;
  }

  std::vector<LearnedTensor> parameters() const {
    return {{"scale", scale_, 1.0, std::nullopt}, {"zero_point", zero_point_, 1.0, std::nullopt}};
  }

  std::vector<NamedTensor> buffers() const { return {{"ready", ready_.tensor()}}; }

 private:
  int bits_;
  at::Tensor scale_;
  at::Tensor zero_point_;
  Counter ready_;
};

class AffineWeights : public WeightQuantizer {
 public:
  explicit AffineWeights(const QuantizerSite& site)
      : bits_(site.bits), by_channel_(is_by_channel(site)) {
    if (site.options.scale == "learned") {
      learned_.emplace(site, by_channel_ ? site.channels : 0);
    }
  }

  at::Tensor quantize(const at::Tensor& w, const Pass& pass) override {
    if (learned_ && pass.training && !learned_->is_ready()) {
      learned_->begin(extremes(w, by_channel_));
    }
    return quantize_uniform(w, rule(w));
  }

  std::optional<Grid> grid(const at::Tensor& w) override { return grid_of(rule(w)); }

  std::vector<LearnedTensor> parameters() const override {
    return learned_ ? learned_->parameters() : std::vector<LearnedTensor>{};
  }
  std::vector<NamedTensor> buffers() const override {
    return learned_ ? learned_->buffers() : std::vector<NamedTensor>{};
  }

 private:
  // Before the first batch the learned pair is what it would begin as.
  UniformRule rule(const at::Tensor& w) const {
    if (learned_ && learned_->is_ready()) {
      return learned_->rule(w);
    }
    const at::NoGradGuard no_grad;
    return rule_of(affine_of(extremes(w, by_channel_), bits_, w.scalar_type()), bits_, w);
  }

  int bits_;
  bool by_channel_;
  std::optional<LearnedAffine> learned_;
};

class AffineActivations : public ActivationQuantizer {
 public:
  explicit AffineActivations(const QuantizerSite& site) : site_(site), range_(site) {
    if (site.options.scale == "learned") {
      learned_.emplace(site, 0);
    }
  }

  at::Tensor quantize(const at::Tensor& x, const Pass& pass) override {
    if (pass.training && !learned_) {
      range_.update(x);
    } else if (pass.training && !learned_->is_ready()) {
      learned_->begin(extremes(x, /*by_channel=*/false));
    }
    require_range();
    return quantize_uniform(
        x, learned_ ? learned_->rule(x)
                    : rule_of(affine_of({range_.low(), range_.high()}, site_.bits, x.scalar_type()),
                              site_.bits, x));
  }

  std::optional<Grid> grid() override {
    require_range();
    const Affine affine = learned_ ? learned_->current()
                                   : affine_of({range_.low(), range_.high()}, site_.bits,
                                               at::typeMetaToScalarType(site_.tensors.dtype()));
    return Grid{affine.scale, affine.zero_point, {}};
  }

  void set_range(double low, double high) override {
    if (learned_) {
      learned_->begin({scalar_tensor(low), scalar_tensor(high)});
    } else {
      range_.set(low, high);
    }
  }

  std::vector<LearnedTensor> parameters() const override {
    return learned_ ? learned_->parameters() : std::vector<LearnedTensor>{};
  }
  std::vector<NamedTensor> buffers() const override {
    return learned_ ? learned_->buffers() : range_.buffers();
  }

 private:
  void require_range() const {
    if (!(learned_ ? learned_->is_ready() : range_.is_set())) {
      fail_no_range(site_, "affine");
    }
  }

  QuantizerSite site_;
  TrackedRange range_;
  std::optional<LearnedAffine> learned_;
};

}  // namespace

MethodEntry affine_method() {
  return {"affine",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<AffineWeights>(site);
          },
          [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
            return std::make_unique<AffineActivations>(site);
          }};
}

}  // namespace bitrung::train
