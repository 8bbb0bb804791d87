// The loop of every command that watches an experiment: messages in, a live display or plain lines
// out, until the experiment ends, a person interrupts, or the server stays away. Main thread only.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/connection.h"
#include "client/cli/experiment_view.h"
#include "client/cli/live_display.h"
#include "client/cli/signals.h"

namespace bitrung::cli {

struct FollowOptions {
  // Number or name.
  std::string experiment;
  // Draw the live view, or write plain lines where there is no terminal.
  bool progress = true;
  // Called for each change of a job, in addition to the progress.
  std::function<void(const v1::Job&)> on_change;
  // Called at least once a second; `lost` says that the stream is broken. An error ends the loop. A
  // caller that can bring the server back returns OK and has `patience` counted from its last
  // success.
  std::function<absl::Status(bool lost)> on_tick;
  // Whether a job that does not start is worth an explanation yet: a worker may still be coming up.
  // Asked again every second, and not at all after half a minute.
  std::function<bool()> may_explain;
  // How long the server may stay away.
  std::chrono::seconds patience{30};
};

enum class FollowEnd { kTerminal, kInterrupted };

// UNAVAILABLE when the server stays away; the server's own error when it refuses. `view` holds the
// last state.
absl::StatusOr<FollowEnd> follow(const std::shared_ptr<Connection>& connection,
                                 const FollowOptions& options, Signals& signals,
                                 LiveDisplay& display, ExperimentView& view);

}  // namespace bitrung::cli
