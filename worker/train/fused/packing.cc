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

bool find_codes(const float* w, const Convolution& shape, std::span<const float> scales,
                PackedWeights& packed) {
  const std::int64_t out = std::int64_t{shape.out_blocks} * kBlock;
  const std::int64_t channel = in_channels(shape) * shape.taps;
  packed.has_codes = false;
  packed.code_values.resize(at(out));
  packed.plain_codes.resize(at(out * channel));
  for (std::int64_t o = 0; o < out; ++o) {
    const float scale = scales[scales.size() == 1 ? 0 : at(o)];
    const float* const values = w + o * channel;
    std::int8_t* const codes = packed.plain_codes.data() + o * channel;
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
        codes[i] = is_coded ? static_cast<std::int8_t>(nearest) : std::int8_t{0};
      }
      if (is_coded) {
        break;
      }
    }
    if (!is_coded) {
      return false;
    }
  }
  packed.has_codes = true;
  return true;
}

void pack_codes(const Convolution& shape, const Kernels& kernels, PackedWeights& packed) {
  const std::int64_t in = in_channels(shape);
  const std::int64_t out = std::int64_t{shape.out_blocks} * kBlock;
  const std::int64_t taps = shape.taps;
  const std::vector<std::int8_t>& codes = packed.plain_codes;
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

// Tiles of `pieces` for k and n in blocks: [n blocks][k blocks][taps][pieces], value(k, n, tap).
template <typename Value>
void pack_row_tiles(std::int64_t k_channels, std::int64_t n_channels, std::int64_t taps, int pieces,
                    const Value& value, std::vector<Line>& tiles) {
  tiles.resize(at(k_channels / kBlock * (n_channels / kBlock) * taps * pieces * kTileLines));
  std::uint16_t* to = tiles.data()->halves;
  for (std::int64_t n = 0; n < n_channels; n += kBlock) {
    for (std::int64_t k = 0; k < k_channels; k += kBlock) {
      for (std::int64_t tap = 0; tap < taps; ++tap, to += pieces * kTileHalves) {
        for (std::int64_t row = 0; row < kBlock; ++row) {
          for (std::int64_t lane = 0; lane < kBlock; ++lane) {
            const auto halves = halves_of(value(k + row, n + lane, tap));
            std::uint16_t* const tile = to + row / 2 * 32 + lane * 2 + row % 2;
            tile[0] = tile[kTileHalves / 2] = halves[0];
            if (pieces == 3) {
              tile[kTileHalves] = tile[kTileHalves * 3 / 2] = halves[1];
              tile[kTileHalves * 2] = halves[0];
              tile[kTileHalves * 5 / 2] = halves[2];
            }
          }
        }
      }
    }
  }
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
  const bool has_codes = packed.has_codes;
  packed.code_tiles.clear();
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
  packed.forward_tiles.clear();
  if (shape.in_blocks == 0) {
    return;
  }
  const auto weight = [&](std::int64_t o, std::int64_t i, std::int64_t t) {
    return w[(o * in + i) * taps + t];
  };
  if (has_codes) {
    packed.gradient_pieces = 1;
    pack_row_tiles(
        out, in, taps, 1,
        [&](std::int64_t o, std::int64_t i, std::int64_t t) {
          return static_cast<float>(packed.plain_codes[at((o * in + i) * taps + t)]);
        },
        packed.gradient_tiles);
    return;
  }
  packed.gradient_pieces = 3;
  pack_row_tiles(out, in, taps, 3, weight, packed.gradient_tiles);
  if (has_forward_tiles(shape)) {
    pack_row_tiles(
        in, out, taps, 3,
        [&](std::int64_t i, std::int64_t o, std::int64_t t) { return weight(o, i, t); },
        packed.forward_tiles);
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
