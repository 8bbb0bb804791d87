#include "worker/train/quant/clipping.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "worker/train/failure.h"

namespace bitrung::train {
namespace {

using Values = std::vector<double>;

at::Tensor doubles(const Values& values, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kDouble);
  EXPECT_EQ(tensor.numel(), static_cast<std::int64_t>(values.size()));
  std::copy(values.begin(), values.end(), tensor.data_ptr<double>());
  return tensor;
}

// The same numbers everywhere; about +-30, most of them small.
Values heavy_tailed(std::size_t count, double offset) {
  Values values;
  for (std::size_t i = 0; i < count; ++i) {
    const double u = std::fmod(0.5 + static_cast<double>(i) * 0.6180339887498949, 1.0);
    const double side = i % 2 == 0 ? 1.0 : -1.0;
    values.push_back(offset - side * std::log(u) * std::abs(std::log(u)));
  }
  return values;
}

Values rectified(Values values) {
  for (double& value : values) {
    value = std::max(value, 0.0);
  }
  return values;
}

double mean_of(const Values& values) {
  double sum = 0.0;
  for (const double value : values) {
    sum += value;
  }
  return sum / static_cast<double>(values.size());
}

// Two batches of different sizes and means.
const Values kFirst = heavy_tailed(1200, 0.5);
const Values kSecond = heavy_tailed(400, -1.5);

Values all_values() {
  Values all = kFirst;
  all.insert(all.end(), kSecond.begin(), kSecond.end());
  return all;
}

ClippingRange range_of(const ClippingRule& rule, int bits, const Values& first,
                       const Values& second) {
  ClippingAccumulator accumulator(rule);
  accumulator.add(
      doubles(first, {12, 4, 5, 5}).to(at::kFloat).contiguous(at::MemoryFormat::ChannelsLast));
  accumulator.add(doubles(second, {4, 100}));
  return accumulator.range(bits);
}

// The mean square error that the paper expects, by the paper's formula (units of the spread).
double gauss_error(double a, int bits) {
  return (a * a + 1.0) * (1.0 - std::erf(a / std::sqrt(2.0))) -
         std::sqrt(2.0 / std::numbers::pi) * a * std::exp(-a * a / 2.0) +
         a * a / (3.0 * std::pow(4.0, bits));
}

double laplace_error(double a, int bits) {
  return 2.0 * std::exp(-a) + a * a / (3.0 * std::pow(4.0, bits));
}

TEST(Aciq, Clips_AreThePublishedOnes) {
  // The authors' tables, which have two digits.
  const std::vector<std::pair<int, double>> gauss = {{2, 1.71}, {3, 2.15}, {4, 2.55}, {5, 2.93},
                                                     {6, 3.28}, {7, 3.61}, {8, 3.92}};
  for (const auto& [bits, clip] : gauss) {
    EXPECT_NEAR(aciq_gauss_clip(bits), clip, 0.01) << bits;
  }
  const std::vector<std::pair<int, double>> laplace = {{0, 1.05}, {1, 1.86}, {2, 2.83},
                                                       {3, 3.89}, {4, 5.03}, {5, 6.20},
                                                       {6, 7.41}, {7, 8.64}, {8, 9.89}};
  for (const auto& [bits, clip] : laplace) {
    EXPECT_NEAR(aciq_laplace_clip(bits), clip, 0.01) << bits;
  }
}

TEST(Aciq, Clips_HaveTheLeastErrorOfAll) {
  for (const int bits : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17}) {
    const double gauss = aciq_gauss_clip(bits);
    const double laplace = aciq_laplace_clip(bits);
    double best_gauss = 0.0;
    double best_laplace = 0.0;
    for (double a = 0.0; a < 40.0; a += 1e-3) {
      if (gauss_error(a, bits) < gauss_error(best_gauss, bits)) {
        best_gauss = a;
      }
      if (laplace_error(a, bits) < laplace_error(best_laplace, bits)) {
        best_laplace = a;
      }
    }
    // Where the error is flat the scan finds its noise.
    const double margin = bits < 10 ? 2e-3 : 0.1;
    EXPECT_NEAR(gauss, best_gauss, margin) << bits;
    EXPECT_NEAR(laplace, best_laplace, margin) << bits;
  }
}

// The published error, not only its minimum, fits a real quantization.
TEST(Aciq, LaplaceClip_IsNearTheBestOfARealQuantization) {
  Values values;
  constexpr int kCount = 40000;
  for (int i = 0; i < kCount; ++i) {
    const double u = (static_cast<double>(i) + 0.5) / kCount;
    values.push_back(u < 0.5 ? std::log(2.0 * u) : -std::log(2.0 - 2.0 * u));
  }
  for (const int bits : {3, 4, 6}) {
    const auto error = [&](double clip) {
      const double step = 2.0 * clip / std::pow(2.0, bits);
      double sum = 0.0;
      for (const double value : values) {
        const double inside = std::min(clip - 0.5 * step, std::max(-clip + 0.5 * step, value));
        const double q = (std::floor(inside / step) + 0.5) * step;
        sum += (value - q) * (value - q);
      }
      return sum;
    };
    double best = error(1.0);
    for (double clip = 1.0; clip < 12.0; clip += 0.05) {
      best = std::min(best, error(clip));
    }
    EXPECT_LT(error(aciq_laplace_clip(bits)), 1.03 * best) << bits;
  }
}

TEST(Clipping, MinMax_IsThatOfAllBatches) {
  const Values all = all_values();
  const ClippingRange range = range_of({ClippingKind::kMinMax}, 4, kFirst, kSecond);
  EXPECT_NEAR(range.low, *std::min_element(all.begin(), all.end()), 1e-5);
  EXPECT_NEAR(range.high, *std::max_element(all.begin(), all.end()), 1e-5);
}

TEST(Clipping, Average_IsOverTheSamples) {
  double low = 0.0;
  double high = 0.0;
  for (const Values& batch : {kFirst, kSecond}) {
    for (std::size_t sample = 0; sample < batch.size(); sample += 100) {
      const auto [least, most] =
          std::minmax_element(batch.begin() + static_cast<std::ptrdiff_t>(sample),
                              batch.begin() + static_cast<std::ptrdiff_t>(sample + 100));
      low += *least / 16.0;
      high += *most / 16.0;
    }
  }
  const ClippingRange range = range_of({ClippingKind::kAverage}, 4, kFirst, kSecond);
  EXPECT_NEAR(range.low, low, 1e-6);
  EXPECT_NEAR(range.high, high, 1e-6);
}

TEST(Clipping, Deviations_AreThoseOfAllValues) {
  const Values all = all_values();
  const double mean = mean_of(all);
  double variance = 0.0;
  for (const double value : all) {
    variance += (value - mean) * (value - mean) / static_cast<double>(all.size());
  }
  for (const double times : {1.0, 1.5, 2.5}) {
    const ClippingRange range = range_of({ClippingKind::kDeviations, times}, 4, kFirst, kSecond);
    EXPECT_NEAR(range.low, mean - times * std::sqrt(variance), 1e-6);
    EXPECT_NEAR(range.high, mean + times * std::sqrt(variance), 1e-6);
  }
}

TEST(Clipping, Percentile_IsThatOfAllValues) {
  Values sorted = all_values();
  std::sort(sorted.begin(), sorted.end());
  for (const double percent : {80.0, 95.0, 99.0, 99.9}) {
    const ClippingRange range = range_of({ClippingKind::kPercentile, percent}, 4, kFirst, kSecond);
    for (const auto& [found, share] :
         {std::pair{range.low, 100.0 - percent}, std::pair{range.high, percent}}) {
      // Between the two values around that place, to 1 / 1000.
      const double place = share / 100.0 * static_cast<double>(sorted.size() - 1);
      const double before = sorted[static_cast<std::size_t>(std::floor(place))];
      const double after = sorted[static_cast<std::size_t>(std::ceil(place))];
      EXPECT_GE(found, before - 1e-3 * std::abs(before)) << percent;
      EXPECT_LE(found, after + 1e-3 * std::abs(after)) << percent;
    }
  }
}

TEST(Clipping, Percentile_IsExactToItsBuckets) {
  ClippingAccumulator accumulator({ClippingKind::kPercentile, 99.9});
  at::Tensor x = at::arange(100000, at::kDouble).mul(1e-3).sub(50.0);  // -50 to 49.999
  accumulator.add(x.view({10, 10000}));
  EXPECT_NEAR(accumulator.range(4).low, -49.9, 0.03);
  EXPECT_NEAR(accumulator.range(4).high, 49.899, 0.03);
  // Values that are equal are their own percentile.
  ClippingAccumulator constant({ClippingKind::kPercentile, 99.0});
  constant.add(at::full({3, 7}, 0.3, at::kDouble));
  EXPECT_EQ(constant.range(4).high, 0.3);
}

TEST(Clipping, Aciq_IsMeanAndSpreadTimesTheClip) {
  const Values all = all_values();
  const double mean = mean_of(all);
  double variance = 0.0;
  double distance = 0.0;
  for (const double value : all) {
    variance += (value - mean) * (value - mean) / static_cast<double>(all.size());
  }
  for (const Values& batch : {kFirst, kSecond}) {
    const double of_batch = mean_of(batch);
    for (const double value : batch) {
      distance += std::abs(value - of_batch) / static_cast<double>(all.size());
    }
  }
  for (const int bits : {2, 3}) {
    const ClippingRange gauss = range_of({ClippingKind::kAciqGauss}, bits, kFirst, kSecond);
    EXPECT_NEAR(gauss.low, mean - aciq_gauss_clip(bits) * std::sqrt(variance), 1e-6);
    EXPECT_NEAR(gauss.high, mean + aciq_gauss_clip(bits) * std::sqrt(variance), 1e-6);
    const ClippingRange laplace = range_of({ClippingKind::kAciqLaplace}, bits, kFirst, kSecond);
    EXPECT_NEAR(laplace.low, mean - aciq_laplace_clip(bits) * distance, 1e-6);
    EXPECT_NEAR(laplace.high, mean + aciq_laplace_clip(bits) * distance, 1e-6);
  }
}

TEST(Clipping, BehindAReLU_AciqTakesOneHalfOfADistribution) {
  const Values first = rectified(kFirst);
  const Values second = rectified(kSecond);
  Values positive;
  for (const double value : all_values()) {
    if (value > 0.0) {
      positive.push_back(value);
    }
  }
  double squares = 0.0;
  for (const double value : positive) {
    squares += value * value / static_cast<double>(positive.size());
  }
  for (const int bits : {1, 2, 4}) {
    const ClippingRange gauss = range_of({ClippingKind::kAciqGauss}, bits, first, second);
    EXPECT_EQ(gauss.low, 0.0);
    EXPECT_NEAR(gauss.high, aciq_gauss_clip(bits + 1) * std::sqrt(squares), 1e-6) << bits;
    const ClippingRange laplace = range_of({ClippingKind::kAciqLaplace}, bits, first, second);
    EXPECT_EQ(laplace.low, 0.0);
    EXPECT_NEAR(laplace.high, aciq_laplace_clip(bits + 1) * mean_of(positive), 1e-6) << bits;
  }
}

constexpr std::array kAllKinds = {ClippingKind::kMinMax,     ClippingKind::kAverage,
                                  ClippingKind::kDeviations, ClippingKind::kPercentile,
                                  ClippingKind::kAciqGauss,  ClippingKind::kAciqLaplace};

ClippingRule rule_of(ClippingKind kind) {
  return {kind, kind == ClippingKind::kPercentile ? 99.0 : 3.0};
}

TEST(Clipping, Range_BeginsAtZeroBehindAReLUAndNeverExceedsTheValues) {
  for (const ClippingKind kind : kAllKinds) {
    for (const int bits : {1, 2, 8, 16}) {
      const ClippingRange one_sided =
          range_of(rule_of(kind), bits, rectified(kFirst), rectified(kSecond));
      EXPECT_EQ(one_sided.low, 0.0);
      EXPECT_GT(one_sided.high, 0.0);
      const ClippingRange all = range_of({ClippingKind::kMinMax}, bits, kFirst, kSecond);
      EXPECT_LE(one_sided.high, all.high);
      const ClippingRange two_sided = range_of(rule_of(kind), bits, kFirst, kSecond);
      EXPECT_GE(two_sided.low, all.low);
      EXPECT_LE(two_sided.high, all.high);
      EXPECT_LT(two_sided.low, two_sided.high);
    }
  }
}

TEST(Clipping, ZerosAndSingleValues_GiveTheirOwnRange) {
  for (const ClippingKind kind : kAllKinds) {
    ClippingAccumulator zeros(rule_of(kind));
    zeros.add(at::zeros({2, 3, 4, 4}));
    EXPECT_EQ(zeros.range(4).low, 0.0);
    EXPECT_EQ(zeros.range(4).high, 0.0);
    ClippingAccumulator single(rule_of(kind));
    single.add(at::full({1}, -2.5, at::kDouble));
    EXPECT_EQ(single.range(4).low, -2.5);
    EXPECT_EQ(single.range(4).high, -2.5);
  }
}

TEST(Clipping, NotANumber_IsRefused) {
  for (const ClippingKind kind : kAllKinds) {
    ClippingAccumulator accumulator(rule_of(kind));
    try {
      accumulator.add(at::tensor({1.0, std::nan("")}, at::kDouble));
      FAIL();
    } catch (const Failure& failure) {
      EXPECT_EQ(failure.failure_class(), FailureClass::kDiverged);
      EXPECT_STREQ(failure.what(), "a calibration batch holds NaN or infinite values");
    }
  }
}

}  // namespace
}  // namespace bitrung::train
