// The private server and worker of `run`: started or joined, watched, started again when they die,
// stopped in order.
//
// If another command already serves the state directory, its server is joined, and its worker if it
// has one. When that server goes away, this one takes over. Main thread only.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/child_process.h"
#include "client/cli/connection.h"
#include "client/cli/private_programs.h"
#include "client/cli/signals.h"
#include "client/cli/state_directory.h"

namespace bitrung::cli {

class PrivateFleet {
 public:
  struct Options {
    StateDirectory directory;
    WorkerOptions worker;
    // Checked before a worker of ours is started: the data sets it will need.
    std::function<absl::Status()> check_worker;
    std::function<void(std::string_view)> note;
  };

  PrivateFleet(Options options, Signals& signals);
  // Kills what stop has not stopped.
  ~PrivateFleet() = default;

  // Server, connection and worker. CANCELLED on a signal. May be called again when the server that
  // was joined has gone.
  absl::Status start();

  const std::shared_ptr<Connection>& connection() const { return connection_; }
  // False when the server is another command's.
  bool owns_server() const { return server_.program.has_value(); }
  bool owns_worker() const { return worker_.program.has_value(); }

  // False while our own worker has not connected yet.
  bool worker_is_ready() const;

  // Notices deaths and restarts. INTERNAL when a program keeps dying.
  absl::Status supervise(bool stream_lost);

  // Worker first, so that it hands its jobs back with their resume state, then the server. A signal
  // beyond those that came before kills both at once; false then.
  bool stop();

 private:
  struct Supervised {
    std::optional<ChildProcess> program;
    RestartPolicy policy;
    std::optional<RestartPolicy::Clock::time_point> restart_at;
  };

  absl::Status start_or_join_server();
  absl::Status start_worker_if_needed();
  absl::Status handle_death(Supervised& supervised, std::string_view name,
                            const std::filesystem::path& log);
  bool stop_program(Supervised& supervised, std::chrono::seconds patience, int interrupts);

  const Options options_;
  Signals& signals_;
  std::shared_ptr<Connection> connection_;
  Supervised server_;
  Supervised worker_;
  std::optional<RestartPolicy::Clock::time_point> lost_since_;
};

}  // namespace bitrung::cli
