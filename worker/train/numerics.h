// The version of the numbers. No LibTorch: clients write it into specs.
#pragma once

#include <cstdint>

namespace bitrung::train {

// Rises whenever equal specs may give other numbers than before. Part of every job's identity.
inline constexpr std::int64_t kNumerics = 5;

}  // namespace bitrung::train
