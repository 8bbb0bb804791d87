#include "worker/train/nn/norm_kernels.h"

#include <algorithm>
#include <array>

#include "db/base/check.h"

// The loops are written once, forced into one wrapper for each instruction set, and vectorised
// there by the compiler.
#define BITRUNG_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__)
#define BITRUNG_AVX2 __attribute__((target("avx2,fma")))
#endif

namespace bitrung::train {

namespace {

// Channels handled together: their sums fit the registers.
constexpr int kGroup = 16;
// Rows summed in single precision before they are added to the double sums: 64 rows of 64 channels
// fit the L1 cache, and so few additions lose no digit that matters.
constexpr std::int64_t kRowsPerPartialSum = 64;

// Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even, below 2^22.
constexpr float kRoundingShift = 12582912.0F;

template <int kChannels>
BITRUNG_INLINE void shifted_sums(const float* x, std::int64_t rows, const float* shift, double* sum,
                                 double* sum_of_squares) {
  for (std::int64_t first = 0; first < rows; first += kRowsPerPartialSum) {
    const std::int64_t last = std::min(rows, first + kRowsPerPartialSum);
    for (int group = 0; group < kChannels; group += kGroup) {
      std::array<float, kGroup> s{};
      std::array<float, kGroup> q{};
      for (std::int64_t row = first; row < last; ++row) {
        const float* const values = x + row * kChannels + group;
#pragma GCC unroll 1  // Unrolled first, it is not vectorised: eight times slower.
        for (int c = 0; c < kGroup; ++c) {
          const float d = values[c] - shift[group + c];
          s[static_cast<std::size_t>(c)] += d;
          q[static_cast<std::size_t>(c)] += d * d;
        }
      }
      for (int c = 0; c < kGroup; ++c) {
        sum[group + c] += static_cast<double>(s[static_cast<std::size_t>(c)]);
        sum_of_squares[group + c] += static_cast<double>(q[static_cast<std::size_t>(c)]);
      }
    }
  }
}

// Comparisons are written so that NaN passes through.
template <UnitGrid::Rounding kRounding>
BITRUNG_INLINE float on_grid(float value, float levels) {
  if constexpr (kRounding == UnitGrid::Rounding::kSign) {
    return value > 0.0F ? 1.0F : (value <= 0.0F ? 0.0F : value);
  }
  if constexpr (kRounding == UnitGrid::Rounding::kLinear) {
    return value;
  }
  const float rectified = value < 0.0F ? 0.0F : value;
  if constexpr (kRounding == UnitGrid::Rounding::kNone) {
    return rectified;
  }
  const float clamped = rectified > 1.0F ? 1.0F : rectified;
  return ((clamped * levels + kRoundingShift) - kRoundingShift) / levels;
}

template <int kChannels, UnitGrid::Rounding kRounding>
BITRUNG_INLINE void activations(const float* x, std::int64_t rows, const float* scale,
                                const float* offset, float levels, float* y) {
  for (std::int64_t row = 0; row < rows; ++row, x += kChannels, y += kChannels) {
    for (int c = 0; c < kChannels; ++c) {
      y[c] = on_grid<kRounding>(scale[c] * x[c] + offset[c], levels);
    }
  }
}

template <Passage kPassage>
BITRUNG_INLINE float passed(float value, float gradient) {
  if constexpr (kPassage == Passage::kEverywhere) {
    return gradient;
  }
  const bool passes =
      kPassage == Passage::kUnitInterval ? (value > 0.0F) & (value <= 1.0F) : value > 0.0F;
  return passes ? gradient : 0.0F;
}

template <int kChannels, Passage kPassage>
BITRUNG_INLINE void gradient_sums(const float* x, const float* dy, std::int64_t rows,
                                  const NormForward& forward, double* sum, double* sum_with_x) {
  for (std::int64_t first = 0; first < rows; first += kRowsPerPartialSum) {
    const std::int64_t last = std::min(rows, first + kRowsPerPartialSum);
    for (int group = 0; group < kChannels; group += kGroup) {
      const float* const scale = forward.scale + group;
      const float* const offset = forward.offset + group;
      const float* const mean = forward.mean + group;
      std::array<float, kGroup> s{};
      std::array<float, kGroup> p{};
      for (std::int64_t row = first; row < last; ++row) {
        const float* const values = x + row * kChannels + group;
        const float* const gradients = dy + row * kChannels + group;
        for (int c = 0; c < kGroup; ++c) {
          const float g = passed<kPassage>(scale[c] * values[c] + offset[c], gradients[c]);
          s[static_cast<std::size_t>(c)] += g;
          p[static_cast<std::size_t>(c)] += g * (values[c] - mean[c]);
        }
      }
      for (int c = 0; c < kGroup; ++c) {
        sum[group + c] += static_cast<double>(s[static_cast<std::size_t>(c)]);
        sum_with_x[group + c] += static_cast<double>(p[static_cast<std::size_t>(c)]);
      }
    }
  }
}

template <int kChannels, Passage kPassage>
BITRUNG_INLINE void input_gradients(const float* x, const float* dy, std::int64_t rows,
                                    const NormForward& forward, const float* slope,
                                    const float* constant, float* dx) {
  const float* const scale = forward.scale;
  const float* const offset = forward.offset;
  const float* const mean = forward.mean;
  for (std::int64_t row = 0; row < rows; ++row, x += kChannels, dy += kChannels, dx += kChannels) {
    for (int c = 0; c < kChannels; ++c) {
      const float g = passed<kPassage>(scale[c] * x[c] + offset[c], dy[c]);
      dx[c] = scale[c] * g + (slope[c] * (x[c] - mean[c]) + constant[c]);
    }
  }
}

BITRUNG_INLINE void shifted_sums_any(const float* x, std::int64_t rows, int channels,
                                     const float* shift, double* sum, double* sum_of_squares) {
  switch (channels) {
    case 16:
      return shifted_sums<16>(x, rows, shift, sum, sum_of_squares);
    case 32:
      return shifted_sums<32>(x, rows, shift, sum, sum_of_squares);
    case 64:
      return shifted_sums<64>(x, rows, shift, sum, sum_of_squares);
    default:
      return shifted_sums<128>(x, rows, shift, sum, sum_of_squares);
  }
}

template <int kChannels>
BITRUNG_INLINE void activations_on(const UnitGrid& grid, const float* x, std::int64_t rows,
                                   const float* scale, const float* offset, float* y) {
  switch (grid.rounding) {
    case UnitGrid::Rounding::kNone:
      return activations<kChannels, UnitGrid::Rounding::kNone>(x, rows, scale, offset, grid.levels,
                                                               y);
    case UnitGrid::Rounding::kLinear:
      return activations<kChannels, UnitGrid::Rounding::kLinear>(x, rows, scale, offset,
                                                                 grid.levels, y);
    case UnitGrid::Rounding::kNearest:
      return activations<kChannels, UnitGrid::Rounding::kNearest>(x, rows, scale, offset,
                                                                  grid.levels, y);
    case UnitGrid::Rounding::kSign:
      return activations<kChannels, UnitGrid::Rounding::kSign>(x, rows, scale, offset, grid.levels,
                                                               y);
  }
}

BITRUNG_INLINE void activations_any(const float* x, std::int64_t rows, int channels,
                                    const float* scale, const float* offset, const UnitGrid& grid,
                                    float* y) {
  switch (channels) {
    case 16:
      return activations_on<16>(grid, x, rows, scale, offset, y);
    case 32:
      return activations_on<32>(grid, x, rows, scale, offset, y);
    case 64:
      return activations_on<64>(grid, x, rows, scale, offset, y);
    default:
      return activations_on<128>(grid, x, rows, scale, offset, y);
  }
}

template <Passage kPassage>
BITRUNG_INLINE void gradient_sums_any(const float* x, const float* dy, std::int64_t rows,
                                      int channels, const NormForward& forward, double* sum,
                                      double* sum_with_x) {
  switch (channels) {
    case 16:
      return gradient_sums<16, kPassage>(x, dy, rows, forward, sum, sum_with_x);
    case 32:
      return gradient_sums<32, kPassage>(x, dy, rows, forward, sum, sum_with_x);
    case 64:
      return gradient_sums<64, kPassage>(x, dy, rows, forward, sum, sum_with_x);
    default:
      return gradient_sums<128, kPassage>(x, dy, rows, forward, sum, sum_with_x);
  }
}

template <Passage kPassage>
BITRUNG_INLINE void input_gradients_any(const float* x, const float* dy, std::int64_t rows,
                                        int channels, const NormForward& forward,
                                        const float* slope, const float* constant, float* dx) {
  switch (channels) {
    case 16:
      return input_gradients<16, kPassage>(x, dy, rows, forward, slope, constant, dx);
    case 32:
      return input_gradients<32, kPassage>(x, dy, rows, forward, slope, constant, dx);
    case 64:
      return input_gradients<64, kPassage>(x, dy, rows, forward, slope, constant, dx);
    default:
      return input_gradients<128, kPassage>(x, dy, rows, forward, slope, constant, dx);
  }
}

BITRUNG_INLINE void gradient_sums_with(const float* x, const float* dy, std::int64_t rows,
                                       int channels, const NormForward& forward, double* sum,
                                       double* sum_with_x) {
  switch (forward.passage) {
    case Passage::kEverywhere:
      return gradient_sums_any<Passage::kEverywhere>(x, dy, rows, channels, forward, sum,
                                                     sum_with_x);
    case Passage::kAboveZero:
      return gradient_sums_any<Passage::kAboveZero>(x, dy, rows, channels, forward, sum,
                                                    sum_with_x);
    case Passage::kUnitInterval:
      return gradient_sums_any<Passage::kUnitInterval>(x, dy, rows, channels, forward, sum,
                                                       sum_with_x);
  }
}

BITRUNG_INLINE void input_gradients_with(const float* x, const float* dy, std::int64_t rows,
                                         int channels, const NormForward& forward,
                                         const float* slope, const float* constant, float* dx) {
  switch (forward.passage) {
    case Passage::kEverywhere:
      return input_gradients_any<Passage::kEverywhere>(x, dy, rows, channels, forward, slope,
                                                       constant, dx);
    case Passage::kAboveZero:
      return input_gradients_any<Passage::kAboveZero>(x, dy, rows, channels, forward, slope,
                                                      constant, dx);
    case Passage::kUnitInterval:
      return input_gradients_any<Passage::kUnitInterval>(x, dy, rows, channels, forward, slope,
                                                         constant, dx);
  }
}

// One set of entry points for each instruction set.
struct Kernels {
  void (*shifted_sums)(const float*, std::int64_t, int, const float*, double*, double*);
  void (*activations)(const float*, std::int64_t, int, const float*, const float*, const UnitGrid&,
                      float*);
  void (*gradient_sums)(const float*, const float*, std::int64_t, int, const NormForward&, double*,
                        double*);
  void (*input_gradients)(const float*, const float*, std::int64_t, int, const NormForward&,
                          const float*, const float*, float*);
};

#define BITRUNG_DEFINE_KERNELS(name, attribute)                                                    \
  attribute void name##_shifted_sums(const float* x, std::int64_t rows, int channels,              \
                                     const float* shift, double* sum, double* sum_of_squares) {    \
    shifted_sums_any(x, rows, channels, shift, sum, sum_of_squares);                               \
  }                                                                                                \
  attribute void name##_activations(const float* x, std::int64_t rows, int channels,               \
                                    const float* scale, const float* offset, const UnitGrid& grid, \
                                    float* y) {                                                    \
    activations_any(x, rows, channels, scale, offset, grid, y);                                    \
  }                                                                                                \
  attribute void name##_gradient_sums(const float* x, const float* dy, std::int64_t rows,          \
                                      int channels, const NormForward& forward, double* sum,       \
                                      double* sum_with_x) {                                        \
    gradient_sums_with(x, dy, rows, channels, forward, sum, sum_with_x);                           \
  }                                                                                                \
  attribute void name##_input_gradients(const float* x, const float* dy, std::int64_t rows,        \
                                        int channels, const NormForward& forward,                  \
                                        const float* slope, const float* constant, float* dx) {    \
    input_gradients_with(x, dy, rows, channels, forward, slope, constant, dx);                     \
  }                                                                                                \
  constexpr Kernels name##_kernels = {name##_shifted_sums, name##_activations,                     \
                                      name##_gradient_sums, name##_input_gradients};

BITRUNG_DEFINE_KERNELS(baseline, )
#if defined(BITRUNG_AVX2)
BITRUNG_DEFINE_KERNELS(avx2, BITRUNG_AVX2)
#endif

const Kernels& best_kernels() {
#if defined(BITRUNG_AVX2)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx2) {
    return avx2_kernels;
  }
#endif
  return baseline_kernels;
}

}  // namespace

void add_shifted_sums(const float* x, std::int64_t rows, int channels, const float* shift,
                      double* sum, double* sum_of_squares) {
  BITRUNG_CHECK(has_norm_kernel(channels));
  best_kernels().shifted_sums(x, rows, channels, shift, sum, sum_of_squares);
}

void write_activations(const float* x, std::int64_t rows, int channels, const float* scale,
                       const float* offset, const UnitGrid& grid, float* y) {
  BITRUNG_CHECK(has_norm_kernel(channels));
  best_kernels().activations(x, rows, channels, scale, offset, grid, y);
}

void add_gradient_sums(const float* x, const float* dy, std::int64_t rows, int channels,
                       const NormForward& forward, double* sum, double* sum_with_x) {
  BITRUNG_CHECK(has_norm_kernel(channels));
  best_kernels().gradient_sums(x, dy, rows, channels, forward, sum, sum_with_x);
}

void write_input_gradients(const float* x, const float* dy, std::int64_t rows, int channels,
                           const NormForward& forward, const float* slope, const float* constant,
                           float* dx) {
  BITRUNG_CHECK(has_norm_kernel(channels));
  best_kernels().input_gradients(x, dy, rows, channels, forward, slope, constant, dx);
}

}  // namespace bitrung::train
