// How many crash points are tried: BITRUNG_CRASH_POINTS, or 500.
#pragma once

#include <cstddef>

namespace bitrung::disk {

std::size_t points_wanted();

}  // namespace bitrung::disk
