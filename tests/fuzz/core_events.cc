// Bytes decide what happens in a world around the core: who joins, leaves, lies, repeats itself,
// cancels; when time jumps and the server restarts. The oracle is that of the core's tests: World
// checks after every event, and everything ends once nothing goes wrong any more.
#include <gtest/gtest.h>

#include "tests/fuzz/target.h"
#include "tests/unit/server/core/random_world.h"

namespace {

constexpr int kStepsMax = 400;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  GTEST_FLAG_SET(throw_on_failure, true);  // A failed expectation ends the process.
  std::size_t used = 0;
  const auto below = [&](std::size_t end) {
    std::uint32_t number = 0;
    for (std::size_t range = 1; range < end; range *= 256) {
      number = number * 256 + (used < size ? data[used] : 0);
      ++used;
    }
    return static_cast<std::uint32_t>(number % end);
  };
  bitrung::core::RandomWorld world(below);
  for (int step = 0; step < kStepsMax && used < size; ++step) world.step();
  world.run_to_the_end();
  return 0;
}
