// The server and worker that `run` starts for itself, and the server that other commands start for
// a moment.
//
// Both programs die with this process, whatever ends it. Not thread-safe; main thread only (see
// child_process.h).
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <filesystem>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/child_process.h"
#include "client/cli/signals.h"
#include "client/cli/state_directory.h"

namespace bitrung::cli {

// Starts a server on the directory and returns when it listens. If it cannot start, the error
// carries its last words. CANCELLED when a signal interrupts the wait (`signals` may be null).
absl::StatusOr<ChildProcess> start_private_server(const StateDirectory& directory,
                                                  Signals* signals);

struct WorkerOptions {
  std::filesystem::path data_directory;
  std::optional<std::uint64_t>
      slots;  // One per GPU, or as many as share the cores of the CPU, when not set.
};

// Starts a worker that serves the server on the directory's socket; returns at once.
absl::StatusOr<ChildProcess> start_private_worker(const StateDirectory& directory,
                                                  const WorkerOptions& options);

// When to start a program again after it died: at once at first, then ever later, and never after
// kDeathsMax within kWindow. Pure.
class RestartPolicy {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::size_t kDeathsMax = 5;
  static constexpr std::chrono::seconds kWindow{60};

  // When to restart; nothing to give up.
  std::optional<Clock::time_point> died(Clock::time_point now);

 private:
  std::deque<Clock::time_point> deaths_;  // Within the window, oldest first.
};

}  // namespace bitrung::cli
