#include "worker/train/quant/clipping.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "db/base/check.h"
#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

namespace {

// Buckets for percentiles: a sign, the binary exponent and the leading digits of the fraction of a
// float, so that each bucket is 1/1024 of its values wide. Magnitudes below 2^-32 count as 0 and
// those above 2^32 as that.
constexpr int kFractionBits = 10;
constexpr int kExponents = 64;
constexpr int kLowestExponent = -32;
constexpr std::size_t kPerSign = std::size_t{kExponents} << kFractionBits;
constexpr int kFloatFractionBits = 23;
constexpr std::uint32_t kSignMask = 0x80000000U;

// The lowest magnitude of a bucket, from its number among those of one sign.
double magnitude(std::size_t bucket) {
  const double fraction = static_cast<double>(bucket & ((std::size_t{1} << kFractionBits) - 1)) /
                          static_cast<double>(1 << kFractionBits);
  return std::ldexp(1.0 + fraction, static_cast<int>(bucket >> kFractionBits) + kLowestExponent);
}

// Negative values first, farthest from 0 first; 0 counts as positive.
std::size_t bucket_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto shifted =
      static_cast<std::int64_t>((bits & ~kSignMask) >> (kFloatFractionBits - kFractionBits)) -
      (std::int64_t{127 + kLowestExponent} << kFractionBits);
  const auto place = static_cast<std::size_t>(
      std::clamp<std::int64_t>(shifted, 0, static_cast<std::int64_t>(kPerSign) - 1));
  return (bits & kSignMask) != 0 ? kPerSign - 1 - place : kPerSign + place;
}

// The root of a function that is negative at low and positive at high.
template <typename Function>
double root_between(double low, double high, const Function& function) {
  // Each turn halves the interval: doubles have no more digits.
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (function(middle) < 0.0 ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

}  // namespace

ClippingAccumulator::ClippingAccumulator(const ClippingRule& rule) : rule_(rule) {
  if (rule.kind == ClippingKind::kPercentile) {
    buckets_.resize(2 * kPerSign, 0);
  }
}

void ClippingAccumulator::add(const at::Tensor& x) {
  BITRUNG_CHECK(x.dim() >= 1 && x.numel() > 0);
  const at::NoGradGuard no_grad;
  require_finite(x, "a calibration batch");
  const double low = x.min().item<double>();
  const double high = x.max().item<double>();
  min_ = count_ == 0.0 ? low : std::min(min_, low);
  max_ = count_ == 0.0 ? high : std::max(max_, high);
  const auto count = static_cast<double>(x.numel());
  switch (rule_.kind) {
    case ClippingKind::kMinMax:
      break;
    case ClippingKind::kAverage: {
      const at::Tensor samples = x.reshape({x.size(0), -1}).to(at::kDouble);
      sum_of_minima_ += samples.amin(1).sum().item<double>();
      sum_of_maxima_ += samples.amax(1).sum().item<double>();
      samples_ += static_cast<double>(x.size(0));
      break;
    }
    case ClippingKind::kPercentile:
      this->count(x);
      break;
    case ClippingKind::kDeviations:
    case ClippingKind::kAciqGauss:
    case ClippingKind::kAciqLaplace: {
      const at::Tensor values = x.to(at::kDouble);
      const double batch_sum = values.sum().item<double>();
      const double batch_mean = batch_sum / count;
      const at::Tensor distances = (values - batch_mean).abs_();
      sum_of_distances_ += distances.sum().item<double>();
      // Squares about the mean of all, from those about the means of the parts.
      const double apart = count_ == 0.0 ? 0.0 : batch_mean - sum_ / count_;
      sum_of_squares_ += distances.square_().sum().item<double>() +
                         apart * apart * count_ * count / (count_ + count);
      sum_ += batch_sum;
      const at::Tensor positive = values.clamp_min(0);
      positive_count_ += positive.count_nonzero().item<double>();
      positive_sum_ += positive.sum().item<double>();
      positive_squares_ += positive.square().sum().item<double>();
      break;
    }
  }
  count_ += count;
}

void ClippingAccumulator::count(const at::Tensor& x) {
  const at::Tensor values = x.to(at::kCPU, at::kFloat).contiguous();
  const float* const data = values.data_ptr<float>();
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    ++buckets_[bucket_of(data[i])];
  }
}

// At the place percent / 100 (N - 1) among the N values in order, spread evenly in each bucket.
double ClippingAccumulator::percentile(double percent) const {
  const double place = percent / 100.0 * (count_ - 1.0);
  double before = 0.0;
  for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    const auto here = static_cast<double>(buckets_[bucket]);
    if (here > 0.0 && place < before + here) {
      const double share = std::min(1.0, (place - before + 0.5) / here);
      const bool is_negative = bucket < kPerSign;
      const std::size_t number = is_negative ? kPerSign - 1 - bucket : bucket - kPerSign;
      // The bucket next to 0 begins there.
      const double inner = number == 0 ? 0.0 : magnitude(number);
      const double outer = magnitude(number + 1);
      const double value = is_negative   ? -outer + share * (outer - inner)
                           : number == 0 ? 0.0
                                         : inner + share * (outer - inner);
      return std::clamp(value, min_, max_);
    }
    before += here;
  }
  return max_;
}

ClippingRange ClippingAccumulator::range(int bits) const {
  BITRUNG_CHECK(count_ > 0.0);
  const bool is_one_sided = min_ >= 0.0;
  const double mean = sum_ / count_;
  const auto about_mean = [&](double reach) -> ClippingRange {
    return {std::max(min_, mean - reach), std::min(max_, mean + reach)};
  };
  const auto about_zero = [&](double reach) -> ClippingRange {
    return {0.0, std::min(max_, reach)};
  };
  ClippingRange result{min_, max_};
  switch (rule_.kind) {
    case ClippingKind::kMinMax:
      break;
    case ClippingKind::kAverage:
      result = {sum_of_minima_ / samples_, sum_of_maxima_ / samples_};
      break;
    case ClippingKind::kDeviations:
      result = about_mean(rule_.parameter * std::sqrt(sum_of_squares_ / count_));
      break;
    case ClippingKind::kPercentile:
      result = {percentile(100.0 - rule_.parameter), percentile(rule_.parameter)};
      break;
    case ClippingKind::kAciqGauss:
      result = is_one_sided
                   ? about_zero(aciq_gauss_clip(bits + 1) *
                                std::sqrt(positive_squares_ / std::max(positive_count_, 1.0)))
                   : about_mean(aciq_gauss_clip(bits) * std::sqrt(sum_of_squares_ / count_));
      break;
    case ClippingKind::kAciqLaplace:
      result = is_one_sided ? about_zero(aciq_laplace_clip(bits + 1) * positive_sum_ /
                                         std::max(positive_count_, 1.0))
                            : about_mean(aciq_laplace_clip(bits) * sum_of_distances_ / count_);
      break;
  }
  if (is_one_sided) {
    result.low = 0.0;
  }
  return result;
}

// Both derivatives rise through 0 once.

double aciq_gauss_clip(int bits) {
  BITRUNG_CHECK(bits >= 0 && bits <= 17);
  const double step = 1.0 / (3.0 * std::ldexp(1.0, 2 * bits));
  return root_between(0.0, 64.0, [step](double a) {
    return a * std::erfc(a / std::numbers::sqrt2) -
           std::numbers::sqrt2 * std::numbers::inv_sqrtpi * std::exp(-0.5 * a * a) + a * step;
  });
}

double aciq_laplace_clip(int bits) {
  BITRUNG_CHECK(bits >= 0 && bits <= 17);
  const double step = 1.0 / (3.0 * std::ldexp(1.0, 2 * bits));
  return root_between(0.0, 64.0, [step](double a) { return a * step - std::exp(-a); });
}

}  // namespace bitrung::train
