// The time of day, for people and for what expires. Whatever measures how long something takes uses
// a steady clock instead.
#pragma once

#include <chrono>
#include <cstdint>

namespace bitrung {

// Milliseconds since 1970.
inline std::int64_t wall_clock_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace bitrung
