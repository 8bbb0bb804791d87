// A trainer process of one slot: spawned, spoken to by lines, watched until it is gone.
//
// Knows nothing of attempts. Lives on one io_context thread, which must be the thread that
// constructs it: the kernel kills the child when the spawning thread ends, so that no trainer
// outlives its worker, however that dies.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "absl/status/statusor.h"
#include "worker/agent/types.h"

namespace bitrung::agent {

struct TrainerLaunch {
  std::filesystem::path program;
  std::vector<std::string> arguments;  // Without the program's name and without --events-fd.
  std::vector<int> cores;              // Bound to these before it runs; empty binds it to none.
};

// Counts of processes that the kernel killed for memory, in this host and in this process's control
// group.
struct OomCounts {
  std::uint64_t host = 0;
  std::uint64_t group = 0;
};
// `root` is "/" but in tests. A source that is not there counts 0.
OomCounts read_oom_counts(const std::filesystem::path& root);

class TrainerProcess {
 public:
  struct Handlers {
    // A line of the events pipe, without its end.
    std::function<void(std::string_view)> event;
    // A line of standard error, without its end.
    std::function<void(std::string_view)> line;
    // Once, after every event and line: "was killed by SIGKILL; its last line was: ...".
    std::function<void(std::string description, bool out_of_memory)> exit;
  };

  // Errors of the spawn itself: a missing program, no processes left.
  static absl::StatusOr<std::unique_ptr<TrainerProcess>> spawn(
      boost::asio::io_context& io, const TrainerLaunch& launch, Handlers handlers,
      const std::filesystem::path& root = "/");
  // Kills what still runs; no handler is called any more.
  ~TrainerProcess();
  TrainerProcess(const TrainerProcess&) = delete;
  TrainerProcess& operator=(const TrainerProcess&) = delete;

  // Queues bytes for its standard input. What a dead process does not read is dropped.
  void write(std::string bytes);
  // Binds all its threads, and those they start, to these cores. For one that is idle: what starts
  // a thread meanwhile may start it unbound.
  absl::Status bind(const std::vector<int>& cores);
  // SIGKILL to its process group; exit is reported as usual.
  void kill();
  int pid() const;

 private:
  class Impl;
  explicit TrainerProcess(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

// Runs the trainer to its end and returns its standard output; for --inventory. Blocks.
// DEADLINE_EXCEEDED after `timeout`; UNAVAILABLE with its last line if it fails.
absl::StatusOr<std::string> run_trainer(const TrainerLaunch& launch, milliseconds timeout);

// The program to run: `wanted` if given, else `name` beside this executable, else the first in
// PATH. NOT_FOUND says where it was looked for.
absl::StatusOr<std::filesystem::path> find_program(const std::string& wanted,
                                                   std::string_view name);

}  // namespace bitrung::agent
