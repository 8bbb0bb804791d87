// Small things that every method needs.
#pragma once

#include <cstdint>

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// n = 2^bits - 1.
constexpr double level_count(int bits) {
  return static_cast<double>((std::int64_t{1} << bits) - 1);
}

// A constant (), in double: it does not change the type of what it is multiplied with.
inline at::Tensor scalar_tensor(double value) {
  return at::scalar_tensor(value, at::kDouble);
}

}  // namespace bitrung::train
