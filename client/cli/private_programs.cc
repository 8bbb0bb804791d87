#include "client/cli/private_programs.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <string_view>
#include <thread>
#include <vector>

#include "db/base/status.h"

namespace bitrung::cli {
namespace {

using Clock = std::chrono::steady_clock;

// Opening a large database and replaying its log takes a while; a hung server should still be told
// apart.
constexpr std::chrono::seconds kStartPatience{30};
// Another command may be about to leave the directory: it holds the lock until its server is gone.
constexpr std::chrono::seconds kLockPatience{5};
constexpr std::chrono::milliseconds kLockStep{200};
constexpr std::string_view kListening = "listening on ";
constexpr std::string_view kSpeaker = "bitrung-server: ";  // Before its last words.

// Reads the child's standard output up to the line that says it listens.
absl::Status wait_until_listening(ChildProcess& server, const StateDirectory& directory,
                                  Signals* signals) {
  const auto end = Clock::now() + kStartPatience;
  std::string output;
  while (true) {
    std::array<pollfd, 2> waiting{pollfd{server.output(), POLLIN, 0},
                                  pollfd{signals != nullptr ? signals->fd() : -1, POLLIN, 0}};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() <= 0) {
      return absl::InternalError(fmt::format("bitrung-server did not start within {} s; see {}",
                                             kStartPatience.count(),
                                             directory.server_log().string()));
    }
    ::poll(waiting.data(), waiting.size(), static_cast<int>(left.count()));
    if (signals != nullptr && waiting[1].revents != 0) {
      signals->drain();
      if (signals->interrupts() > 0) return absl::CancelledError("interrupted");
    }
    if (waiting[0].revents == 0) continue;
    std::array<char, 512> bytes{};
    const ssize_t got = ::read(server.output(), bytes.data(), bytes.size());
    if (got <= 0) break;  // It closed its output: it is ending.
    output.append(bytes.data(), static_cast<std::size_t>(got));
    const std::size_t at = output.find(kListening);
    if (at != std::string::npos && output.find('\n', at) != std::string::npos) {
      return absl::OkStatus();
    }
  }
  server.wait(std::chrono::seconds(5));
  std::string words = last_line(directory.server_log());
  if (words.starts_with(kSpeaker)) words.erase(0, kSpeaker.size());
  if (words.empty()) {
    words =
        fmt::format("it ended with {} and said nothing", server.ended().value_or("an open end"));
  }
  return absl::InternalError(fmt::format("bitrung-server did not start on {}: {} (log: {})",
                                         directory.path.string(), words,
                                         directory.server_log().string()));
}

bool speaks_of_a_lock(const absl::Status& status) {
  const std::string_view text = message(status);
  return text.find("lock") != std::string_view::npos ||
         text.find("another") != std::string_view::npos ||
         text.find("in use") != std::string_view::npos;
}

}  // namespace

absl::StatusOr<ChildProcess> start_private_server(const StateDirectory& directory,
                                                  Signals* signals) {
  BITRUNG_ASSIGN_OR_RETURN(const std::filesystem::path program, find_program("bitrung-server"));
  BITRUNG_RETURN_IF_ERROR(directory.create());
  const auto end = Clock::now() + kLockPatience;
  while (true) {
    BITRUNG_ASSIGN_OR_RETURN(
        ChildProcess server,
        ChildProcess::start({program.string(), "--state-dir", directory.path.string(), "--listen",
                             "unix:" + directory.socket().string(), "--die-with-parent"},
                            directory.server_log(), /*pipe_output=*/true));
    const absl::Status status = wait_until_listening(server, directory, signals);
    if (status.ok()) return server;
    if (absl::IsCancelled(status) || !speaks_of_a_lock(status) || Clock::now() >= end ||
        directory.socket_answers()) {
      return status;
    }
    std::this_thread::sleep_for(kLockStep);
  }
}

absl::StatusOr<ChildProcess> start_private_worker(const StateDirectory& directory,
                                                  const WorkerOptions& options) {
  BITRUNG_ASSIGN_OR_RETURN(const std::filesystem::path program, find_program("bitrung-worker"));
  std::vector<std::string> arguments{program.string(), "--server",
                                     "unix:" + directory.socket().string(), "--state-dir",
                                     directory.worker_directory().string()};
  if (options.slots) {
    arguments.insert(arguments.end(), {"--slots", fmt::format("{}", *options.slots)});
  }
  arguments.insert(arguments.end(),
                   {"--data-dir", options.data_directory.string(), "--die-with-parent"});
  return ChildProcess::start(arguments, directory.worker_log(), /*pipe_output=*/false);
}

std::optional<RestartPolicy::Clock::time_point> RestartPolicy::died(Clock::time_point now) {
  while (!deaths_.empty() && now - deaths_.front() >= kWindow) deaths_.pop_front();
  deaths_.push_back(now);
  if (deaths_.size() >= kDeathsMax) return std::nullopt;
  // 0, 0.5, 1, 2 s: a single crash costs nothing, a program that cannot run does not spin.
  if (deaths_.size() == 1) return now;
  return now + std::chrono::milliseconds(250) * (1 << (deaths_.size() - 1));
}

}  // namespace bitrung::cli
