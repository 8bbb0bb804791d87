#include "worker/train/quant/uniform_kernels.h"

#include <algorithm>
#include <array>
#include <type_traits>

// As in norm_kernels.cc: written once, forced into one wrapper for each instruction set.
#define BITRUNG_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__)
#define BITRUNG_AVX2 __attribute__((target("avx2")))
#endif

namespace bitrung::train {

namespace {

// Sums are kept in so many lanes, and so many values go into one before it is added to a double.
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kRowsPerPartialSum = 64;

// Adding and taking away 1.5 * 2^23 (2^52) rounds to the nearest integer, ties to even.
template <typename Real>
constexpr Real kRoundingShift = std::is_same_v<Real, float> ? Real{12582912.0F}
                                                            : static_cast<Real>(6755399441055744.0);

template <typename Real>
BITRUNG_INLINE Real rounded(Real value) {
  return (value + kRoundingShift<Real>)-kRoundingShift<Real>;
}

// Comparisons are written so that NaN passes through.
template <typename Real>
BITRUNG_INLINE Real clamped(Real value, Real low, Real high) {
  const Real raised = value < low ? low : value;
  return raised > high ? high : raised;
}

template <typename Real>
BITRUNG_INLINE Real code_value(Real x, const UniformNumbers<Real>& n) {
  return (clamped(x, n.low, n.high) - n.offset) * n.factor + n.shift;
}

template <typename Real>
BITRUNG_INLINE void uniform(const Real* x, std::int64_t count, const UniformNumbers<Real>& numbers,
                            Real* y) {
  const UniformNumbers<Real> n = numbers;
  for (std::int64_t i = 0; i < count; ++i) {
    const Real code = rounded(clamped(code_value(x[i], n), n.code_low, n.code_high));
    y[i] = (code - n.shift) * n.step + n.offset;
  }
}

// One value's part in the gradients.
template <typename Real>
struct Passed {
  Real inside;
  Real below;
  Real above;
  Real error;  // rint(v) - v
};

template <GradientMask kMask, typename Real>
BITRUNG_INLINE Passed<Real> passed(Real x, Real g, const UniformNumbers<Real>& n) {
  const Real v = code_value(x, n);
  // One code beyond the grid is enough to see that a value is.
  const Real code = rounded(clamped(v, n.code_low - Real{1}, n.code_high + Real{1}));
  bool is_below = false;
  bool is_above = false;
  if constexpr (kMask == GradientMask::kClosed) {
    is_below = x < n.low;
    is_above = x > n.high;
  } else if constexpr (kMask == GradientMask::kOpen) {
    is_below = x <= n.low;
    is_above = x >= n.high;
  } else if constexpr (kMask == GradientMask::kOpenCode) {
    is_below = v <= n.code_low;
    is_above = v >= n.code_high;
  } else if constexpr (kMask == GradientMask::kRoundedCode) {
    is_below = code < n.code_low;
    is_above = code > n.code_high;
  }
  const Real below = is_below ? g : Real{0};
  const Real above = is_above ? g : Real{0};
  const Real not_below = is_below ? Real{0} : g;
  return {is_above ? Real{0} : not_below, below, above, code - v};
}

template <GradientMask kMask, typename Real>
BITRUNG_INLINE void gradients(const Real* x, const Real* g, std::int64_t count,
                              const UniformNumbers<Real>& numbers, Real* dx) {
  const UniformNumbers<Real> n = numbers;
  for (std::int64_t i = 0; i < count; ++i) {
    dx[i] = passed<kMask>(x[i], g[i], n).inside;
  }
}

template <GradientMask kMask, typename Real>
BITRUNG_INLINE void gradients_and_sums(const Real* x, const Real* g, std::int64_t count,
                                       const UniformNumbers<Real>& numbers, Real* dx,
                                       UniformSums& sums) {
  const UniformNumbers<Real> n = numbers;
  const std::int64_t rows = count / kLanes;
  for (std::int64_t first = 0; first < rows; first += kRowsPerPartialSum) {
    const std::int64_t last = std::min(rows, first + kRowsPerPartialSum);
    std::array<Real, kLanes> inside{};
    std::array<Real, kLanes> below{};
    std::array<Real, kLanes> above{};
    for (std::int64_t row = first; row < last; ++row) {
      const Real* const values = x + row * kLanes;
      const Real* const gradients_above = g + row * kLanes;
      Real* const results = dx + row * kLanes;
#pragma GCC unroll 1  // Unrolled first, it is not vectorised.
      for (int lane = 0; lane < kLanes; ++lane) {
        const Passed<Real> part = passed<kMask>(values[lane], gradients_above[lane], n);
        results[lane] = part.inside;
        inside[static_cast<std::size_t>(lane)] += part.inside * part.error;
        below[static_cast<std::size_t>(lane)] += part.below;
        above[static_cast<std::size_t>(lane)] += part.above;
      }
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      sums.inside += static_cast<double>(inside[lane]);
      sums.below += static_cast<double>(below[lane]);
      sums.above += static_cast<double>(above[lane]);
    }
  }
  for (std::int64_t i = rows * kLanes; i < count; ++i) {
    const Passed<Real> part = passed<kMask>(x[i], g[i], n);
    dx[i] = part.inside;
    sums.inside += static_cast<double>(part.inside * part.error);
    sums.below += static_cast<double>(part.below);
    sums.above += static_cast<double>(part.above);
  }
}

template <GradientMask kMask, typename Real>
BITRUNG_INLINE void gradients_with(const Real* x, const Real* g, std::int64_t count,
                                   const UniformNumbers<Real>& numbers, Real* dx,
                                   UniformSums* sums) {
  if (sums == nullptr) {
    return gradients<kMask>(x, g, count, numbers, dx);
  }
  return gradients_and_sums<kMask>(x, g, count, numbers, dx, *sums);
}

template <typename Real>
BITRUNG_INLINE void gradients_any(const Real* x, const Real* g, std::int64_t count,
                                  const UniformNumbers<Real>& numbers, GradientMask mask, Real* dx,
                                  UniformSums* sums) {
  switch (mask) {
    case GradientMask::kEverywhere:
      return gradients_with<GradientMask::kEverywhere>(x, g, count, numbers, dx, sums);
    case GradientMask::kClosed:
      return gradients_with<GradientMask::kClosed>(x, g, count, numbers, dx, sums);
    case GradientMask::kOpen:
      return gradients_with<GradientMask::kOpen>(x, g, count, numbers, dx, sums);
    case GradientMask::kOpenCode:
      return gradients_with<GradientMask::kOpenCode>(x, g, count, numbers, dx, sums);
    case GradientMask::kRoundedCode:
      return gradients_with<GradientMask::kRoundedCode>(x, g, count, numbers, dx, sums);
  }
}

template <typename Real>
BITRUNG_INLINE void widen(const Real* x, std::int64_t count, Real& low, Real& high) {
  std::array<Real, kLanes> lowest;
  std::array<Real, kLanes> highest;
  std::array<Real, kLanes> nothing{};  // Zeros, and NaN once there was one or an infinity.
  lowest.fill(low);
  highest.fill(high);
  const std::int64_t rows = count / kLanes;
  for (std::int64_t row = 0; row < rows; ++row) {
    const Real* const values = x + row * kLanes;
#pragma GCC unroll 1  // Unrolled first, it is not vectorised.
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto i = static_cast<std::size_t>(lane);
      const Real value = values[lane];
      lowest[i] = value < lowest[i] ? value : lowest[i];
      highest[i] = value > highest[i] ? value : highest[i];
      nothing[i] += value * Real{0};
    }
  }
  for (std::int64_t i = rows * kLanes; i < count; ++i) {
    lowest[0] = x[i] < lowest[0] ? x[i] : lowest[0];
    highest[0] = x[i] > highest[0] ? x[i] : highest[0];
    nothing[0] += x[i] * Real{0};
  }
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    low = lowest[lane] < low ? lowest[lane] : low;
    high = highest[lane] > high ? highest[lane] : high;
  }
  for (const Real value : nothing) {
    low += value;
    high += value;
  }
}

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2");
}

template <typename Real>
BITRUNG_AVX2 void uniform_avx2(const Real* x, std::int64_t count,
                               const UniformNumbers<Real>& numbers, Real* y) {
  uniform(x, count, numbers, y);
}

template <typename Real>
BITRUNG_AVX2 void gradients_avx2(const Real* x, const Real* g, std::int64_t count,
                                 const UniformNumbers<Real>& numbers, GradientMask mask, Real* dx,
                                 UniformSums* sums) {
  gradients_any(x, g, count, numbers, mask, dx, sums);
}

template <typename Real>
BITRUNG_AVX2 void widen_avx2(const Real* x, std::int64_t count, Real& low, Real& high) {
  widen(x, count, low, high);
}
#endif

}  // namespace

template <typename Real>
void write_uniform(const Real* x, std::int64_t count, const UniformNumbers<Real>& numbers,
                   Real* y) {
#if defined(__x86_64__)
  if (has_avx2()) {
    return uniform_avx2(x, count, numbers, y);
  }
#endif
  uniform(x, count, numbers, y);
}

template <typename Real>
void write_uniform_gradients(const Real* x, const Real* g, std::int64_t count,
                             const UniformNumbers<Real>& numbers, GradientMask mask, Real* dx,
                             UniformSums* sums) {
#if defined(__x86_64__)
  if (has_avx2()) {
    return gradients_avx2(x, g, count, numbers, mask, dx, sums);
  }
#endif
  gradients_any(x, g, count, numbers, mask, dx, sums);
}

template <typename Real>
void widen_range(const Real* x, std::int64_t count, Real& low, Real& high) {
#if defined(__x86_64__)
  if (has_avx2()) {
    return widen_avx2(x, count, low, high);
  }
#endif
  widen(x, count, low, high);
}

template void write_uniform(const float*, std::int64_t, const UniformNumbers<float>&, float*);
template void write_uniform(const double*, std::int64_t, const UniformNumbers<double>&, double*);
template void write_uniform_gradients(const float*, const float*, std::int64_t,
                                      const UniformNumbers<float>&, GradientMask, float*,
                                      UniformSums*);
template void write_uniform_gradients(const double*, const double*, std::int64_t,
                                      const UniformNumbers<double>&, GradientMask, double*,
                                      UniformSums*);
template void widen_range(const float*, std::int64_t, float&, float&);
template void widen_range(const double*, std::int64_t, double&, double&);

}  // namespace bitrung::train
