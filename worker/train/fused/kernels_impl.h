// The loops of kernels.h, once for each instruction set: a source file that defines BITRUNG_LANES
// (floats in a vector) and BITRUNG_TABLE (the table's name in code) includes this.
//
// No standard headers with inline functions: the linker keeps one copy of such a function, which
// may be one compiled for instructions that the machine lacks.
#include <cstdint>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

#include "worker/train/fused/kernels.h"

#define BITRUNG_INLINE inline __attribute__((always_inline))

namespace bitrung::train::fused {

namespace {

constexpr int kLanes = BITRUNG_LANES;
constexpr int kVectors = kBlock / kLanes;  // In a block.

// Tiles: pixels in a row times vectors of output channels, all in registers with the weights.
constexpr int kTogether = kLanes == 16 ? 2 : 1;
constexpr int kPixels = kLanes == 16 ? 8 : kLanes == 8 ? 4 : 2;

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef float UnalignedFloats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef std::int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef std::uint8_t Bytes __attribute__((vector_size(kLanes)));
typedef std::uint8_t UnalignedBytes __attribute__((vector_size(kLanes), aligned(1), may_alias));

BITRUNG_INLINE Floats load(const float* from) {
  return *reinterpret_cast<const UnalignedFloats*>(from);
}

BITRUNG_INLINE void store(float* to, Floats value) {
  *reinterpret_cast<UnalignedFloats*>(to) = value;
}

BITRUNG_INLINE Floats all(float value) {
  return value - Floats{};
}

// Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even, below 2^22.
BITRUNG_INLINE Floats rounded(Floats value) {
  const Floats shift = all(12582912.0F);
  return (value + shift) - shift;
}

#if defined(__FMA__) || defined(__aarch64__)
constexpr bool kRoundsOnce = true;
#else
constexpr bool kRoundsOnce = false;
#endif

// ---- convolutions

// Where a convolution finds its inputs: positions of the taps, and which weights belong to them.
struct Taps {
  int count;
  long offsets[9];  // In floats, from the tile's first pixel.
  int weights[9];
};

// One tile: kP pixels of a row, `kV` vectors of output channels. kC input channels lie together;
// from pixel to pixel the input moves by kStep floats.
template <int kP, int kV, int kC, int kStep>
BITRUNG_INLINE void tile(const float* in, long in_plane, int in_blocks, const Taps& taps,
                         int all_taps, const float* w, const float* residual, float* out,
                         long out_plane, long out_step) {
  Floats sums[kP][kV];
#pragma GCC unroll 16
  for (int p = 0; p < kP; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      const long at = (v / kVectors) * out_plane + p * out_step + (v % kVectors) * kLanes;
      sums[p][v] = residual == nullptr ? Floats{} : load(residual + at);
    }
  }
  for (int block = 0; block < in_blocks; ++block) {
    for (int t = 0; t < taps.count; ++t) {
      const float* const x = in + block * in_plane + taps.offsets[t];
      const float* const tap_w =
          w + (static_cast<long>(block) * all_taps + taps.weights[t]) * kC * kV * kLanes;
#pragma GCC unroll 1
      for (int c = 0; c < kC; ++c) {
        Floats weights[kV];
#pragma GCC unroll 4
        for (int v = 0; v < kV; ++v) {
          weights[v] = load(tap_w + (c * kV + v) * kLanes);
        }
#pragma GCC unroll 16
        for (int p = 0; p < kP; ++p) {
          const Floats value = all(x[p * kStep + c]);
#pragma GCC unroll 4
          for (int v = 0; v < kV; ++v) {
            sums[p][v] += value * weights[v];
          }
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < kP; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      const long at = (v / kVectors) * out_plane + p * out_step + (v % kVectors) * kLanes;
      store(out + at, sums[p][v]);
    }
  }
}

// What all tiles of one convolution share.
struct Planes {
  int side;  // Rows and columns of tiles' pixels.
  int in_blocks;
  long in_plane;
  long in_row;   // From a row of tiles to the next.
  long in_step;  // From a pixel to the next.
  int out_blocks;
  long out_plane;
  long out_row;
  long out_step;
  int all_taps;
};

template <int kP, int kBlocks, int kC, int kStep>
void tiles(const Planes& planes, const float* in, const Taps& taps, const float* w,
           const float* residual, float* out) {
  constexpr int kV = kBlocks * kVectors;
  const long group_weights =
      static_cast<long>(planes.in_blocks) * planes.all_taps * kC * kV * kLanes;
  for (int y = 0; y < planes.side; ++y) {
    for (int x = 0; x < planes.side; x += kP) {
      const float* const from = in + y * planes.in_row + x * planes.in_step;
      for (int block = 0; block < planes.out_blocks; block += kBlocks) {
        const long at = block * planes.out_plane + y * planes.out_row + x * planes.out_step;
        tile<kP, kV, kC, kStep>(from, planes.in_plane, planes.in_blocks, taps, planes.all_taps,
                                w + (block / kBlocks) * group_weights,
                                residual == nullptr ? nullptr : residual + at, out + at,
                                planes.out_plane, planes.out_step);
      }
    }
  }
}

BITRUNG_INLINE int together(int out_blocks) {
  return out_blocks % kTogether == 0 ? kTogether : 1;
}

template <int kC, int kStep>
void all_tiles(const Planes& planes, const float* in, const Taps& taps, const float* w,
               const float* residual, float* out) {
  if (together(planes.out_blocks) == kTogether) {
    tiles<kPixels, kTogether, kC, kStep>(planes, in, taps, w, residual, out);
  } else if (planes.side % (2 * kPixels) == 0) {
    tiles<2 * kPixels, 1, kC, kStep>(planes, in, taps, w, residual, out);
  } else {
    tiles<kPixels, 1, kC, kStep>(planes, in, taps, w, residual, out);
  }
}

// The taps of a padded input whose pixels are `step` floats apart.
BITRUNG_INLINE Taps forward_taps(int count, int padded_side, long step) {
  Taps taps{};
  taps.count = count;
  for (int t = 0; t < count; ++t) {
    const int row = count == 9 ? t / 3 : 1;
    const int column = count == 9 ? t % 3 : 1;
    taps.offsets[t] = (static_cast<long>(row) * padded_side + column) * step;
    taps.weights[t] = t;
  }
  return taps;
}

void convolve(const Convolution& shape, const float* in, const float* w, const float* residual,
              float* out) {
  const bool is_image = shape.in_blocks == 0;
  const long pixel = is_image ? kImageChannels : kBlock;
  const int padded_side = shape.side * shape.stride + 2;
  const Taps taps = forward_taps(shape.taps, padded_side, pixel);
  Planes planes{};
  planes.side = shape.side;
  planes.in_blocks = is_image ? 1 : shape.in_blocks;
  planes.in_plane = static_cast<long>(padded_side) * padded_side * pixel;
  planes.in_row = static_cast<long>(shape.stride) * padded_side * pixel;
  planes.in_step = shape.stride * pixel;
  planes.out_blocks = shape.out_blocks;
  planes.out_plane = static_cast<long>(shape.side) * shape.side * kBlock;
  planes.out_row = static_cast<long>(shape.side) * kBlock;
  planes.out_step = kBlock;
  planes.all_taps = shape.taps;
  if (is_image) {
    all_tiles<kImageChannels, kImageChannels>(planes, in, taps, w, residual, out);
  } else if (shape.stride == 1) {
    all_tiles<kBlock, kBlock>(planes, in, taps, w, residual, out);
  } else {
    all_tiles<kBlock, 2 * kBlock>(planes, in, taps, w, residual, out);
  }
}

void input_gradients(const Convolution& shape, const float* dy, const float* w, bool adds,
                     float* dx) {
  const int padded_side = shape.side + 2;
  const int dx_side = shape.side * shape.stride;
  Planes planes{};
  planes.side = shape.side;
  planes.in_blocks = shape.out_blocks;
  planes.in_plane = static_cast<long>(padded_side) * padded_side * kBlock;
  planes.in_row = static_cast<long>(padded_side) * kBlock;
  planes.in_step = kBlock;
  planes.out_blocks = shape.in_blocks;
  planes.out_plane = static_cast<long>(dx_side) * dx_side * kBlock;
  planes.out_row = static_cast<long>(shape.stride) * dx_side * kBlock;
  planes.out_step = static_cast<long>(shape.stride) * kBlock;
  planes.all_taps = shape.taps;
  // dx at (stride y + i, stride x + j) gets dy at (y + a, x + b) through the tap that leads there.
  for (int i = 0; i < shape.stride; ++i) {
    for (int j = 0; j < shape.stride; ++j) {
      Taps taps{};
      for (int t = 0; t < shape.taps; ++t) {
        const int row = i + 1 - (shape.taps == 9 ? t / 3 : 1);
        const int column = j + 1 - (shape.taps == 9 ? t % 3 : 1);
        if (row % shape.stride != 0 || column % shape.stride != 0) {
          continue;
        }
        taps.offsets[taps.count] =
            (static_cast<long>(row / shape.stride + 1) * padded_side + column / shape.stride + 1) *
            kBlock;
        taps.weights[taps.count++] = t;
      }
      if (taps.count == 0) {
        continue;
      }
      float* const to = dx + (static_cast<long>(i) * dx_side + j) * kBlock;
      all_tiles<kBlock, kBlock>(planes, dy, taps, w, adds ? to : nullptr, to);
    }
  }
}

#if defined(__AVX512VNNI__)

template <int kP, int kV, int kStep>
BITRUNG_INLINE void code_tile(const std::uint8_t* in, long in_plane, int in_blocks,
                              const Taps& taps, const std::int8_t* w, const float* scale,
                              const float* residual, float* out, long out_plane) {
  __m512i sums[kP][kV];
#pragma GCC unroll 16
  for (int p = 0; p < kP; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      sums[p][v] = _mm512_setzero_si512();
    }
  }
  for (int block = 0; block < in_blocks; ++block) {
    for (int t = 0; t < taps.count; ++t) {
      const std::uint8_t* const x = in + block * in_plane + taps.offsets[t];
      const std::int8_t* const tap_w =
          w + (static_cast<long>(block) * taps.count + t) * kBlock * kV * kBlock;
#pragma GCC unroll 1
      for (int quad = 0; quad < kBlock / 4; ++quad) {
        __m512i weights[kV];
#pragma GCC unroll 4
        for (int v = 0; v < kV; ++v) {
          weights[v] = _mm512_loadu_si512(tap_w + (quad * kV + v) * 64);
        }
#pragma GCC unroll 16
        for (int p = 0; p < kP; ++p) {
          std::int32_t four;
          __builtin_memcpy(&four, x + p * kStep + quad * 4, 4);
          const __m512i value = _mm512_set1_epi32(four);
#pragma GCC unroll 4
          for (int v = 0; v < kV; ++v) {
            sums[p][v] = _mm512_dpbusd_epi32(sums[p][v], value, weights[v]);
          }
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < kP; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      Floats value = __builtin_convertvector(reinterpret_cast<Ints>(sums[p][v]), Floats) *
                     load(scale + v * kBlock);
      const long at = v * out_plane + p * kBlock;
      if (residual != nullptr) {
        value += load(residual + at);
      }
      store(out + at, value);
    }
  }
}

template <int kP, int kV, int kStep>
void code_tiles(const Convolution& shape, const std::uint8_t* in, const Taps& taps,
                const std::int8_t* w, const float* scale, const float* residual, float* out) {
  const int padded_side = shape.side * shape.stride + 2;
  const long in_plane = static_cast<long>(padded_side) * padded_side * kBlock;
  const long out_plane = static_cast<long>(shape.side) * shape.side * kBlock;
  const long group_weights = static_cast<long>(shape.in_blocks) * shape.taps * kBlock * kV * kBlock;
  for (int y = 0; y < shape.side; ++y) {
    for (int x = 0; x < shape.side; x += kP) {
      const std::uint8_t* const from =
          in + (static_cast<long>(y) * padded_side + x) * shape.stride * kBlock;
      for (int block = 0; block < shape.out_blocks; block += kV) {
        const long at = block * out_plane + (static_cast<long>(y) * shape.side + x) * kBlock;
        code_tile<kP, kV, kStep>(from, in_plane, shape.in_blocks, taps,
                                 w + (block / kV) * group_weights, scale + block * kBlock,
                                 residual == nullptr ? nullptr : residual + at, out + at,
                                 out_plane);
      }
    }
  }
}

template <int kStep>
void all_code_tiles(const Convolution& shape, const std::uint8_t* in, const Taps& taps,
                    const std::int8_t* w, const float* scale, const float* residual, float* out) {
  if (together(shape.out_blocks) == kTogether) {
    code_tiles<kPixels, kTogether, kStep>(shape, in, taps, w, scale, residual, out);
  } else if (shape.side % (2 * kPixels) == 0) {
    code_tiles<2 * kPixels, 1, kStep>(shape, in, taps, w, scale, residual, out);
  } else {
    code_tiles<kPixels, 1, kStep>(shape, in, taps, w, scale, residual, out);
  }
}

void convolve_codes(const Convolution& shape, const std::uint8_t* in, const std::int8_t* w,
                    const float* scale, const float* residual, float* out) {
  const Taps taps = forward_taps(shape.taps, shape.side * shape.stride + 2, kBlock);
  if (shape.stride == 1) {
    all_code_tiles<kBlock>(shape, in, taps, w, scale, residual, out);
  } else {
    all_code_tiles<2 * kBlock>(shape, in, taps, w, scale, residual, out);
  }
}

#endif

// ---- gradients of weights

// Rows of pixels that are read for all taps before the next ones: few enough to stay in the cache.
constexpr int kRowsTogether = 8;
// Input channels whose sums fit the registers.
constexpr int kRowsOfSums = kLanes == 16 ? 16 : kLanes == 8 ? 4 : 2;

// A few hundred products are summed up before they are added to the total of many images: where
// most of a sum cancels, adding each to the total would cost a digit or two.
BITRUNG_INLINE void add_to_total(float* total, Floats sum) {
  store(total, load(total) + sum);
}

template <int kStep>
void block_weight_gradients(const Convolution& shape, const float* in, const float* dy, float* dw) {
  const int in_side = shape.side * shape.stride + 2;
  const int dy_side = shape.side + 2;
  const long in_plane = static_cast<long>(in_side) * in_side * kBlock;
  const long dy_plane = static_cast<long>(dy_side) * dy_side * kBlock;
  for (int first = 0; first < shape.side; first += kRowsTogether) {
    float* to = dw;
    for (int t = 0; t < shape.taps; ++t) {
      const int row = shape.taps == 9 ? t / 3 : 1;
      const int column = shape.taps == 9 ? t % 3 : 1;
      for (int i = 0; i < shape.in_blocks; ++i) {
        for (int o = 0; o < shape.out_blocks; ++o, to += kBlock * kBlock) {
          for (int c = 0; c < kBlock; c += kRowsOfSums) {
            Floats sums[kRowsOfSums][kVectors];
#pragma GCC unroll 16
            for (int k = 0; k < kRowsOfSums; ++k) {
#pragma GCC unroll 4
              for (int v = 0; v < kVectors; ++v) {
                sums[k][v] = Floats{};
              }
            }
            for (int y = first; y < first + kRowsTogether; ++y) {
              const float* x =
                  in + i * in_plane + c +
                  (static_cast<long>(y * shape.stride + row) * in_side + column) * kBlock;
              const float* g =
                  dy + o * dy_plane + (static_cast<long>(y + 1) * dy_side + 1) * kBlock;
#pragma GCC unroll 1
              for (int p = 0; p < shape.side; ++p, x += kStep, g += kBlock) {
                Floats above[kVectors];
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v) {
                  above[v] = load(g + v * kLanes);
                }
#pragma GCC unroll 16
                for (int k = 0; k < kRowsOfSums; ++k) {
                  const Floats value = all(x[k]);
#pragma GCC unroll 4
                  for (int v = 0; v < kVectors; ++v) {
                    sums[k][v] += value * above[v];
                  }
                }
              }
            }
#pragma GCC unroll 16
            for (int k = 0; k < kRowsOfSums; ++k) {
#pragma GCC unroll 4
              for (int v = 0; v < kVectors; ++v) {
                add_to_total(to + (c + k) * kBlock + v * kLanes, sums[k][v]);
              }
            }
          }
        }
      }
    }
  }
}

// Of images: nine sums, of one row of taps, at a time.
void image_weight_gradients(const Convolution& shape, const float* in, const float* dy, float* dw) {
  constexpr int kTogetherHere = 3 * kImageChannels;
  const int side = shape.side + 2;
  const long dy_plane = static_cast<long>(side) * side * kBlock;
  const long dw_row = static_cast<long>(shape.out_blocks) * kBlock;
  for (int o = 0; o < shape.out_blocks; ++o) {
    for (int v = 0; v < kVectors; ++v) {
      for (int row = 0; row < 3; ++row) {
        float* const to = dw + row * kTogetherHere * dw_row + o * kBlock + v * kLanes;
        Floats sums[kTogetherHere];
#pragma GCC unroll 9
        for (int k = 0; k < kTogetherHere; ++k) {
          sums[k] = Floats{};
        }
        for (int y = 0; y < shape.side; ++y) {
          const float* x = in + static_cast<long>(y + row) * side * kImageChannels;
          const float* g =
              dy + o * dy_plane + (static_cast<long>(y + 1) * side + 1) * kBlock + v * kLanes;
#pragma GCC unroll 1
          for (int p = 0; p < shape.side; ++p, x += kImageChannels, g += kBlock) {
            const Floats above = load(g);
#pragma GCC unroll 9
            for (int k = 0; k < kTogetherHere; ++k) {
              sums[k] += x[k] * above;
            }
          }
        }
#pragma GCC unroll 9
        for (int k = 0; k < kTogetherHere; ++k) {
          add_to_total(to + k * dw_row, sums[k]);
        }
      }
    }
  }
}

void weight_gradients(const Convolution& shape, const float* in, const float* dy, float* dw) {
  if (shape.in_blocks == 0) {
    image_weight_gradients(shape, in, dy, dw);
  } else if (shape.stride == 1) {
    block_weight_gradients<kBlock>(shape, in, dy, dw);
  } else {
    block_weight_gradients<2 * kBlock>(shape, in, dy, dw);
  }
}

// ---- between the convolutions

// NaN becomes 0; the moments have seen it before.
BITRUNG_INLINE Floats above_zero(Floats z) {
  return z > Floats{} ? z : Floats{};
}

BITRUNG_INLINE Floats below(Floats value, Floats bound) {
  return value < bound ? value : bound;
}

template <Activation::Kind kKind>
BITRUNG_INLINE Floats code_of(Floats z, const Activation& rule) {
  if constexpr (kKind == Activation::Kind::kSign) {
    return z > Floats{} ? all(1.0F) : Floats{};
  }
  return rounded(below(above_zero(z) * rule.factor, all(rule.code_high)));
}

template <Activation::Kind kKind>
void activate_as(const float* x, int side, int blocks, const NormForward& norm,
                 const Activation& rule, float* padded, std::uint8_t* codes) {
  for (int block = 0; block < blocks; ++block) {
    Floats scale[kVectors];
    Floats offset[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      scale[v] = load(norm.scale + block * kBlock + v * kLanes);
      offset[v] = load(norm.offset + block * kBlock + v * kLanes);
    }
    for (int y = 0; y < side; ++y) {
      long at = ((static_cast<long>(block) * (side + 2) + y + 1) * (side + 2) + 1) * kBlock;
      for (int p = 0; p < side; ++p) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v, x += kLanes, at += kLanes) {
          const Floats z = load(x) * scale[v] + offset[v];
          if constexpr (kKind == Activation::Kind::kRelu) {
            store(padded + at, above_zero(z));
          } else {
            const Floats code = code_of<kKind>(z, rule);
            if (padded != nullptr) {
              store(padded + at, code * rule.step);
            }
            if (codes != nullptr) {
              *reinterpret_cast<UnalignedBytes*>(codes + at) =
                  __builtin_convertvector(__builtin_convertvector(code, Ints), Bytes);
            }
          }
        }
      }
    }
  }
}

void activate(const float* x, int side, int blocks, const NormForward& norm, const Activation& rule,
              float* padded, std::uint8_t* codes) {
  switch (rule.kind) {
    case Activation::Kind::kRelu:
      return activate_as<Activation::Kind::kRelu>(x, side, blocks, norm, rule, padded, codes);
    case Activation::Kind::kNearest:
      return activate_as<Activation::Kind::kNearest>(x, side, blocks, norm, rule, padded, codes);
    case Activation::Kind::kSign:
      return activate_as<Activation::Kind::kSign>(x, side, blocks, norm, rule, padded, codes);
  }
}

// Pixels summed in single precision before they go to the double sums.
constexpr int kPixelsPerSum = 64;

BITRUNG_INLINE void add_to(double* sums, Floats values) {
  for (int i = 0; i < kLanes; ++i) {
    sums[i] += static_cast<double>(values[i]);
  }
}

void write_extremes(const float* x, int side, int blocks, float* lows, float* highs) {
  const int pixels = side * side;
  for (int block = 0; block < blocks; ++block) {
    for (int v = 0; v < kVectors; ++v) {
      const float* from = x + static_cast<long>(block) * pixels * kBlock + v * kLanes;
      Floats low = load(from);
      Floats high = low;
      for (int p = 0; p < pixels; ++p, from += kBlock) {
        const Floats value = load(from);
        low = value < low ? value : low;
        high = value > high ? value : high;
      }
      store(lows + block * kBlock + v * kLanes, low);
      store(highs + block * kBlock + v * kLanes, high);
    }
  }
}

void add_moments(const float* x, int side, int blocks, const float* shift, double* sums,
                 double* squares, float* lows, float* highs) {
  if (lows != nullptr) {
    write_extremes(x, side, blocks, lows, highs);
  }
  const int pixels = side * side;
  for (int block = 0; block < blocks; ++block) {
    for (int first = 0; first < pixels; first += kPixelsPerSum) {
      for (int v = 0; v < kVectors; ++v) {
        const int channel = block * kBlock + v * kLanes;
        const Floats about = load(shift + channel);
        const float* from = x + (static_cast<long>(block) * pixels + first) * kBlock + v * kLanes;
        // Two of each, so that no addition waits for the last one.
        Floats s[2] = {};
        Floats q[2] = {};
        for (int p = 0; p < kPixelsPerSum; p += 2, from += 2 * kBlock) {
          const Floats a = load(from) - about;
          const Floats b = load(from + kBlock) - about;
          s[0] += a;
          s[1] += b;
          q[0] += a * a;
          q[1] += b * b;
        }
        add_to(sums + channel, s[0] + s[1]);
        add_to(squares + channel, q[0] + q[1]);
      }
    }
  }
}

template <Activation::Kind kKind, bool kLearned>
void pass_gradients_as(const float* x, const float* dy, int side, int blocks,
                       const NormForward& norm, const Activation& rule, float* g, double* sums,
                       double* sums_with_x, LearnedSums* learned) {
  const int pixels = side * side;
  // z < high is z <= the next float below it.
  const Floats high = all(rule.high);
  for (int block = 0; block < blocks; ++block) {
    for (int first = 0; first < pixels; first += kPixelsPerSum) {
      for (int v = 0; v < kVectors; ++v) {
        const int channel = block * kBlock + v * kLanes;
        const Floats scale = load(norm.scale + channel);
        const Floats offset = load(norm.offset + channel);
        const Floats mean = load(norm.mean + channel);
        long at = (static_cast<long>(block) * pixels + first) * kBlock + v * kLanes;
        Floats s = {};
        Floats q = {};
        Floats inside = {};
        Floats above = {};
        for (int p = 0; p < kPixelsPerSum; ++p, at += kBlock) {
          const Floats value = load(x + at);
          const Floats z = value * scale + offset;
          const Floats from = load(dy + at);
          Floats passed = z > Floats{} ? from : Floats{};
          if constexpr (kKind != Activation::Kind::kRelu) {
            passed =
                rule.is_closed ? (z <= high ? passed : Floats{}) : (z < high ? passed : Floats{});
          }
          if constexpr (kLearned) {
            const Floats unrounded = z * rule.factor;
            inside += passed * (rounded(unrounded) - unrounded);
            above += z >= high ? from : Floats{};
          }
          store(g + at, passed);
          s += passed;
          q += passed * (value - mean);
        }
        add_to(sums + channel, s);
        add_to(sums_with_x + channel, q);
        if constexpr (kLearned) {
          for (int i = 0; i < kLanes; ++i) {
            learned->inside += static_cast<double>(inside[i]);
            learned->above += static_cast<double>(above[i]);
          }
        }
      }
    }
  }
}

void pass_gradients(const float* x, const float* dy, int side, int blocks, const NormForward& norm,
                    const Activation& rule, float* g, double* sums, double* sums_with_x,
                    LearnedSums* learned) {
  if (rule.kind == Activation::Kind::kRelu) {
    pass_gradients_as<Activation::Kind::kRelu, false>(x, dy, side, blocks, norm, rule, g, sums,
                                                      sums_with_x, learned);
  } else if (rule.is_learned) {
    pass_gradients_as<Activation::Kind::kNearest, true>(x, dy, side, blocks, norm, rule, g, sums,
                                                        sums_with_x, learned);
  } else {
    pass_gradients_as<Activation::Kind::kNearest, false>(x, dy, side, blocks, norm, rule, g, sums,
                                                         sums_with_x, learned);
  }
}

void norm_gradients(const float* g, const float* x, int side, int blocks, const NormBackward& norm,
                    const float* other, float* sum, float* padded) {
  for (int block = 0; block < blocks; ++block) {
    Floats scale[kVectors];
    Floats mean[kVectors];
    Floats slope[kVectors];
    Floats constant[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const int channel = block * kBlock + v * kLanes;
      scale[v] = load(norm.scale + channel);
      mean[v] = load(norm.mean + channel);
      slope[v] = load(norm.slope + channel);
      constant[v] = load(norm.constant + channel);
    }
    long from = static_cast<long>(block) * side * side * kBlock;
    for (int y = 0; y < side; ++y) {
      long at = ((static_cast<long>(block) * (side + 2) + y + 1) * (side + 2) + 1) * kBlock;
      for (int p = 0; p < side; ++p) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v, from += kLanes, at += kLanes) {
          Floats value =
              scale[v] * load(g + from) + (slope[v] * (load(x + from) - mean[v]) + constant[v]);
          if (other != nullptr) {
            value += load(other + from);
          }
          if (sum != nullptr) {
            store(sum + from, value);
          }
          if (padded != nullptr) {
            store(padded + at, value);
          }
        }
      }
    }
  }
}

void pool(const float* x, int side, int blocks, const NormForward& norm, float* means) {
  const int pixels = side * side;
  for (int block = 0; block < blocks; ++block) {
    for (int v = 0; v < kVectors; ++v) {
      const int channel = block * kBlock + v * kLanes;
      const Floats scale = load(norm.scale + channel);
      const Floats offset = load(norm.offset + channel);
      const float* from = x + static_cast<long>(block) * pixels * kBlock + v * kLanes;
      Floats s = {};
      for (int p = 0; p < pixels; ++p, from += kBlock) {
        s += above_zero(load(from) * scale + offset);
      }
      store(means + channel, s / static_cast<float>(pixels));
    }
  }
}

#if defined(__AMX_BF16__)
#include "worker/train/fused/tiles_impl.h"
constexpr const TileKernels* kTiles = &kTileKernels;
#else
constexpr const TileKernels* kTiles = nullptr;
#endif

#if defined(__AVX512VNNI__)
constexpr auto kConvolveCodes = convolve_codes;
#else
constexpr decltype(Kernels::convolve_codes) kConvolveCodes = nullptr;
#endif

}  // namespace

extern const Kernels BITRUNG_TABLE;
const Kernels BITRUNG_TABLE = {
    .name = BITRUNG_TABLE_NAME,
    .blocks_together = kTogether,
    .rounds_once = kRoundsOnce,
    .convolve = convolve,
    .convolve_codes = kConvolveCodes,
    .input_gradients = input_gradients,
    .weight_gradients = weight_gradients,
    .activate = activate,
    .add_moments = add_moments,
    .pass_gradients = pass_gradients,
    .norm_gradients = norm_gradients,
    .pool = pool,
    .tiles = kTiles,
};

}  // namespace bitrung::train::fused
