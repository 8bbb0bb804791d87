// What the simulator promises of itself: a seed is a run, and its store is the real one's equal.
#include <filesystem>
#include <optional>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/sim/simulation.h"

namespace bitrung::sim {
namespace {

Outcome run(std::uint64_t seed, std::optional<std::filesystem::path> sqlite = std::nullopt) {
  Options options;
  options.seed = seed;
  options.sqlite_directory = std::move(sqlite);
  return Simulation(options).run();
}

// Removed at the end, with what is in it.
class Directory {
 public:
  Directory() : path_(std::filesystem::temp_directory_path() / fmt::format("sim-{}", ::getpid())) {
    std::filesystem::create_directories(path_);
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

TEST(Simulation, SameSeed_GivesTheSameTrace) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Outcome first = run(seed);
    const Outcome second = run(seed);
    EXPECT_EQ(first.trace_hash, second.trace_hash) << "seed " << seed;
    EXPECT_EQ(first.steps, second.steps) << "seed " << seed;
  }
}

TEST(Simulation, OtherSeed_GivesAnotherTrace) {
  EXPECT_NE(run(1).trace_hash, run(2).trace_hash);
}

TEST(Simulation, ModelOfTheStore_AgreesWithSqlite) {
  const Directory directory;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    const Outcome model = run(seed);
    const Outcome real = run(seed, directory.path() / std::to_string(seed));
    EXPECT_EQ(real.broken, std::nullopt) << "seed " << seed;
    EXPECT_EQ(real.trace_hash, model.trace_hash) << "seed " << seed;
  }
}

TEST(Simulation, Seeds_MeetWhatTheyAreFor) {
  // A simulation in which nothing happens proves nothing.
  Outcome sum;
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    const Outcome outcome = run(seed);
    sum.succeeded += outcome.succeeded;
    sum.server_starts += outcome.server_starts;
    sum.worker_starts += outcome.worker_starts;
    sum.attempts += outcome.attempts;
    sum.jobs += outcome.jobs;
  }
  EXPECT_GT(sum.succeeded, 100U);
  EXPECT_GT(sum.server_starts, 50U);
  EXPECT_GT(sum.worker_starts, 100U);
  EXPECT_GT(sum.attempts, sum.succeeded);
}

}  // namespace
}  // namespace bitrung::sim
