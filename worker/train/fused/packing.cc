#include "worker/train/fused/packing.h"

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
  const std::int64_t in = in_channels(shape);
  const std::int64_t out = std::int64_t{shape.out_blocks} * kBlock;
  const std::int64_t taps = shape.taps;
  packed.forward.resize(at(in * out * taps));
  pack_as(
      in, shape.in_blocks == 0 ? kImageChannels : kBlock, out,
      together(kernels, shape.out_blocks) * kBlock, taps,
      [&](std::int64_t o, std::int64_t i, std::int64_t t) { return w[(o * in + i) * taps + t]; },
      packed.forward.data());
  if (shape.in_blocks == 0) {
    return;
  }
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
  packed.code_values.resize(at(out));
  std::vector<std::int8_t> codes(at(in * out * taps));
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
