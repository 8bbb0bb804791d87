// A small world around one Core for tests: a drawn graph, named workers, messages as lines of text.
//
// After every step it checks what must always hold: the stored rows are the core's rows; a core
// rebuilt from them says the same of every job and offers nothing anew when the same workers come
// back; no ready job fits a free slot; no slot holds two attempts; an offer has its parents'
// artifacts; an experiment is finished exactly when its jobs are.
//
//   World world("teacher\n"                       name, then options: flops= retries= priority=
//   memory=
//               "student flops=5 <- teacher\n");  dataset= class= numerics= spec= artifact=; inputs
//               "t", "init t", "source t" or "best t u", a choice
//   world.join("w1");
//   world.expect("w1: welcome");
//   world.expect("w1: offer teacher#1");          messages come in order
//   world.expect_nothing_else();
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/core/core.h"
#include "tests/unit/server/core/stored.h"

namespace bitrung::core {

using std::chrono::milliseconds;

// What a worker has.
struct Machine {
  std::vector<std::uint64_t> slots = {16};  // Memory of each.
  std::vector<std::pair<std::string, std::string>> datasets = {{"data", "copy A"}};
  std::uint32_t numerics = 1;
  bool shares_cores = false;  // One core for each slot, granted with the offers.
};

// Digest of a data set's copy by its name in a test.
Digest copy_digest(std::string_view copy);
Digest artifact_of(JobId job, std::uint32_t attempt);

class World {
 public:
  explicit World(std::string_view graph = "", const Settings& settings = {});

  // ---- Events ----
  World& submit(std::string_view graph);
  // Opens a session; the worker says that it holds `held` ("job#attempt job#attempt").
  World& join(const std::string& worker, const Machine& machine = {}, std::string_view held = "",
              std::int64_t term_seen = 0);
  World& leave(const std::string& worker);
  World& drain(const std::string& worker, bool draining);
  World& stopping(const std::string& worker);  // It says that it is about to end.
  World& change_datasets(const std::string& worker,
                         const std::vector<std::pair<std::string, std::string>>& datasets);
  World& heartbeat(const std::string& worker, std::string_view held, std::uint64_t sequence = 1);
  // Statements of a worker about an attempt, "job#attempt".
  World& start(const std::string& worker, std::string_view attempt, std::uint32_t resumed = 0);
  World& checkpoint(const std::string& worker, std::string_view attempt, std::uint32_t epoch,
                    std::string_view artifact = "");
  // Took as many picoseconds as it has operations, unless said otherwise.
  World& succeed(const std::string& worker, std::string_view attempt,
                 std::optional<double> seconds = std::nullopt);
  World& succeed_with(const std::string& worker, std::string_view attempt,
                      std::optional<double> validation_accuracy);
  World& fail(const std::string& worker, std::string_view attempt, FailureClass failure,
              const std::string& text = "it broke");
  World& stopped(const std::string& worker, std::string_view attempt);
  World& cancel(std::string_view jobs);  // "a b 2/c"
  World& retry(std::string_view jobs);
  // Time passes; the core is woken exactly when it asked to be.
  World& advance(milliseconds duration);
  // Time passes unnoticed.
  World& sleep(milliseconds duration);
  // A new core from the stored rows. Every session is gone.
  World& restart();
  // Any event, under the checks.
  Effects step(const Event& event);

  // ---- Expectations ----
  // The next message: "w1: offer a#1", "w1: welcome kept a#1 fenced b#1", "w1: fence a#1", "w1:
  // cancel a#1", "w1: recorded a#1", "w1: alive 7", "w1: closed".
  void expect(const std::string& message);
  void expect_nothing_else();
  void forget_messages() {
    messages_.clear();
    sent_.clear();
  }
  // "a succeeded, b ready": of these jobs.
  void expect_states(std::string_view states);
  // Reasons in one line, separated by "; ".
  std::string explain(std::string_view job) const;

  // ---- Facts ----
  JobId job(std::string_view name) const;  // "a" of experiment 1, "2/a" of experiment 2.
  std::string name(JobId job) const;
  AttemptKey key(std::string_view attempt) const;
  db::JobStateRow row(std::string_view name) const { return core_->row(job(name)); }
  // Those that were saved, by job, with commas between.
  std::string reports() const;
  const db::AttemptRow& attempt(std::string_view name) const { return stored_.attempt(key(name)); }
  JobState state(std::string_view name) const { return row(name).state; }
  SessionId session(const std::string& worker) const { return sessions_.at(worker); }
  static std::string worker_id(const std::string& worker) { return "id of " + worker; }
  const Core& core() const { return *core_; }
  const Stored& stored() const { return stored_; }
  Now now() const { return now_; }
  const std::optional<Offer>& last_offer() const { return last_offer_; }
  // Sent since messages were last forgotten, with the sessions they went to.
  const std::vector<Send>& sent() const { return sent_; }
  bool is_connected(const std::string& worker) const { return open_.contains(worker); }
  // Measured durations follow the operations exactly, so a restart must find the same order of
  // jobs.
  void set_durations_vary() { durations_vary_ = true; }

 private:
  std::vector<AttemptKey> keys(std::string_view attempts) const;
  std::vector<JobId> jobs(std::string_view names) const;
  std::string text(const Send& sent) const;
  std::string text(AttemptKey key) const;
  static std::string text(const Width& width);
  std::string text(const Reason& reason) const;
  void check() const;
  // Choices are made when they can be, and nobody waits for what has ended without success.
  void check_inputs(const db::Snapshot::Job& job) const;
  void check_experiments() const;
  void check_slots() const;
  // What the attempts in a worker's slots take of it: cores and memory if its slots share them.
  struct Taken {
    std::vector<bool> slots;
    std::uint32_t cores = 0;
    std::uint64_t memory_bytes = 0;
  };
  Taken taken_of(const WorkerInfo& worker) const;
  // What is offered may start: a new attempt number, parents that have succeeded, their artifacts.
  void check_offer(const Offer& offer) const;
  void check_no_job_fits_a_free_slot() const;
  void check_rebuilt() const;

  Settings settings_;
  Now now_{milliseconds{1'000'000}, 1'700'000'000'000};
  std::optional<Core> core_;
  Stored stored_;
  std::vector<std::map<std::string, JobId, std::less<>>> names_;  // By experiment.
  std::map<JobId, std::string> job_names_;
  std::map<std::string, Machine> machines_;
  std::map<std::string, SessionId> sessions_;  // Latest of each worker.
  std::map<SessionId, std::string> session_names_;
  std::set<std::string> open_;
  std::set<std::string> stopping_;
  std::int64_t next_session_ = 1;
  std::deque<std::string> messages_;
  std::vector<Send> sent_;
  std::optional<Offer> last_offer_;
  bool durations_vary_ = false;
};

}  // namespace bitrung::core
