// The simplest rule for activations, as data: what the fused kernels know. No LibTorch.
#pragma once

namespace bitrung::train {

// clamp(x, 0, 1) on a uniform grid, gradient 1 on 0 <= x <= 1 and 0 elsewhere.
struct UnitGrid {
  enum class Rounding {
    kNone,     // No clamp and no rounding; gradient 1 everywhere.
    kLinear,   // The same, and no ReLU before it either.
    kNearest,  // rint(levels * x) / levels, ties to even.
    kSign,     // 1 for every x > 0.
  };
  Rounding rounding = Rounding::kNone;
  float levels = 0.0F;  // 2^k - 1, at most 65535; only for kNearest.
};

}  // namespace bitrung::train
