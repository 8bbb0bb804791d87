#include "client/cli/private_fleet.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "client/cli/session.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

using Clock = RestartPolicy::Clock;

// The worker has 30 s to write its trainers' resume states and report.
constexpr std::chrono::seconds kWorkerStopPatience{35};
constexpr std::chrono::seconds kServerStopPatience{10};
// How long another command's server may be silent before this one takes over.
constexpr std::chrono::seconds kTakeOverAfter{2};
constexpr std::chrono::milliseconds kStopStep{50};

}  // namespace

PrivateFleet::PrivateFleet(Options options, Signals& signals)
    : options_(std::move(options)), signals_(signals) {}

absl::Status PrivateFleet::start() {
  if (!options_.directory.socket_answers() && options_.check_worker) {
    BITRUNG_RETURN_IF_ERROR(options_.check_worker());
  }
  BITRUNG_RETURN_IF_ERROR(start_or_join_server());
  if (!owns_server()) {
    options_.note(
        fmt::format("joined the server that works on {}", options_.directory.path.string()));
  }
  return start_worker_if_needed();
}

absl::Status PrivateFleet::start_or_join_server() {
  if (!options_.directory.socket_answers()) {
    absl::StatusOr<ChildProcess> server = start_private_server(options_.directory, &signals_);
    if (server.ok()) {
      server_.program = *std::move(server);
    } else if (absl::IsCancelled(server.status()) || !options_.directory.socket_answers()) {
      return server.status();
    }  // Otherwise another command's server was faster.
  }
  // The address stays the same over all restarts, and so does the connection.
  if (connection_ == nullptr) {
    BITRUNG_ASSIGN_OR_RETURN(connection_, connect_to_socket(options_.directory));
  }
  return absl::OkStatus();
}

absl::Status PrivateFleet::start_worker_if_needed() {
  if (owns_worker()) return absl::OkStatus();
  if (!owns_server()) {
    BITRUNG_ASSIGN_OR_RETURN(const std::vector<v1::Worker> workers, connection_->list_workers());
    if (std::ranges::any_of(workers, &v1::Worker::connected)) return absl::OkStatus();
    if (options_.check_worker) BITRUNG_RETURN_IF_ERROR(options_.check_worker());
  }
  BITRUNG_ASSIGN_OR_RETURN(worker_.program,
                           start_private_worker(options_.directory, options_.worker));
  return absl::OkStatus();
}

bool PrivateFleet::worker_is_ready() const {
  if (!owns_worker()) return !worker_.restart_at.has_value();
  const absl::StatusOr<std::vector<v1::Worker>> workers = connection_->list_workers();
  return workers.ok() && std::ranges::any_of(*workers, &v1::Worker::connected);
}

absl::Status PrivateFleet::handle_death(Supervised& supervised, std::string_view name,
                                        const std::filesystem::path& log) {
  const std::string how = supervised.program->ended().value_or("an unknown end");
  // Whatever it had started goes too, before its successor meets it.
  supervised.program->kill();
  supervised.program.reset();
  supervised.restart_at = supervised.policy.died(Clock::now());
  if (!supervised.restart_at) {
    const std::string words = last_line(log);
    return absl::InternalError(
        fmt::format("the {} died {} times within {} s, at last with {}{}{}; see {}", name,
                    RestartPolicy::kDeathsMax, RestartPolicy::kWindow.count(), how,
                    words.empty() ? "" : ": ", words, log.string()));
  }
  options_.note(fmt::format("the {} ended with {}; starting it again", name, how));
  return absl::OkStatus();
}

absl::Status PrivateFleet::supervise(bool stream_lost) {
  const StateDirectory& directory = options_.directory;
  const bool had_server = owns_server() || server_.restart_at.has_value();
  if (server_.program && server_.program->ended()) {
    BITRUNG_RETURN_IF_ERROR(handle_death(server_, "server", directory.server_log()));
  }
  if (!had_server) {
    // A joined server: is it gone?
    if (!stream_lost) {
      lost_since_.reset();
    } else if (!lost_since_) {
      lost_since_ = Clock::now();
    } else if (Clock::now() - *lost_since_ > kTakeOverAfter && !directory.socket_answers()) {
      options_.note("the other command's server is gone; starting one here");
      if (options_.check_worker) BITRUNG_RETURN_IF_ERROR(options_.check_worker());
      server_.restart_at = Clock::now();
      lost_since_.reset();
    }
  }
  if (server_.restart_at && Clock::now() >= *server_.restart_at) {
    server_.restart_at.reset();
    const absl::Status status = start_or_join_server();
    if (absl::IsCancelled(status)) return status;
    if (!status.ok()) {
      server_.restart_at = server_.policy.died(Clock::now());
      if (!server_.restart_at) return status;
    }
  }

  if (worker_.program && worker_.program->ended()) {
    BITRUNG_RETURN_IF_ERROR(handle_death(worker_, "worker", directory.worker_log()));
  }
  if (worker_.restart_at && Clock::now() >= *worker_.restart_at) {
    worker_.restart_at.reset();
    BITRUNG_ASSIGN_OR_RETURN(worker_.program, start_private_worker(directory, options_.worker));
  }
  // After a take-over there may be no worker yet.
  if (!had_server && owns_server() && !worker_.program) return start_worker_if_needed();
  return absl::OkStatus();
}

bool PrivateFleet::stop_program(Supervised& supervised, std::chrono::seconds patience,
                                int interrupts) {
  if (!supervised.program) return true;
  ChildProcess& program = *supervised.program;
  program.terminate();
  const auto end = Clock::now() + patience;
  while (!program.ended() && Clock::now() < end) {
    pollfd waiting{signals_.fd(), POLLIN, 0};
    ::poll(&waiting, 1, static_cast<int>(kStopStep.count()));
    signals_.drain();
    if (signals_.interrupts() > interrupts) return false;
  }
  program.kill();
  program.wait(std::chrono::seconds(5));
  supervised.program.reset();
  return true;
}

bool PrivateFleet::stop() {
  const int interrupts = signals_.interrupts();
  if (stop_program(worker_, kWorkerStopPatience, interrupts) &&
      stop_program(server_, kServerStopPatience, interrupts)) {
    return true;
  }
  for (Supervised* supervised : {&worker_, &server_}) {
    if (supervised->program) supervised->program->kill();
    supervised->program.reset();
  }
  return false;
}

}  // namespace bitrung::cli
