#include "worker/train/quant/sign_kernels.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace bitrung::train {

namespace {

// Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even, below 2^22.
constexpr float kRoundingShift = 12582912.0F;

// Sums run side by side, for vectors, and in single precision over so few values only that no digit
// is lost that matters.
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kPartialSum = 64 * kLanes;

// Comparisons are written so that NaN passes through.

inline float sign_of(float x) {
  return x >= 0.0F ? 1.0F : (x < 0.0F ? -1.0F : x);
}

inline float level_of(float x, float levels) {
  const float above = x < -1.0F ? -1.0F : x;
  const float clipped = above > 1.0F ? 1.0F : above;
  const float code = ((clipped + 1.0F) * 0.5F * levels + kRoundingShift) - kRoundingShift;
  return 2.0F * (code / levels) - 1.0F;
}

template <bool kIsTriangle>
inline float passed(float x, float g) {
  if constexpr (kIsTriangle) {
    const float slope = 2.0F - 2.0F * std::abs(x);
    return g * (slope > 0.0F ? slope : 0.0F);
  }
  return std::abs(x) <= 1.0F ? g : 0.0F;
}

// The sum of term(i) over all i below count.
template <typename Term>
double sum_of(std::int64_t count, const Term& term) {
  double total = 0.0;
  for (std::int64_t first = 0; first < count; first += kPartialSum) {
    const std::int64_t end = std::min(count, first + kPartialSum);
    std::array<float, kLanes> sums{};
    std::int64_t i = first;
    for (; i + kLanes <= end; i += kLanes) {
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        sums[static_cast<std::size_t>(lane)] += term(i + lane);
      }
    }
    for (; i < end; ++i) {
      sums[0] += term(i);
    }
    for (const float sum : sums) {
      total += static_cast<double>(sum);
    }
  }
  return total;
}

template <bool kIsTriangle>
void scaled_gradients(const float* x, const float* g, std::int64_t count, float factor,
                      const Moments& moments, double degrees, float* dx) {
  const double along = sum_of(
      count, [&](std::int64_t i) { return passed<kIsTriangle>(x[i] * factor, g[i]) * x[i]; });
  const auto scale = static_cast<double>(factor);
  const auto pull = static_cast<float>(along * scale * scale * scale / degrees);
  const auto mean = static_cast<float>(moments.mean);
  for (std::int64_t i = 0; i < count; ++i) {
    dx[i] = factor * passed<kIsTriangle>(x[i] * factor, g[i]) - pull * (x[i] - mean);
  }
}

template <bool kIsTriangle>
void shifted_gradients(const float* x, const float* g, std::int64_t rows, std::int64_t channels,
                       const float* shift, float* dx, double* sum) {
  for (std::int64_t row = 0; row < rows; ++row, x += channels, g += channels, dx += channels) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const float gradient = passed<kIsTriangle>(x[c] - shift[c], g[c]);
      dx[c] = gradient;
      sum[c] += static_cast<double>(gradient);
    }
  }
}

}  // namespace

void write_signs(const float* x, std::int64_t count, float* y) {
  for (std::int64_t i = 0; i < count; ++i) {
    y[i] = sign_of(x[i]);
  }
}

void write_sign_levels(const float* x, std::int64_t count, float levels, float* y) {
  for (std::int64_t i = 0; i < count; ++i) {
    y[i] = level_of(x[i], levels);
  }
}

void write_clip_gradients(const float* x, const float* g, std::int64_t count, float* dx) {
  for (std::int64_t i = 0; i < count; ++i) {
    dx[i] = passed<false>(x[i], g[i]);
  }
}

void write_triangle_gradients(const float* x, const float* g, std::int64_t count, float* dx) {
  for (std::int64_t i = 0; i < count; ++i) {
    dx[i] = passed<true>(x[i], g[i]);
  }
}

Moments moments_of(const float* x, std::int64_t count) {
  Moments result;
  result.mean = sum_of(count, [x](std::int64_t i) { return x[i]; }) / static_cast<double>(count);
  const auto mean = static_cast<float>(result.mean);
  result.sum_of_squares =
      sum_of(count, [x, mean](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  return result;
}

void write_scaled_levels(const float* x, std::int64_t count, float factor, float levels, float* y) {
  if (levels == 1.0F) {
    for (std::int64_t i = 0; i < count; ++i) {
      y[i] = sign_of(x[i] * factor);
    }
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    y[i] = level_of(x[i] * factor, levels);
  }
}

void write_scaled_gradients(const float* x, const float* g, std::int64_t count, float factor,
                            const Moments& moments, double degrees, bool is_triangle, float* dx) {
  if (is_triangle) {
    scaled_gradients<true>(x, g, count, factor, moments, degrees, dx);
  } else {
    scaled_gradients<false>(x, g, count, factor, moments, degrees, dx);
  }
}

void write_shifted_levels(const float* x, std::int64_t rows, std::int64_t channels,
                          const float* shift, float levels, float* y) {
  for (std::int64_t row = 0; row < rows; ++row, x += channels, y += channels) {
    if (levels == 1.0F) {
      for (std::int64_t c = 0; c < channels; ++c) {
        y[c] = sign_of(x[c] - shift[c]);
      }
    } else {
      for (std::int64_t c = 0; c < channels; ++c) {
        y[c] = level_of(x[c] - shift[c], levels);
      }
    }
  }
}

void write_shifted_gradients(const float* x, const float* g, std::int64_t rows,
                             std::int64_t channels, const float* shift, bool is_triangle, float* dx,
                             double* sum) {
  if (is_triangle) {
    shifted_gradients<true>(x, g, rows, channels, shift, dx, sum);
  } else {
    shifted_gradients<false>(x, g, rows, channels, shift, dx, sum);
  }
}

void write_shifted_prelu(const float* x, std::int64_t rows, std::int64_t channels,
                         const ShiftedPrelu& prelu, float* y) {
  const float* const shift_in = prelu.shift_in;
  const float* const slope = prelu.slope;
  const float* const shift_out = prelu.shift_out;
  for (std::int64_t row = 0; row < rows; ++row, x += channels, y += channels) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const float u = x[c] - shift_in[c];
      const float negative_slope = slope[c];  // Read always, so that there is no branch.
      y[c] = u * (u > 0.0F ? 1.0F : negative_slope) + shift_out[c];
    }
  }
}

void write_shifted_prelu_gradients(const float* x, const float* g, std::int64_t rows,
                                   std::int64_t channels, const ShiftedPrelu& prelu, float* dx,
                                   double* sums) {
  const float* const shift_in = prelu.shift_in;
  const float* const slope = prelu.slope;
  double* const sum_of_dx = sums;
  double* const sum_for_slope = sums + channels;
  double* const sum_of_g = sums + 2 * channels;
  for (std::int64_t row = 0; row < rows; ++row, x += channels, g += channels, dx += channels) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const float u = x[c] - shift_in[c];
      const float negative_slope = slope[c];  // Read always, so that there is no branch.
      const float above = g[c];
      const float gradient = above * (u > 0.0F ? 1.0F : negative_slope);
      dx[c] = gradient;
      sum_of_dx[c] += static_cast<double>(gradient);
      sum_for_slope[c] += static_cast<double>(above * (u > 0.0F ? 0.0F : u));
      sum_of_g[c] += static_cast<double>(above);
    }
  }
}

}  // namespace bitrung::train
