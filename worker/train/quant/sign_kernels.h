// The loops of sign_levels.h's fast path, over dense floats.
//
// Plain memory; no LibTorch, no threads: the caller gives each thread its own part. NaN stays NaN
// in what is written forward.
#pragma once

#include <cstdint>

namespace bitrung::train {

// y = 1 for x >= 0, else -1.
void write_signs(const float* x, std::int64_t count, float* y);

// y = 2 rint(levels (clip(x, -1, 1) + 1) / 2) / levels - 1, ties to even; levels at most 65535.
void write_sign_levels(const float* x, std::int64_t count, float levels, float* y);

// dx = g where |x| <= 1, else 0.
void write_clip_gradients(const float* x, const float* g, std::int64_t count, float* dx);

// dx = g max(0, 2 - 2 |x|).
void write_triangle_gradients(const float* x, const float* g, std::int64_t count, float* dx);

}  // namespace bitrung::train
