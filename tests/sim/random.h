// The one source of chance in a simulation: the same seed gives the same numbers everywhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitrung::sim {

// SplitMix64: spreads bits, also as a hash.
constexpr std::uint64_t mix(std::uint64_t value) {
  value += 0x9e37'79b9'7f4a'7c15;
  value = (value ^ (value >> 30)) * 0xbf58'476d'1ce4'e5b9;
  value = (value ^ (value >> 27)) * 0x94d0'49bb'1331'11eb;
  return value ^ (value >> 31);
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(mix(seed)) {}

  std::uint64_t next() {
    state_ += 0x9e37'79b9'7f4a'7c15;
    return mix(state_);
  }
  // 0 .. end-1; `end` is above 0.
  std::size_t below(std::size_t end) { return static_cast<std::size_t>(next() % end); }
  // Both ends included.
  std::int64_t between(std::int64_t first, std::int64_t last) {
    return first + static_cast<std::int64_t>(below(static_cast<std::size_t>(last - first + 1)));
  }
  bool one_in(std::size_t n) { return below(n) == 0; }
  // True so often out of a thousand.
  bool permille(std::int64_t n) { return n > 0 && between(0, 999) < n; }

 private:
  std::uint64_t state_;
};

}  // namespace bitrung::sim
