// bitrung-sim: runs simulations and says which promise broke, if any.
//
//   bitrung-sim --seeds 1000 [--first 1] [--jobs 2]   many seeds; stops at the first that fails
//   bitrung-sim --seed 17 [--trace]                   one seed, with everything that happens
//   bitrung-sim --seed 17 --sqlite DIR                beside a real SQLite store in DIR (empty)
//
// Exit codes: 0 all promises held, 1 one broke, 2 usage, 3 the program stopped itself (a failed
// check).
#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "tests/sim/simulation.h"

namespace bitrung::sim {
namespace {

struct Arguments {
  std::uint64_t first = 1;
  std::uint64_t seeds = 1;
  std::size_t jobs = 1;
  bool trace = false;
  std::optional<std::string> sqlite;
};

std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<Arguments> parse(const std::vector<std::string_view>& words) {
  Arguments arguments;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--trace") {
      arguments.trace = true;
      continue;
    }
    if (i + 1 == words.size()) return std::nullopt;
    const std::string_view value = words[i + 1];
    if (words[i] == "--sqlite") {
      arguments.sqlite = std::string(value);
      ++i;
      continue;
    }
    const auto number = parse_number(value);
    if (!number) return std::nullopt;
    if (words[i] == "--seed" || words[i] == "--first") {
      arguments.first = *number;
    } else if (words[i] == "--seeds") {
      arguments.seeds = *number;
    } else if (words[i] == "--jobs") {
      arguments.jobs = std::max<std::size_t>(1, static_cast<std::size_t>(*number));
    } else {
      return std::nullopt;
    }
    ++i;
  }
  return arguments;
}

// A check of the program failed: say which seed led there. Only calls that a signal may make.
extern "C" void on_abort(int) {
  char text[128];
  const int length =
      std::snprintf(text, sizeof text,
                    "sim: a check of the program failed at step %llu; reproduce: bitrung-sim "
                    "--seed %llu --trace\n",
                    static_cast<unsigned long long>(current_step()),
                    static_cast<unsigned long long>(current_seed()));
  if (length > 0 && ::write(STDOUT_FILENO, text, static_cast<std::size_t>(length)) < 0) ::_exit(3);
  ::_exit(3);
}

struct Totals {
  std::uint64_t seeds = 0;
  Outcome sum;
  std::uint64_t hash = 0;
  std::optional<std::uint64_t> failed_seed;
  Outcome failed;
};

void add(Totals& totals, std::uint64_t seed, const Outcome& outcome) {
  ++totals.seeds;
  totals.sum.steps += outcome.steps;
  totals.sum.virtual_seconds += outcome.virtual_seconds;
  totals.sum.jobs += outcome.jobs;
  totals.sum.succeeded += outcome.succeeded;
  totals.sum.attempts += outcome.attempts;
  totals.sum.server_starts += outcome.server_starts;
  totals.sum.worker_starts += outcome.worker_starts;
  totals.sum.overlap_seconds += outcome.overlap_seconds;
  // Order does not matter: seeds end in any order.
  totals.hash ^= mix(outcome.trace_hash ^ seed);
  if (outcome.broken && (!totals.failed_seed || seed < *totals.failed_seed)) {
    totals.failed_seed = seed;
    totals.failed = outcome;
  }
}

Totals run_all(const Arguments& arguments) {
  Totals totals;
  std::mutex mutex;
  std::atomic<std::uint64_t> next{arguments.first};
  std::atomic<bool> stop{false};
  const std::uint64_t end = arguments.first + arguments.seeds;
  const auto work = [&] {
    for (std::uint64_t seed = next++; seed < end && !stop; seed = next++) {
      Options options;
      options.seed = seed;
      options.print_trace = arguments.trace;
      if (arguments.sqlite) {
        options.sqlite_directory = arguments.seeds == 1
                                       ? *arguments.sqlite
                                       : fmt::format("{}/{}", *arguments.sqlite, seed);
      }
      const Outcome outcome = Simulation(options).run();
      if (outcome.broken) stop = true;
      const std::lock_guard lock(mutex);
      add(totals, seed, outcome);
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < arguments.jobs; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return totals;
}

int main_with(const std::vector<std::string_view>& words) {
  const auto arguments = parse(words);
  if (!arguments) {
    fmt::print(stderr,
               "usage: bitrung-sim [--seeds N] [--first N] [--jobs N] | --seed N [--trace] "
               "[--sqlite DIR]\n");
    return 2;
  }
  std::signal(SIGABRT, on_abort);
  const auto begin = std::chrono::steady_clock::now();
  const Totals totals = run_all(*arguments);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const Outcome& sum = totals.sum;
  fmt::print(
      "sim: seeds {}..{}, {} run in {:.1f} s ({:.1f} per s): {} steps, {:.1f} h of virtual time, "
      "{} of {} jobs succeeded in {} attempts, {} server starts, {} worker starts, "
      "{:.0f} s of training beside a newer attempt, trace {:016x}\n",
      arguments->first, arguments->first + arguments->seeds - 1, totals.seeds, seconds,
      static_cast<double>(totals.seeds) / seconds, sum.steps, sum.virtual_seconds / 3'600,
      sum.succeeded, sum.jobs, sum.attempts, sum.server_starts, sum.worker_starts,
      sum.overlap_seconds, totals.hash);
  if (!totals.failed_seed) return 0;
  fmt::print("sim: invariant {} at step {}, {:.3f} s; reproduce: bitrung-sim --seed {} --trace\n",
             *totals.failed.broken, totals.failed.steps, totals.failed.virtual_seconds,
             *totals.failed_seed);
  return 1;
}

}  // namespace
}  // namespace bitrung::sim

int main(int argc, char** argv) {
  return bitrung::sim::main_with({argv + 1, argv + argc});
}
