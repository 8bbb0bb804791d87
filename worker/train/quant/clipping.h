// Clipping ranges for post-training quantization, from calibration batches.
//
// Values beyond the range saturate; a narrower range makes the steps between the levels smaller.
// One accumulator for each tensor that is quantized; not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/train/torch_compat.h"

namespace bitrung::train {

enum class ClippingKind : std::uint8_t {
  kMinMax,       // Everything.
  kAverage,      // Mean of the samples' minima and of their maxima.
  kDeviations,   // Mean -+ parameter times the standard deviation.
  kPercentile,   // All but the lowest and the highest (100 - parameter) percent.
  kAciqGauss,    // Least mean square error for k bits if the values are normally distributed, or
  kAciqLaplace,  // Laplace distributed: Banner et al. 2018, arXiv 1810.05723.
};

struct ClippingRule {
  ClippingKind kind = ClippingKind::kMinMax;
  double parameter = 0.0;  // Of kDeviations, above 0; of kPercentile, above 50 and at most 100.
};

struct ClippingRange {
  double low = 0.0;
  double high = 0.0;
};

// Values without one below 0 (behind a ReLU) get ranges that begin at 0. For kAciq* their positive
// part is taken for one half of a distribution about 0: its spread is that of the positive values,
// and k bits over one half are k + 1 bits over both. Otherwise the range lies about the mean. No
// range is wider than the values.
class ClippingAccumulator {
 public:
  explicit ClippingAccumulator(const ClippingRule& rule);

  // x: (N,...), any real type. Throws Failure(kDiverged) if it holds NaN or infinite values.
  void add(const at::Tensor& x);

  // After at least one add(). bits: 1 to 16; only kAciq* ask for them. Percentiles are those of
  // all values together, to one part in 2000 of the value; the mean distance from the mean that
  // kAciqLaplace needs is taken batch by batch.
  ClippingRange range(int bits) const;

 private:
  void count(const at::Tensor& x);
  double percentile(double percent) const;

  ClippingRule rule_;
  double min_ = 0.0;
  double max_ = 0.0;
  double count_ = 0.0;
  double samples_ = 0.0;
  double sum_ = 0.0;
  double sum_of_squares_ = 0.0;    // About the mean; for kDeviations and kAciqGauss.
  double sum_of_distances_ = 0.0;  // From the batch's mean; for kAciqLaplace.
  double sum_of_minima_ = 0.0;     // Of samples; for kAverage.
  double sum_of_maxima_ = 0.0;
  double positive_count_ = 0.0;  // For kAciq*.
  double positive_sum_ = 0.0;
  double positive_squares_ = 0.0;
  std::vector<std::int64_t> buckets_;  // For kPercentile.
};

// Where to clip a distribution about 0 with 2^bits levels, in units of its standard deviation and
// of its mean distance from 0: the minimum of the paper's mean square error
//   Gauss    (a^2 + 1) (1 - erf(a / sqrt 2)) - sqrt(2 / pi) a e^(-a^2 / 2) + a^2 / (3 4^bits)
//   Laplace  2 e^-a + a^2 / (3 4^bits)
double aciq_gauss_clip(int bits);
double aciq_laplace_clip(int bits);

}  // namespace bitrung::train
