// The server's process and machine: the real engine, started again and again on one disk.
//
// What main() does: a new term, the engine, load(), then turns. What rpc/worker_service.cc does:
// statements become events and engine calls; a checkpoint or success whose artifact is not here
// ends the session. What rpc/artifact_service.cc does: an artifact is durable, then noted. A turn
// is run when something has arrived, after a delay of the disk; it may end in a crash before the
// commit, after it, or between two messages, and a commit may fail.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "server/engine/engine.h"
#include "server/engine/publisher.h"
#include "tests/sim/disk.h"
#include "tests/sim/loop.h"
#include "tests/sim/network.h"

namespace bitrung::sim {

class Simulation;

class ServerHost final : public engine::Clock {
 public:
  ServerHost(Simulation& sim, HostClock clock);
  ~ServerHost() override;

  void start();
  // kill -9; it comes back by itself unless it is up already.
  void kill(const char* why);
  void pause(Micros how_long);
  void jump_wall_clock(std::int64_t by_ms) { wall_offset_ms_ += by_ms; }
  bool is_up() const { return engine_ != nullptr; }
  bool answers() const;
  std::uint64_t starts() const { return run_; }

  // ---- Network ----
  void receive(Connection& connection, const Statement& statement);
  void closed(Connection& connection);
  void submit(engine::NewExperiment experiment,
              std::function<void(absl::StatusOr<engine::SubmitAnswer>)> reply);
  void cancel(std::vector<JobId> jobs, std::function<void(bool)> reply);
  void retry(std::vector<JobId> jobs);
  void drain(const std::string& worker, bool draining);
  void explain(JobId job);
  // Complete and durable when it returns true.
  bool take_artifact(const Digest& digest);
  bool has_artifact(const Digest& digest) const { return artifacts_.contains(digest); }

  // ---- Disk ----
  CommitFate commit_fate();
  core::Now now() override;

 private:
  class Sink;

  void post(core::Event event);
  void has_input();
  void turn();
  void arm();
  void send(SessionId session, Connection& connection, engine::ToWorker message);
  // False when the process has died in the middle of the turn: nothing leaves it any more.
  bool may_speak();
  void end_stream(Connection& connection, const char* why);

  Simulation& sim_;
  HostClock clock_;
  std::int64_t wall_offset_ms_ = 1'700'000'000'000;

  std::unique_ptr<db::Store> store_;
  std::unique_ptr<engine::Publisher> publisher_;
  std::unique_ptr<engine::Engine> engine_;
  std::uint64_t run_ = 0;
  std::optional<std::chrono::milliseconds> alarm_;
  std::uint64_t alarms_ = 0;
  bool turn_planned_ = false;
  Standstill standstill_;

  struct Heard {
    std::optional<core::Event> event;
    SessionId session{};
    AttemptId attempt;
    bool wants_answer = false;
  };
  std::vector<Heard> inbox_;  // What the next turn will handle, for the checker.

  // Of the turn in progress.
  bool dead_ = false;
  bool failed_ = false;
  bool failure_wanted_ = false;
  std::optional<std::int64_t> messages_left_;

  std::set<Digest> artifacts_;  // On the disk.
};

}  // namespace bitrung::sim
