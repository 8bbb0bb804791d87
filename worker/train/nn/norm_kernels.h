// The loops of norm_act.h's fast path, over rows of C floats (pixels of a channels_last tensor), C
// being 16, 32, 64 or 128.
//
// Plain memory; no LibTorch, no threads: the caller gives each thread its own rows. The widest
// instructions of the machine are chosen at run time, so results are equal on equal CPUs only.
#pragma once

#include <cstdint>

#include "worker/train/quant/unit_grid.h"

namespace bitrung::train {

// Whether the loops know this number of channels.
constexpr bool has_norm_kernel(std::int64_t channels) {
  return channels == 16 || channels == 32 || channels == 64 || channels == 128;
}

// Adds sum(x - shift) and sum((x - shift)^2) of each channel. A shift near the mean keeps the
// squares exact enough.
void add_shifted_sums(const float* x, std::int64_t rows, int channels, const float* shift,
                      double* sum, double* sum_of_squares);

// y = quantize(relu(scale * x + offset)) on the grid; without the relu on kLinear. NaN stays NaN.
void write_activations(const float* x, std::int64_t rows, int channels, const float* scale,
                       const float* offset, const UnitGrid& grid, float* y);

// Where gradients pass, of z = scale * x + offset.
enum class Passage : std::uint8_t {
  kEverywhere,
  kAboveZero,    // 0 < z
  kUnitInterval  // 0 < z <= 1
};

// What the gradient's loops need to know of the forward pass; pointers to C floats.
struct NormForward {
  const float* scale;   // weight / sqrt(variance + epsilon)
  const float* offset;  // bias - scale * mean
  const float* mean;
  Passage passage;
};

// With g = dy where the gradient passes and 0 elsewhere, adds sum(g) and sum(g (x - mean)) of each
// channel.
void add_gradient_sums(const float* x, const float* dy, std::int64_t rows, int channels,
                       const NormForward& forward, double* sum, double* sum_with_x);

// dx = scale * g + slope * (x - mean) + constant; slope and constant are C floats.
void write_input_gradients(const float* x, const float* dy, std::int64_t rows, int channels,
                           const NormForward& forward, const float* slope, const float* constant,
                           float* dx);

}  // namespace bitrung::train
