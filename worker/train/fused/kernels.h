// Loops of the fused backend, each over one image: convolutions, and what lies between two of them.
//
// Plain memory, no LibTorch, no threads, no allocation. Activations are blocked: a plane of pixels
// for each 16 channels, [channels / 16][side][side][16]; "padded" ones have a frame of one zero
// pixel, [channels / 16][side + 2][side + 2][16], which the loops leave alone. There is one table
// of loops for each instruction set, compiled from kernels_impl.h; results differ between tables in
// the last bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitrung::train::fused {

inline constexpr int kBlock = 16;
inline constexpr int kImageChannels = 3;

// 3 x 3 with a padding of 1 or 1 x 1 without, and no bias.
struct Convolution {
  int side = 0;        // Of the output; the input's is side * stride. A multiple of 8.
  int stride = 1;      // 1 or 2; 1 for images.
  int taps = 9;        // 9 or 1.
  int in_blocks = 0;   // 0 for images: [side + 2][side + 2][3].
  int out_blocks = 0;  // Of 16 channels.
};

// What happens to z = scale x + offset on its way into a convolution, and which gradient comes
// back.
//   kRelu     y = max(z, 0)                                                  0 < z
//   kNearest  code = rint(min(max(z, 0) factor, code_high)), y = code step   0 < z < high
//   kSign     code = 1 for z > 0, else 0; y = code                           0 < z < high
struct Activation {
  enum class Kind : std::uint8_t { kRelu, kNearest, kSign };
  Kind kind = Kind::kRelu;
  float factor = 1.0F;
  float step = 1.0F;
  float code_high = 0.0F;  // At most 2^16.
  float high = 0.0F;
  bool is_closed = false;   // z <= high in place of z < high.
  bool is_learned = false;  // The gradient's sums for learned tensors are wanted.
};

// Of one normalisation, with C floats each.
struct NormForward {
  const float* scale;
  const float* offset;
  const float* mean;
};

// dx = scale g + slope (x - mean) + constant, C floats each.
struct NormBackward {
  const float* scale;
  const float* mean;
  const float* slope;
  const float* constant;
};

// Sums of the gradient from above for what a quantizer learns.
struct LearnedSums {
  double inside = 0.0;  // Of g (code - z factor) where it passes.
  double above = 0.0;   // Of g where z is not below high.
};

// What a matrix unit reads at once: 16 pairs of halves, the upper halves of floats, or 64 codes.
struct alignas(64) Line {
  std::uint16_t halves[32];
};

// What a thread reads next, to be fetched while it multiplies.
struct Ahead {
  struct Range {
    const char* begin;
    const char* end;
  };
  Range ranges[4];
  int count = 0;

  void add(const float* from, std::size_t size) {
    ranges[count++] = {reinterpret_cast<const char*>(from),
                       reinterpret_cast<const char*>(from + size)};
  }
};

// Where Kernels::add_moments' sums go.
struct MomentSums {
  const float* shift;
  double* sums;
  double* squares;
};

// Lines of the forms of TileKernels' operands of one image.
struct TileSizes {
  std::size_t rows;
  std::size_t columns;
  std::size_t pairs;  // For two pieces.
  std::size_t windows;
};
constexpr TileSizes tile_sizes(const Convolution& shape) {
  const auto side = static_cast<std::size_t>(shape.side);
  const auto in_side = side * static_cast<std::size_t>(shape.stride);
  const auto in_blocks = static_cast<std::size_t>(shape.in_blocks == 0 ? 1 : shape.in_blocks);
  const auto out_blocks = static_cast<std::size_t>(shape.out_blocks);
  // Of up to three copies in two pairs of pieces, of gradients or of inputs.
  const std::size_t gradients = 6 * (side + 2) * (side + 2) * out_blocks;
  const std::size_t inputs = 6 * (in_side + 2) * (side + 2) * in_blocks;
  return {.rows = gradients > inputs ? gradients : inputs,
          .columns = side * side * out_blocks,
          .pairs = 3 * (in_side + 2) * side * in_blocks,
          .windows = (in_side + 2) * side * in_blocks};
}

// Convolutions by a matrix unit that multiplies halves and adds up floats. A float is multiplied as
// the sum of two halves, which is exact to 2^-16, or of three, which leaves nothing out; a code of
// up to 8 bits is one. All forms of operands are the unit's own and are written here whole, with
// their frames. Convolutions have 9 taps or 1, a side of 8 or of a multiple of 16 and at most 32.
struct TileKernels {
  // Around the calls of a thread, which leave the unit's registers in use.
  void (*begin)();
  void (*end)();

  // As Kernels::norm_gradients, times a factor for each channel in both forms, but not in `sum`.
  // rows: for the gradients of inputs, in two or three pieces, may be null; columns: for those of
  // weights, in two.
  void (*norm_gradients)(const float* g, const float* x, int side, int blocks,
                         const NormBackward& norm, const float* factors, const float* other,
                         float* sum, int pieces, Line* rows, Line* columns);

  // Both forms of a gradient (blocked) times a factor for each channel.
  void (*gradients)(const float* dy, int side, int blocks, const float* factors, int pieces,
                    Line* rows, Line* columns);

  // The input of a convolution for the gradient of its weights: codes, without their step, in one
  // piece, or values in two.
  void (*activate)(const Convolution& shape, const float* x, const NormForward& norm,
                   const Activation& rule, int pieces, Line* pairs);

  // dw += the gradient of the weights, [taps][in_blocks][out_blocks][16 out][16 in].
  void (*weight_gradients)(const Convolution& shape, const Line* pairs, int pieces,
                           const Line* columns, float* dw, Ahead& ahead);

  // As Kernels::input_gradients. w: [in_blocks][out_blocks][taps][pieces] tiles, each the pairs of
  // output channels of two halves, [2][8][16 in][2]. In one piece it is a code twice, and the rows
  // are in two; in three the first half twice, the second twice, the first and the third.
  void (*input_gradients)(const Convolution& shape, const Line* rows, const Line* w, int pieces,
                          bool adds, float* dx, Ahead& ahead);

  // The input of a convolution with 9 taps as rows in three pieces, and what Kernels::convolve
  // does. w: as for input_gradients, from the output's to the input's channels.
  void (*activate_rows)(const Convolution& shape, const float* x, const NormForward& norm,
                        const Activation& rule, Line* rows);
  void (*convolve)(const Convolution& shape, const Line* rows, const Line* w, const float* residual,
                   float* out, Ahead& ahead);

  // The input of a convolution with 9 taps as codes, and what Kernels::convolve_codes does, with
  // the sums of Kernels::add_moments if `moments` is not null. w:
  // [out_blocks][in_blocks][3 rows of taps] tiles, [4 taps][4][16 out][4 in] of which the fourth
  // tap is 0.
  void (*activate_codes)(const Convolution& shape, const float* x, const NormForward& norm,
                         const Activation& rule, Line* windows);
  void (*convolve_codes)(const Convolution& shape, const Line* windows, const Line* w,
                         const float* scale, const float* residual, float* out,
                         const MomentSums* moments, Ahead& ahead);

  // Of images (padded). dw: [out_blocks][3 rows of taps][16 out][16], the last index being 3 times
  // the tap's column plus the input channel, and of no meaning from 9 on.
  void (*image)(const Convolution& shape, const float* in, Line* pairs);
  void (*image_weight_gradients)(const Convolution& shape, const Line* pairs, const Line* columns,
                                 float* dw, Ahead& ahead);
};

struct Kernels {
  const char* name;  // "amx", "avx512-vnni", "avx512", "avx2", "portable".

  // Blocks of output channels that lie together in packed weights: 2 where an even number of blocks
  // is wanted and the table says so, else 1.
  int blocks_together;

  // Whether z = scale x + offset is rounded once.
  bool rounds_once;

  // out (+= or, without `residual`, =) in * w. in: padded; residual, out: blocked; residual may be
  // out. w: [out_blocks / together][in_blocks][taps][16][16 together], or [..][1][9][3][16
  // together] for images.
  void (*convolve)(const Convolution& shape, const float* in, const float* w, const float* residual,
                   float* out);

  // The same of codes, exactly: out = scale * (in * w) with a scale for each output channel. w:
  // [out_blocks / together][in_blocks][taps][4][16 together][4], the last index being the lowest of
  // the input channel. Null where the instruction set has nothing for it.
  void (*convolve_codes)(const Convolution& shape, const std::uint8_t* in, const std::int8_t* w,
                         const float* scale, const float* residual, float* out);

  // dx (+)= the gradient of the input for the gradient `dy` (padded) of the output; dx is blocked.
  // w as for a convolution from the output's to the input's channels, taps in the order of the
  // forward pass. Where the stride is 2 and taps is 1 only the pixels that were read are touched.
  void (*input_gradients)(const Convolution& shape, const float* dy, const float* w, bool adds,
                          float* dx);

  // dw += the gradient of the weights, [taps][in_blocks][out_blocks][16 in][16 out], or
  // [27][16 out_blocks] for images. in, dy: padded.
  void (*weight_gradients)(const Convolution& shape, const float* in, const float* dy, float* dw);

  // The input of a convolution; x: blocked. Writes the values if `padded` is not null and the codes
  // if `codes` is not.
  void (*activate)(const float* x, int side, int blocks, const NormForward& norm,
                   const Activation& rule, float* padded, std::uint8_t* codes);

  // Adds sum(x - shift) and sum((x - shift)^2): [channels] and [channels]. Writes the least and the
  // largest x of each channel if `lows` and `highs` are not null.
  void (*add_moments)(const float* x, int side, int blocks, const float* shift, double* sums,
                      double* squares, float* lows, float* highs);

  // g = dy where the gradient passes, else 0; adds sum(g) and sum(g (x - mean)). dy may be g.
  void (*pass_gradients)(const float* x, const float* dy, int side, int blocks,
                         const NormForward& norm, const Activation& rule, float* g, double* sums,
                         double* sums_with_x, LearnedSums* learned);

  // The gradient of a normalisation's input, plus `other` if that is not null, into `sum` (blocked)
  // and `padded`, either of which may be null. `other` may be `sum`.
  void (*norm_gradients)(const float* g, const float* x, int side, int blocks,
                         const NormBackward& norm, const float* other, float* sum, float* padded);

  // The means over all pixels of max(z, 0): [channels].
  void (*pool)(const float* x, int side, int blocks, const NormForward& norm, float* means);

  const TileKernels* tiles;  // Null where the machine has no matrix unit.
};

// The tables that this machine can run, the fastest first; the last is portable.
struct KernelList {
  const Kernels* tables[5];
  int count;
};
KernelList usable_kernels();

// The fastest.
const Kernels& kernels();

}  // namespace bitrung::train::fused
