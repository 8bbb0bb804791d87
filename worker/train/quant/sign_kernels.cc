#include "worker/train/quant/sign_kernels.h"

#include <cmath>

namespace bitrung::train {

namespace {

// Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even, below 2^22.
constexpr float kRoundingShift = 12582912.0F;

}  // namespace

// Comparisons are written so that NaN passes through.

void write_signs(const float* x, std::int64_t count, float* y) {
  for (std::int64_t i = 0; i < count; ++i) {
    y[i] = x[i] >= 0.0F ? 1.0F : (x[i] < 0.0F ? -1.0F : x[i]);
  }
}

void write_sign_levels(const float* x, std::int64_t count, float levels, float* y) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float above = x[i] < -1.0F ? -1.0F : x[i];
    const float clipped = above > 1.0F ? 1.0F : above;
    const float code = ((clipped + 1.0F) * 0.5F * levels + kRoundingShift) - kRoundingShift;
    y[i] = 2.0F * (code / levels) - 1.0F;
  }
}

void write_clip_gradients(const float* x, const float* g, std::int64_t count, float* dx) {
  for (std::int64_t i = 0; i < count; ++i) {
    dx[i] = std::abs(x[i]) <= 1.0F ? g[i] : 0.0F;
  }
}

void write_triangle_gradients(const float* x, const float* g, std::int64_t count, float* dx) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float slope = 2.0F - 2.0F * std::abs(x[i]);
    dx[i] = g[i] * (slope > 0.0F ? slope : 0.0F);
  }
}

}  // namespace bitrung::train
