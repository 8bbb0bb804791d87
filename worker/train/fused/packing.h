// Weights of a convolution in the orders that the kernels read. No LibTorch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/train/fused/kernels.h"

namespace bitrung::train::fused {

struct PackedWeights {
  std::vector<float> forward;   // As Kernels::convolve wants them.
  std::vector<float> backward;  // As Kernels::input_gradients does; empty for images.
  // Whether all weights of an output channel are codes, integers of -127 to 127, times one number.
  bool has_codes = false;
  std::vector<std::int8_t> plain_codes;  // (out,in,k,k)
  std::vector<float> code_values;        // Of a code, for each output channel.
  std::vector<std::int8_t> codes;        // As Kernels::convolve_codes wants them.

  // For TileKernels: convolve; convolve_codes; input_gradients, whose gradients are to be
  // multiplied by a factor for each output channel.
  std::vector<Line> forward_tiles;
  std::vector<Line> code_tiles;
  std::vector<Line> gradient_tiles;
  int gradient_pieces = 0;
  std::vector<float> gradient_factors;
};

// w: (out,in,k,k) of `shape`. pack() does both.
void pack_forward(const float* w, const Convolution& shape, const Kernels& kernels,
                  PackedWeights& packed);
void pack_backward(const float* w, const Convolution& shape, const Kernels& kernels,
                   PackedWeights& packed);
void pack(const float* w, const Convolution& shape, const Kernels& kernels, PackedWeights& packed);

// Looks for codes. scales: of the levels, one or one for each output channel: weights are integers
// or halves of integers times it. Returns packed.has_codes: whether they are and the codes fit.
bool find_codes(const float* w, const Convolution& shape, std::span<const float> scales,
                PackedWeights& packed);

// Fills packed.codes from those that were found.
void pack_codes(const Convolution& shape, const Kernels& kernels, PackedWeights& packed);

// Whether TileKernels::convolve can do it.
constexpr bool has_forward_tiles(const Convolution& shape) {
  return shape.in_blocks > 0 && shape.taps == 9;
}

// Fills what is for TileKernels; codes that were found are taken in place of w.
void pack_tiles(const float* w, const Convolution& shape, PackedWeights& packed);

// Floats of one part of the gradients that TileKernels leave.
std::size_t tile_gradient_size(const Convolution& shape);

// As unpack_gradients(), of TileKernels' gradients: dw = sum * factor / packed.gradient_factors.
void unpack_tile_gradients(const float* gradients, std::int64_t parts, const Convolution& shape,
                           const PackedWeights& packed, float factor, float* dw);

// dw = the sum of `parts` gradients that lie one behind the other as Kernels::weight_gradients
// leaves them; dw: (out,in,k,k).
void unpack_gradients(const float* gradients, std::int64_t parts, const Convolution& shape,
                      float* dw);

}  // namespace bitrung::train::fused
