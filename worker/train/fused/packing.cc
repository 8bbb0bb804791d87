#include "worker/train/fused/packing.h"

#include <array>
#include <bit>
#include <cmath>

namespace bitrung::train::fused {

namespace {

constexpr float kCodeMax = 127.0F;
// How far from an integer a weight over its step may lie by rounding.
constexpr float kCodeError = 1e-3F;

std::size_t at(std::int64_t index) {
  return static_cast<std::size_t>(index);
}

std::int64_t together(const Kernels& kernels, std::int64_t blocks) {
  return blocks % kernels.blocks_together == 0 ? kernels.blocks_together : 1;
}

std::int64_t in_channels(const Convolution& shape) {
  return shape.in_blocks == 0 ? kImageChannels : std::int64_t{shape.in_blocks} * kBlock;
}

// to[group][block][tap][channel][lane] = from(column, row, tap) with rows in blocks of `block_size`
// and columns in groups of `wide`.
template <typename From>
void pack_as(std::int64_t rows, std::int64_t block_size, std::int64_t columns, std::int64_t wide,
             std::int64_t taps, const From& from, float* to) {
  for (std::int64_t group = 0; group < columns; group += wide) {
    for (std::int64_t block = 0; block < rows; block += block_size) {
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        for (std::int64_t row = block; row < block + block_size; ++row) {
          for (std::int64_t lane = 0; lane < wide; ++lane) {
            *to++ = from(group + lane, row, tap);
          }
        }
      }
    }
  }
}

}  // namespace

void pack(const float* w, const Convolution& shape, const Kernels& kernels, PackedWeights& packed) {
  pack_forward(w, shape, kernels, packed);
  pack_backward(w, shape, kernels, packed);
}

void pack_forward(const float* w, const Convolution& shape, const Kernels& kernels,
                  PackedWeights& packed) {
  const std::int64_t in = in_channels(shape);
  const std::int64_t out = std::int64_t{shape.out_blocks} * kBlock;
  const std::int64_t taps = shape.taps;
  packed.forward.resize(at(in * out * taps));
  pack_as(
      in, shape.in_blocks == 0 ? kImageChannels : kBlock, out,
      together(kernels, shape.out_blocks) * kBlock, taps,
      [&](std::int64_t o, std::int64_t i, std::int64_t t) { return w[(o * in + i) * taps + t]; },
      packed.forward.data());
}

void pack_backward(const float* w, const Convolution& shape, const Kernels& kernels,
                   PackedWeights& packed) {
  if (shape.in_blocks == 0) {
    return;
  }
  const std::int64_t in = in_channels(shape);
  const std::int64_t out = std::int64_t{shape.out_blocks} * kBlock;
  const std::int64_t taps = shape.taps;
  packed.backward.resize(at(in * out * taps));
  pack_as(
      out, kBlock, in, together(kernels, shape.in_blocks) * kBlock, taps,
      [&](std::int64_t i, std::int64_t o, std::int64_t t) { return w[(o * in + i) * taps + t]; },
      packed.backward.data());
}

bool pack_codes(const float* w, const Convolution& shape, const Kernels& kernels,
                std::span<const float> scales, PackedWeights& packed) {
  const std::int64_t in = in_channels(shape);
  const std::int64_t out = std::int64_t{shape.out_blocks} * kBlock;
  const std::int64_t taps = shape.taps;
  const std::int64_t channel = in * taps;
  packed.codes.clear();
  packed.code_tiles.clear();
  packed.code_values.resize(at(out));
  std::vector<std::int8_t>& codes = packed.plain_codes;
  codes.resize(at(in * out * taps));
  for (std::int64_t o = 0; o < out; ++o) {
    const float scale = scales[scales.size() == 1 ? 0 : at(o)];
    const float* const values = w + o * channel;
    bool is_coded = false;
    for (const float per_scale : {1.0F, 2.0F}) {
      packed.code_values[at(o)] = scale / per_scale;
      const float factor = scale == 0.0F ? 0.0F : per_scale / scale;
      is_coded = true;
      for (std::int64_t i = 0; i < channel && is_coded; ++i) {
        const float code = values[i] * factor;
        const float nearest = std::nearbyint(code);
        // Also false for NaN. With a scale of 0 all weights must be 0.
        is_coded = std::fabs(nearest) <= kCodeMax && std::fabs(code - nearest) <= kCodeError &&
                   (scale != 0.0F || values[i] == 0.0F);
        codes[at(o * channel + i)] = is_coded ? static_cast<std::int8_t>(nearest) : std::int8_t{0};
      }
      if (is_coded) {
        break;
      }
    }
    if (!is_coded) {
      return false;
    }
  }
  const std::int64_t wide = together(kernels, shape.out_blocks) * kBlock;
  packed.codes.resize(codes.size());
  std::int8_t* to = packed.codes.data();
  for (std::int64_t group = 0; group < out; group += wide) {
    for (std::int64_t block = 0; block < in; block += kBlock) {
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        for (std::int64_t quad = block; quad < block + kBlock; quad += 4) {
          for (std::int64_t o = group; o < group + wide; ++o) {
            for (std::int64_t i = quad; i < quad + 4; ++i) {
              *to++ = codes[at((o * in + i) * taps + tap)];
            }
          }
        }
      }
    }
  }
  return true;
}

namespace {

constexpr std::int64_t kTileLines = 16;
constexpr std::int64_t kTileHalves = kTileLines * 32;

// As the matrix unit's loops split a float: the nearest number with the upper half of its bits.
std::uint32_t upper_half(float value) {
  return (std::bit_cast<std::uint32_t>(value) + 0x8000U) & 0xFFFF0000U;
}

// The upper halves of three numbers whose sum is `value`.
std::array<std::uint16_t, 3> halves_of(float value) {
  std::array<std::uint16_t, 3> halves{};
  for (std::uint16_t& half : halves) {
    const std::uint32_t bits = upper_half(value);
    half = static_cast<std::uint16_t>(bits >> 16U);
    value -= std::bit_cast<float>(bits);
  }
  return halves;
}

void pack_code_tiles(const Convolution& shape, PackedWeights& packed) {
  const std::int64_t in = in_channels(shape);
  const std::int64_t tiles = std::int64_t{shape.out_blocks} * shape.in_blocks * 3;
  packed.code_tiles.assign(at(tiles * kTileLines), Line{});
  auto* to = reinterpret_cast<std::int8_t*>(packed.code_tiles.data());
  for (std::int64_t o = 0; o < shape.out_blocks; ++o) {
    for (std::int64_t i = 0; i < shape.in_blocks; ++i) {
      for (std::int64_t row = 0; row < 3; ++row, to += kTileLines * 64) {
        for (std::int64_t lane = 0; lane < kBlock; ++lane) {
          for (std::int64_t c = 0; c < kBlock; ++c) {
            const std::int8_t* const from = packed.plain_codes.data() +
                                            ((o * kBlock + lane) * in + i * kBlock + c) * 9 +
                                            row * 3;
            for (std::int64_t column = 0; column < 3; ++column) {
              to[(column * 4 + c / 4) * 64 + lane * 4 + c % 4] = from[column];
            }
          }
        }
      }
    }
  }
}

}  // namespace

void pack_tiles(const float* w, const Convolution& shape, PackedWeights& packed) {
  const std::int64_t in = in_channels(shape);
  const std::int64_t out = std::int64_t{shape.out_blocks} * kBlock;
  const std::int64_t taps = shape.taps;
  const bool has_codes = !packed.codes.empty();
  packed.gradient_factors.assign(at(out), 1.0F);
  if (has_codes) {
    for (std::int64_t o = 0; o < out; ++o) {
      // Where all codes are 0 the gradients of the weights are still wanted.
      const float value = packed.code_values[at(o)];
      packed.gradient_factors[at(o)] = value == 0.0F ? 1.0F : value;
    }
    if (taps == 9) {
      pack_code_tiles(shape, packed);
    }
  }
  if (shape.in_blocks == 0) {
    return;
  }
  packed.gradient_pieces = has_codes ? 1 : 3;
  const std::int64_t tap_halves = packed.gradient_pieces * kTileHalves;
  packed.gradient_tiles.resize(
      at(in / kBlock * (out / kBlock) * taps * packed.gradient_pieces * kTileLines));
  std::uint16_t* to = packed.gradient_tiles.data()->halves;
  for (std::int64_t i = 0; i < in; i += kBlock) {
    for (std::int64_t o = 0; o < out; o += kBlock) {
      for (std::int64_t tap = 0; tap < taps; ++tap, to += tap_halves) {
        for (std::int64_t k = 0; k < kBlock; ++k) {
          for (std::int64_t n = 0; n < kBlock; ++n) {
            const std::size_t from = at(((o + k) * in + i + n) * taps + tap);
            const auto halves =
                halves_of(has_codes ? static_cast<float>(packed.plain_codes[from]) : w[from]);
            const auto put = [&](int piece, std::uint16_t first, std::uint16_t second) {
              std::uint16_t* const tile = to + piece * kTileHalves + k / 2 * 32 + n * 2 + k % 2;
              tile[0] = first;
              tile[kTileHalves / 2] = second;
            };
            put(0, halves[0], halves[0]);
            if (!has_codes) {
              put(1, halves[1], halves[1]);
              put(2, halves[0], halves[2]);
            }
          }
        }
      }
    }
  }
}

std::size_t tile_gradient_size(const Convolution& shape) {
  constexpr std::size_t kTileFloats = kBlock * kBlock;
  const auto out_blocks = static_cast<std::size_t>(shape.out_blocks);
  return shape.in_blocks == 0
             ? 3 * out_blocks * kTileFloats
             : static_cast<std::size_t>(shape.taps) * static_cast<std::size_t>(shape.in_blocks) *
                   out_blocks * kTileFloats;
}

void unpack_tile_gradients(const float* gradients, std::int64_t parts, const Convolution& shape,
                           const PackedWeights& packed, float factor, float* dw) {
  constexpr std::int64_t kTileFloats = kBlock * kBlock;
  const std::int64_t in = in_channels(shape);
  const std::int64_t out = std::int64_t{shape.out_blocks} * kBlock;
  const std::int64_t taps = shape.taps;
  const auto size = static_cast<std::int64_t>(tile_gradient_size(shape));
  std::vector<float> sum(gradients, gradients + size);
  for (std::int64_t part = 1; part < parts; ++part) {
    const float* const other = gradients + part * size;
    for (std::int64_t i = 0; i < size; ++i) {
      sum[at(i)] += other[i];
    }
  }
  for (std::int64_t o = 0; o < out; ++o) {
    const float per_channel = factor / packed.gradient_factors[at(o)];
    const std::int64_t lane = o % kBlock;
    for (std::int64_t i = 0; i < in; ++i) {
      for (std::int64_t t = 0; t < taps; ++t) {
        const std::int64_t from =
            shape.in_blocks == 0
                ? (o / kBlock * 3 + t / 3) * kTileFloats + lane * kBlock + t % 3 * kImageChannels +
                      i
                : ((t * shape.in_blocks + i / kBlock) * shape.out_blocks + o / kBlock) *
                          kTileFloats +
                      lane * kBlock + i % kBlock;
        dw[(o * in + i) * taps + t] = sum[at(from)] * per_channel;
      }
    }
  }
}

void unpack_gradients(const float* gradients, std::int64_t parts, const Convolution& shape,
                      float* dw) {
  const std::int64_t in = in_channels(shape);
  const std::int64_t out = std::int64_t{shape.out_blocks} * kBlock;
  const std::int64_t taps = shape.taps;
  const std::int64_t size = in * out * taps;
  std::vector<float> sum(gradients, gradients + size);
  for (std::int64_t part = 1; part < parts; ++part) {
    const float* const other = gradients + part * size;
    for (std::int64_t i = 0; i < size; ++i) {
      sum[at(i)] += other[i];
    }
  }
  for (std::int64_t t = 0; t < taps; ++t) {
    for (std::int64_t i = 0; i < in; ++i) {
      for (std::int64_t o = 0; o < out; ++o) {
        const std::int64_t from =
            shape.in_blocks == 0
                ? (t * in + i) * out + o
                : (((t * shape.in_blocks + i / kBlock) * shape.out_blocks + o / kBlock) * kBlock +
                   i % kBlock) *
                          kBlock +
                      o % kBlock;
        dw[(o * in + i) * taps + t] = sum[at(from)];
      }
    }
  }
}

}  // namespace bitrung::train::fused
