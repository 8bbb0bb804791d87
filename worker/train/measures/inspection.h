// What became of one tensor by its quantization.
//
// Pure functions, on the host; they read both tensors a few times.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "worker/train/quant/quantizer.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

struct TensorStatistics {
  static constexpr std::size_t kHistogramBins = 16;

  int bits = 32;
  std::string method;
  // Different values of the quantized tensor; with a grid for each channel the most in one channel.
  // Never more than 2^bits if the tensor really was quantized. Values closer than a tenth of a step
  // are one, since the same level may come from differently rounded operations.
  std::optional<std::int64_t> levels;
  double min = 0.0;  // Of the quantized tensor.
  double max = 0.0;
  std::optional<double> scale;      // Of the only grid, or else
  std::optional<double> scale_min;  // the extremes over the channels.
  std::optional<double> scale_max;
  std::optional<double> zero_point;  // If all channels have the same.
  // 10 log10(sum real^2 / sum (real - quantized)^2); nothing where one of the sums is 0.
  std::optional<double> sqnr_db;
  // Share of the values that lay beyond the first or the last level and are on it now.
  double saturated = 0.0;
  std::optional<double> entropy;  // Of the levels' frequencies over the whole tensor, in bits.
  // The real values before the quantization, in equal bins; the last one holds its upper end.
  double histogram_from = 0.0;
  double histogram_to = 0.0;
  std::array<std::int64_t, kHistogramBins> histogram{};

  std::int64_t scales = 0;  // How many the grid has: what a packed file stores.
};

// real and quantized have the same shape, and at least one value; grid as quantized has it, nothing
// at 32 bits.
TensorStatistics inspect_tensor(const at::Tensor& real, const at::Tensor& quantized,
                                const std::optional<Grid>& grid, int bits, std::string_view method);

}  // namespace bitrung::train
