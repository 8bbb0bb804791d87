// The loop around the core: events in, one transaction per turn, then replies, offers and
// publications.
//
// The order is the guarantee: what a turn decided is durable before anyone is told. A turn takes
// everything that has arrived since the last one, so commits are grouped under load and immediate
// when idle; there is no timer in that path. Any store error ends the engine (memory is ahead of
// the disk then): it reports once and does nothing more.
//
// Thread-safe: the public functions may be called from any thread; replies and sinks are called on
// the engine's thread, inside run(). Does not know gRPC.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/store.h"
#include "server/core/core.h"
#include "server/engine/publisher.h"

namespace bitrung::engine {

// Time, as the core wants it. Monotonic time counts suspended time too.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual core::Now now() = 0;
};

// The machine's clocks (CLOCK_BOOTTIME and CLOCK_REALTIME).
std::unique_ptr<Clock> make_system_clock();

// An offer with everything a worker needs.
struct FullOffer {
  core::Offer offer;
  // From the store, filled in later than the core's part.
  std::string display_name = {};
  std::string spec_json = {};
  std::string dataset = {};
  double timeout_seconds = 0;
};
struct PointsRecorded {
  core::AttemptKey key;
  std::uint64_t watermark = 0;
};
struct LogsRecorded {
  core::AttemptKey key;
  std::uint64_t watermark = 0;
};
using ToWorker =
    std::variant<core::Welcome, FullOffer, core::Cancel, core::Fence, core::HeartbeatReply,
                 core::OutcomeReply, core::CloseSession, PointsRecorded, LogsRecorded>;

// Where a session's messages go. Called on the engine's thread, in order; must not block.
class SessionSink {
 public:
  virtual ~SessionSink() = default;
  virtual void send(ToWorker message) = 0;
  // Nothing more will be sent for now: what was sent may leave.
  virtual void flush() {}
};

// A checked graph to record. rows[i] and nodes[i] describe the same job, input by input. The engine
// fills in the rows' ids and experiment; until then their parents are positions in the graph.
struct NewExperiment {
  std::string request_id;
  std::string name;
  std::string source_yaml;
  std::string submitted_by;
  Digest request_sha256;
  Digest graph_sha256;
  bool join_active = false;
  std::vector<db::JobSpecRow> rows;
  std::vector<core::NewJob> nodes;
};
struct SubmitAnswer {
  ExperimentId id{};
  bool already_submitted = false;
};

class Engine {
 public:
  template <typename T>
  using Reply = std::function<void(absl::StatusOr<T>)>;

  // `on_failure` is called at most once, from run(), with the error that ended the engine.
  Engine(db::Store& store, core::Settings settings, Clock& clock, Publisher& publisher,
         std::function<void(const absl::Status&)> on_failure);
  ~Engine();

  // Loads the store and performs what the start itself changed. Before run(), from the same thread.
  absl::Status load();
  // Serves until stop() or a failure.
  void run();
  // Ends run() after the turn in progress. Replies still waiting get UNAVAILABLE.
  void stop();

  // Instead of run(), for a caller with a loop and a time of its own: handles what has arrived, in
  // one turn. Nothing wakes the engine then; at wake_up_time() the caller posts WakeUp.
  void run_turn() { turn(); }
  // When the core wants to be woken; nothing when only an input can change anything.
  std::optional<std::chrono::milliseconds> wake_up_time() const { return core_->next_deadline(); }

  void submit(NewExperiment experiment, Reply<SubmitAnswer> reply);
  // Number of jobs changed.
  void cancel(std::vector<JobId> jobs, Reply<std::uint32_t> reply);
  void retry(std::vector<JobId> jobs, Reply<std::uint32_t> reply);
  void drain(std::string worker, bool draining, Reply<core::WorkerInfo> reply);
  void explain(JobId job, Reply<std::vector<core::Reason>> reply);
  void workers(Reply<std::vector<core::WorkerInfo>> reply);
  // As core::Core::is_given().
  void is_given(std::string worker_id, Digest artifact, Reply<bool> reply);

  // Registers a session; its sink is dropped after SessionClosed was posted for it.
  SessionId open_session(std::shared_ptr<SessionSink> sink);
  void post(core::Event event);
  void progress(SessionId session, core::AttemptKey key, Progress progress);
  void points(SessionId session, core::AttemptKey key, std::uint64_t first_sequence,
              std::vector<db::PointRow> points);
  void logs(SessionId session, core::AttemptKey key, std::uint64_t first_line,
            std::vector<db::LogRow> lines);
  // What a session says at once: arrives when the batch is destroyed, in one turn if it fits.
  class Batch;
  // Notes a complete artifact for people who read the database.
  void artifact_stored(Digest sha256, std::uint64_t size_bytes);

 private:
  struct Input {
    std::function<absl::Status(Engine&)> handle;  // In the turn; an error ends the engine.
    std::function<void(const absl::Status&)> abandon =
        nullptr;  // Instead, when the engine has ended.
  };

  // A message to a session, or whatever else is done after a commit.
  struct MessageTo {
    SessionId session{};
    ToWorker message;
  };
  using Utterance = std::variant<MessageTo, std::function<absl::Status()>>;

  Input event_input(core::Event event);
  Input progress_input(SessionId session, core::AttemptKey key, Progress progress);
  Input points_input(SessionId session, core::AttemptKey key, std::uint64_t first_sequence,
                     std::vector<db::PointRow> points);
  Input logs_input(SessionId session, core::AttemptKey key, std::uint64_t first_line,
                   std::vector<db::LogRow> lines);
  void enqueue(Input input);
  void enqueue_all(std::vector<Input> inputs);
  void turn();
  // A turn on io_, and the timer after it: what run() is made of.
  void schedule_turn();
  absl::Status handle_all(std::vector<Input>& inputs);
  void fail(const absl::Status& status);
  // Takes no more inputs; those that wait are told.
  void abandon_inbox();
  void wake_at_deadline();

  // Takes note of the rows and messages that the core names.
  void take(core::Effects effects);
  void note_attempt(db::AttemptRow row);
  // Writes the rows noted so far, parents before what refers to them.
  absl::Status write_rows();
  absl::Status ensure_transaction();
  absl::Status record(NewExperiment experiment, const Reply<SubmitAnswer>& reply);
  // RESOURCE_EXHAUSTED if the server holds too much already.
  absl::Status admit(const NewExperiment& experiment) const;
  Input change_jobs(core::Event event, Reply<std::uint32_t> reply);
  // Rows of an attempt's spool: written if its session speaks for it, else fenced. `recorded` runs
  // after the commit.
  absl::Status append(SessionId session, core::AttemptKey key,
                      const std::function<absl::StatusOr<std::uint64_t>()>& write,
                      std::function<void(std::uint64_t)> recorded);
  void send(SessionId session, ToWorker message);
  void flush_sinks();
  void send_after_commit(SessionId session, ToWorker message);
  // Fills in what offers have from the store, while the turn's transaction is open: outside of one
  // each look-up would take the locks of its own.
  absl::Status complete_offers();
  // Says what the turn has to say, in order.
  absl::Status speak(std::vector<Utterance>& outbox);

  // An input that only asks: answered after the commit of its turn.
  template <typename T>
  void ask(Reply<T> reply, std::function<absl::StatusOr<T>(Engine&)> answer);

  db::Store& store_;
  const core::Settings settings_;
  Clock& clock_;
  Publisher& publisher_;
  const std::function<void(const absl::Status&)> on_failure_;

  boost::asio::io_context io_{1};
  boost::asio::steady_timer timer_{io_};
  std::optional<std::chrono::milliseconds> timer_deadline_;

  std::mutex inbox_mutex_;
  std::vector<Input> inbox_;
  bool turn_scheduled_ = false;
  bool ended_ = false;  // No more inputs are taken.

  // What the running turn has still to write and to say. Engine's thread only.
  struct Turn {
    bool in_transaction = false;
    std::vector<JobId> changed_jobs;  // Not written yet, in order of first change.
    std::vector<JobId> saved_jobs;    // Written; a job that changed again stands here twice.
    std::unordered_set<std::int64_t> changed_set;
    std::vector<db::JobSpecRow> new_jobs;  // Not inserted yet; of one experiment, in order.
    std::vector<db::PinRow> pins;
    std::vector<db::AttemptRow> attempts;  // In order: an old attempt ends before a new one lives.
    std::map<core::AttemptKey, std::size_t> attempt_places;  // In `attempts`.
    std::vector<core::SaveReport> reports;
    std::vector<std::string> workers;
    std::vector<core::SaveExperimentFinished> finished;
    std::unordered_set<std::int64_t> touched_experiments;  // To be published.
    std::vector<Utterance> outbox;                         // After the commit, in order.
    std::vector<std::size_t> offers;                       // Places in it, still without texts.
  };
  Turn turn_;
  std::unique_ptr<core::Core> core_;
  std::int64_t experiments_stored_ = 0;
  std::int64_t jobs_stored_ = 0;

  std::mutex sinks_mutex_;
  std::int64_t next_session_ = 1;
  std::unordered_map<std::int64_t, std::shared_ptr<SessionSink>> sinks_;
  // Engine's thread only: the sinks that this turn spoke to, to be flushed at its end.
  std::unordered_map<std::int64_t, std::shared_ptr<SessionSink>> spoken_to_;
};

// Not thread-safe; does not outlive the engine.
class Engine::Batch {
 public:
  explicit Batch(Engine& engine) : engine_(engine) {}
  ~Batch() { engine_.enqueue_all(std::move(inputs_)); }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  // As the engine's functions of these names.
  void post(core::Event event) { inputs_.push_back(engine_.event_input(std::move(event))); }
  void progress(SessionId session, core::AttemptKey key, Progress progress) {
    inputs_.push_back(engine_.progress_input(session, key, std::move(progress)));
  }
  void points(SessionId session, core::AttemptKey key, std::uint64_t first_sequence,
              std::vector<db::PointRow> points) {
    inputs_.push_back(engine_.points_input(session, key, first_sequence, std::move(points)));
  }
  void logs(SessionId session, core::AttemptKey key, std::uint64_t first_line,
            std::vector<db::LogRow> lines) {
    inputs_.push_back(engine_.logs_input(session, key, first_line, std::move(lines)));
  }

 private:
  Engine& engine_;
  std::vector<Input> inputs_;
};

}  // namespace bitrung::engine
