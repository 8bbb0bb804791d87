// The loops of uniform.h, over plain memory.
//
// No LibTorch, no threads: the caller gives each thread its own part. The widest instructions of
// the machine are chosen at run time; without fused multiplication and addition, so that values do
// not depend on them (the last bits of the sums do).
#pragma once

#include <cstdint>

namespace bitrung::train {

// Where the gradient from above reaches x. Values outside lie below or above the grid.
enum class GradientMask : std::uint8_t {
  kEverywhere,
  kClosed,       // low <= x <= high
  kOpen,         // low < x < high
  kOpenCode,     // code_low < v < code_high
  kRoundedCode,  // code_low <= rint(v) <= code_high
};

// c = clamp(x, low, high), v = (c - offset) factor + shift, code = rint(clamp(v, code_low,
// code_high)), y = (code - shift) step + offset.
template <typename Real>
struct UniformNumbers {
  Real low;
  Real high;
  Real offset;
  Real factor;
  Real shift;
  Real code_low;  // An integer, as code_high; both below 2^21 in size.
  Real code_high;
  Real step;
};

// Sums of the gradient from above, for learned tensors.
struct UniformSums {
  // Of g (rint(v) - v) where g reaches x, rint(v) being at most one code beyond the grid.
  double inside = 0.0;
  double below = 0.0;  // Of g below the grid.
  double above = 0.0;
};

// NaN stays NaN. Real is float or double.
template <typename Real>
void write_uniform(const Real* x, std::int64_t count, const UniformNumbers<Real>& numbers, Real* y);

// dx = g where it reaches x, else 0; adds to the sums if there are any.
template <typename Real>
void write_uniform_gradients(const Real* x, const Real* g, std::int64_t count,
                             const UniformNumbers<Real>& numbers, GradientMask mask, Real* dx,
                             UniformSums* sums);

// Widens [low, high] to hold x. A NaN or an infinity in x makes both NaN.
template <typename Real>
void widen_range(const Real* x, std::int64_t count, Real& low, Real& high);

}  // namespace bitrung::train
