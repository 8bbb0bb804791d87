// One world from one seed: a server process, workers with their trainers, a network between them,
// and people, in virtual time. First a phase with faults, then one without, in which everything has
// to end.
//
// Real: server/engine with server/core below it, and worker/agent's core. Modelled: what is around
// them (main() and rpc/ of the server, agent.cc and the spool of the worker, the trainer, gRPC,
// both disks), each in the file named after it, with what it does and does not do said at its head.
//
// Everything that happens adds to the trace; its hash tells whether two runs were the same.
// Not thread-safe; simulations are independent of each other, any number may run in parallel.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/sim/checker.h"
#include "tests/sim/client.h"
#include "tests/sim/disk.h"
#include "tests/sim/faults.h"
#include "tests/sim/loop.h"
#include "tests/sim/network.h"
#include "tests/sim/random.h"
#include "tests/sim/server_host.h"
#include "tests/sim/worker_host.h"

namespace bitrung::sim {

struct Options {
  std::uint64_t seed = 1;
  bool print_trace = false;
  // Keeps a real SQLite store here beside the model and compares the two. Must be empty.
  std::optional<std::filesystem::path> sqlite_directory;
};

struct Outcome {
  std::optional<std::string> broken;  // "I3: job 4 has two winners"
  std::uint64_t trace_hash = 0;
  std::uint64_t steps = 0;
  double virtual_seconds = 0;
  std::uint64_t jobs = 0;
  std::uint64_t succeeded = 0;
  std::uint64_t attempts = 0;
  std::uint64_t server_starts = 0;
  std::uint64_t worker_starts = 0;
  double overlap_seconds = 0;  // Two attempts of one job trained at once.
};

class Simulation {
 public:
  explicit Simulation(const Options& options);
  ~Simulation();

  Outcome run();

  // ---- For the processes in it ----
  Loop& loop() { return loop_; }
  Random& random() { return random_; }
  // All zero once the faults are over.
  const Faults& faults() const { return faults_; }
  bool calm() const { return calm_; }
  Checker& checker() { return checker_; }
  Disk& disk() { return disk_; }
  Network& network() { return network_; }
  ServerHost& server() { return *server_; }
  WorkerHost& worker(std::size_t index) { return *workers_[index]; }
  std::size_t worker_count() const { return workers_.size(); }

  // A line of the trace.
  void note(std::string_view what, std::int64_t a = 0, std::int64_t b = 0, std::int64_t c = 0);
  bool prints() const { return options_.print_trace; }
  void print(const std::string& line) const;
  void broken(std::string_view invariant, const std::string& what) {
    checker_.fail(invariant, what);
  }

  // Parts of the core's settings that a seed draws.
  core::Settings settings;
  std::chrono::milliseconds heartbeat_interval{2'000};
  std::chrono::milliseconds silence_timeout{60'000};

 private:
  void every(std::int64_t Faults::*seconds, std::function<void()> what);
  void plan_faults();
  void end_faults();
  bool has_ended();
  void step();
  void explain_stuck();

  const Options options_;
  Loop loop_;
  Random random_;
  Faults faults_;
  bool calm_ = false;
  std::uint64_t hash_ = 0xcbf2'9ce4'8422'2325;
  std::uint64_t steps_ = 0;
  Disk disk_;
  Checker checker_;
  Network network_;
  std::unique_ptr<ServerHost> server_;
  std::vector<std::unique_ptr<WorkerHost>> workers_;
  std::unique_ptr<Client> client_;
};

// For a message when the process aborts: the seed and step of the simulation on this thread.
std::uint64_t current_seed();
std::uint64_t current_step();

}  // namespace bitrung::sim
