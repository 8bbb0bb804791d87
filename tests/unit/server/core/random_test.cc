#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "tests/unit/server/core/random_world.h"

namespace bitrung::core {
namespace {

constexpr std::uint64_t kSeeds = 40;
constexpr int kStepsPerSeed = 300;

// xorshift64*: the same sequence everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e37'79b9'7f4a'7c15 + 1) {}

  std::uint32_t below(std::size_t end) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<std::uint32_t>(((state_ * 0x2545'f491'4f6c'dd1d) >> 32) % end);
  }

 private:
  std::uint64_t state_;
};

TEST(Random, Worlds_KeepTheirInvariantsAndEnd) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    Random random(seed);
    RandomWorld world([&random](std::size_t end) { return random.below(end); });
    for (int step = 0; step < kStepsPerSeed; ++step) {
      SCOPED_TRACE(fmt::format("seed {}, step {}", seed, step));
      world.step();
      if (HasFailure()) return;
    }
    SCOPED_TRACE(fmt::format("seed {}, benign end", seed));
    world.run_to_the_end();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace bitrung::core
