// The loops of the one-bit methods' fast paths (sign_levels.h, recu.cc, react.cc), over floats.
//
// Plain memory; no LibTorch, no threads: the caller gives each thread its own part. NaN stays NaN
// in what is written forward.
#pragma once

#include <cstdint>

namespace bitrung::train {

// y = 1 for x >= 0, else -1.
void write_signs(const float* x, std::int64_t count, float* y);

// y = 2 rint(levels (clip(x, -1, 1) + 1) / 2) / levels - 1, ties to even; levels at most 65535.
void write_sign_levels(const float* x, std::int64_t count, float levels, float* y);

// dx = g where |x| <= 1, else 0.
void write_clip_gradients(const float* x, const float* g, std::int64_t count, float* dx);

// dx = g max(0, 2 - 2 |x|).
void write_triangle_gradients(const float* x, const float* g, std::int64_t count, float* dx);

// The mean of the values, and the sum of their squared distances from it.
struct Moments {
  double mean = 0.0;
  double sum_of_squares = 0.0;
};
Moments moments_of(const float* x, std::int64_t count);

// y = what write_signs (levels 1) or write_sign_levels makes of x * factor.
void write_scaled_levels(const float* x, std::int64_t count, float factor, float levels, float* y);

// The gradient of that for factor = 1 / deviation of the same values: with h = g times the
// triangle or the clip at x * factor, and a = sum(h x) factor^2 / degrees,
//   dx = factor h - a factor (x - mean).
void write_scaled_gradients(const float* x, const float* g, std::int64_t count, float factor,
                            const Moments& moments, double degrees, bool is_triangle, float* dx);

// The next four go over rows of C floats, x[c] being one of channel c.

// y = what write_signs (levels 1) or write_sign_levels makes of x - shift[c].
void write_shifted_levels(const float* x, std::int64_t rows, std::int64_t channels,
                          const float* shift, float levels, float* y);

// The gradient of that by the triangle or the clip; adds its sums to sum[c].
void write_shifted_gradients(const float* x, const float* g, std::int64_t rows,
                             std::int64_t channels, const float* shift, bool is_triangle, float* dx,
                             double* sum);

// Of each channel.
struct ShiftedPrelu {
  const float* shift_in;
  const float* slope;
  const float* shift_out;
};

// y = u + shift_out[c] for u = x - shift_in[c] above 0, else slope[c] u + shift_out[c].
void write_shifted_prelu(const float* x, std::int64_t rows, std::int64_t channels,
                         const ShiftedPrelu& prelu, float* y);

// The gradient of that. Adds to sums[c] that of dx, to sums[C + c] that of g u where u <= 0, and to
// sums[2 C + c] that of g.
void write_shifted_prelu_gradients(const float* x, const float* g, std::int64_t rows,
                                   std::int64_t channels, const ShiftedPrelu& prelu, float* dx,
                                   double* sums);

}  // namespace bitrung::train
