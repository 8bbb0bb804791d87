// The coordinator's mind: graphs of jobs, workers and their leases, and who trains what next.
//
// Pure: no clock, no store, no network, no thread, no randomness. The engine feeds events one at a
// time, commits the rows that the effects name, and only then performs the rest (messages).
// Deterministic: equal events at equal times give equal effects. Total: any event in any state has
// an answer; a statement of a stale attempt is fenced and changes nothing. Not thread-safe; the
// engine's thread owns the Core.
//
// An attempt number is the fencing token. It rises by one with each offer, so a worker that slept
// through its lease cannot decide the outcome. Nothing but a lease that runs out, or a new session
// of the same worker that does not hold the attempt, gives an attempt up: a closed connection alone
// decides nothing.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "db/base/digest.h"
#include "db/rows.h"
#include "db/words.h"

namespace bitrung::core {

// When an event happened.
struct Now {
  std::chrono::milliseconds monotonic{};  // Since any origin; never goes back. Decides.
  std::int64_t wall_ms = 0;               // Since 1970; recorded for people only.
};

// How long after its end a lease is waited for. More than 2·r·lease/(1−r) plus 3 s to stop a
// trainer, for clocks whose rates differ by r = 5 %: 10 s for 60 s.
constexpr std::chrono::milliseconds lease_margin_for(std::chrono::milliseconds lease) {
  return (lease + std::chrono::milliseconds(30'000)) / 9;
}

struct Settings {
  std::chrono::milliseconds lease{60'000};
  std::chrono::milliseconds lease_margin = lease_margin_for(lease);
  std::chrono::milliseconds retry_delay_first{1'000};  // Doubles with each retry used.
  std::chrono::milliseconds retry_delay_max{300'000};
  // A job that took this many workers with it is failed: it may be what kills them.
  std::uint32_t losses_max = 20;
  std::int64_t term = 0;
  // What the server holds at most; a submit beyond is refused (by the engine).
  std::int64_t experiments_max = 10'000;
  std::int64_t jobs_max = 1'000'000;
};

struct AttemptKey {
  JobId job{};
  std::uint32_t attempt = 0;
  auto operator<=>(const AttemptKey&) const = default;
};

// ---- Events ----

// A job of a graph to be added. The graph is checked: indices in range, roles as check_graph() in
// server/core/graph.h wants them, no cycle.
struct NewJob {
  // A parent or an artifact from outside. Teachers count in the order given.
  struct Input {
    InputRole role{};
    std::optional<std::uint32_t> parent;  // Position in the same submit.
    std::optional<Digest> artifact;
    // Inputs with the same number above 0 are the candidates of one choice: when all have ended,
    // the one that succeeded with the highest validation accuracy is taken, of equals the earlier.
    std::uint32_t choice = 0;
  };
  Digest spec;  // SHA-256 of the canonical options.
  std::string dataset;
  std::string
      cost_class;  // Jobs of one class take about as long per operation (network, bits, data set).
  double flops = 0;  // 0 is unknown.
  std::uint32_t numerics = 0;
  std::uint32_t retries = 0;
  std::int32_t priority = 0;
  std::uint64_t memory_bytes = 0;
  std::vector<Input> inputs;
};
// The cost class of a job: its network, data set and bits, and whether it is trained. A restart
// derives it again from the stored row.
std::string cost_class(const db::JobSpecRow& spec);

struct Submit {
  std::vector<NewJob> jobs;  // check_graph() in server/core/graph.h accepts them.
};
// Cancels these; whatever depends on them is skipped.
struct CancelJobs {
  std::vector<JobId> jobs;
};
// Makes failed, cancelled and skipped ones of these run again, with such ancestors of theirs and
// skipped descendants.
struct RetryJobs {
  std::vector<JobId> jobs;
};

struct SlotInfo {
  std::string device;  // "cpu", "cuda:0"
  std::string device_name;
  std::uint64_t memory_bytes = 0;
  std::uint32_t threads = 0;  // Of its trainer; in a slot that shares cores, the fewest.
};
struct DatasetInfo {
  std::string name;
  Digest sha256;
};
struct SessionOpened {
  SessionId session{};
  std::string worker_id;
  std::string name;
  std::string version;
  std::uint32_t numerics = 0;
  std::vector<SlotInfo> slots;
  std::vector<DatasetInfo> datasets;
  std::vector<AttemptKey> held;
  std::int64_t term_seen = 0;
  // Cores of the worker's CPU that its slots share, with its memory: each offer is granted some of
  // those that are free. 0: every slot has its own threads.
  std::uint32_t shared_cores = 0;
};
struct SessionClosed {
  SessionId session{};
};
// The worker is about to end: nothing more is offered in this session.
struct WorkerStopping {
  SessionId session{};
};
struct DatasetsChanged {
  SessionId session{};
  std::vector<DatasetInfo> datasets;
};
struct Heartbeat {
  SessionId session{};
  std::uint64_t sequence = 0;
  std::vector<AttemptKey> held;
};
struct AttemptStarted {
  SessionId session{};
  AttemptKey key;
  std::uint32_t resumed_epoch = 0;
};
struct CheckpointStored {
  SessionId session{};
  AttemptKey key;
  std::uint32_t epoch = 0;
  Digest artifact;
};
struct AttemptSucceeded {
  SessionId session{};
  AttemptKey key;
  db::ResultRow result;
  std::string report_json = {};  // What was measured of the network, as JSON; empty for none.
};
struct AttemptFailed {
  SessionId session{};
  AttemptKey key;
  FailureClass failure_class{};
  std::string message;
};
struct AttemptCancelled {
  SessionId session{};
  AttemptKey key;
};
struct SetDraining {
  std::string worker_id;
  bool draining = false;
};
// Time has passed; sent at next_deadline().
struct WakeUp {};

using Event =
    std::variant<Submit, CancelJobs, RetryJobs, SessionOpened, SessionClosed, WorkerStopping,
                 DatasetsChanged, Heartbeat, AttemptStarted, CheckpointStored, AttemptSucceeded,
                 AttemptFailed, AttemptCancelled, SetDraining, WakeUp>;

// ---- Effects ----

// Rows to commit.
struct AddExperiment {
  ExperimentId id{};
  JobId first_job{};  // The jobs of the submit have consecutive numbers from here, in its order.
  std::uint32_t job_count = 0;
};
struct SaveJob {
  JobId job{};  // Core::row(job) after the turn's last event is what to write.
};
struct SaveAttempt {
  db::AttemptRow row;
};
struct SavePin {
  db::PinRow row;
};
struct SaveReport {
  JobId job{};  // It succeeded in this step.
  std::string report_json;
};
struct SaveWorker {
  std::string worker_id;  // Core::worker(worker_id).
};
struct SaveExperimentFinished {
  ExperimentId id{};
  std::int64_t finished_at_ms = 0;  // 0 when a retry opened it again.
};

// Messages, sent after the commit.
struct Welcome {
  std::vector<AttemptKey> kept;
  std::vector<AttemptKey> fenced;
};
struct Offer {
  AttemptKey key;
  std::uint32_t slot = 0;
  std::uint32_t threads = 0;  // The slot's own, or cores granted out of the shared ones.
  std::vector<std::pair<InputRole, Digest>> inputs;
  std::optional<Digest> resume;
  Digest dataset;
};
struct Cancel {
  AttemptKey key;
};
struct Fence {
  AttemptKey key;
};
struct HeartbeatReply {
  std::uint64_t sequence = 0;
};
struct OutcomeReply {
  AttemptKey key;
};
// Ends the session: replaced by a newer one of the same worker, or refused.
struct CloseSession {
  std::string reason;
};
using Message =
    std::variant<Welcome, Offer, Cancel, Fence, HeartbeatReply, OutcomeReply, CloseSession>;
struct Send {
  SessionId session{};
  Message message;
};

using Effect = std::variant<AddExperiment, SaveJob, SaveAttempt, SavePin, SaveReport, SaveWorker,
                            SaveExperimentFinished, Send>;
using Effects = std::vector<Effect>;

// ---- Answers ----

// A worker as the core knows it.
struct WorkerInfo {
  std::string worker_id;
  std::string name;
  std::string version;
  bool connected = false;
  bool draining = false;
  std::uint32_t numerics = 0;
  std::vector<SlotInfo> slots;
  std::uint32_t shared_cores = 0;
  std::uint32_t free_cores = 0;  // Of the shared ones.
  std::vector<DatasetInfo> datasets;
  std::vector<AttemptKey> attempts;  // Live ones it is believed to hold.
  std::int64_t last_seen_ms = 0;
};

// Why a job is where it is; most important first.
struct WaitsForParent {
  JobId parent{};
  JobState state{};
};
struct WaitsForCandidates {  // The best of them will be its teacher.
  std::size_t candidates = 0;
  std::size_t undecided = 0;
  JobId first{};  // Of those that have not ended.
  JobState state{};
};
struct WaitsForEqualJob {  // An equal job of another experiment is at work; its result will be
                           // taken.
  JobId job{};
};
struct WaitsForRetry {
  std::chrono::milliseconds remaining{};
  std::uint32_t retries_used = 0;
  std::uint32_t retries = 0;
};
struct NoWorkerConnected {};
struct WorkerDoesNotFit {
  enum class Reason : std::uint8_t {
    kDraining,
    kStopping,
    kNoDataset,
    kOtherDataset,
    kMemory,
    kNumerics,
    kBusy
  };
  std::string worker;
  Reason reason{};
  std::string dataset;
  std::optional<Digest> wanted;   // kOtherDataset
  std::optional<Digest> present;  // kOtherDataset
  std::uint64_t memory_wanted = 0;
  std::uint64_t memory_present = 0;
};
struct QueuedBehind {  // Slots that fit exist and are busy; so many ready jobs come first.
  std::size_t jobs = 0;
};
// Follows QueuedBehind: who has the cores of a worker that fits.
struct CoresTaken {
  std::string worker;
  std::uint32_t shared_cores = 0;
  std::vector<std::pair<JobId, std::uint32_t>> grants;  // By job, with its cores.
};
// How wide an attempt runs.
struct Width {
  std::uint32_t threads = 0;
  std::uint32_t shared_cores = 0;  // Of its worker; 0: the slot decides, not the scheduler.
};
struct IsOffered {
  std::string worker;
  std::uint32_t attempt = 0;
  Width width;
};
struct IsRunning {
  std::string worker;
  std::uint32_t attempt = 0;
  Width width;
  bool connected = true;  // False: the worker is away, its lease runs.
  std::chrono::milliseconds lease_remaining{};
};
struct IsSkipped {
  JobId because{};  // The failed or cancelled ancestor.
};
struct HasEnded {  // Succeeded, failed or cancelled; row() has the rest.
  std::optional<JobId> cached_from;
};
using Reason = std::variant<WaitsForParent, WaitsForCandidates, WaitsForEqualJob, WaitsForRetry,
                            NoWorkerConnected, WorkerDoesNotFit, QueuedBehind, CoresTaken,
                            IsOffered, IsRunning, IsSkipped, HasEnded>;

class Core {
 public:
  // Starts from what was stored. Live attempts are given a full lease from `now` on, for their
  // workers to come back.
  Core(const Settings& settings, const db::Snapshot& snapshot, Now now);
  ~Core();
  Core(Core&&) noexcept;
  Core& operator=(Core&&) noexcept;

  // Rows that the start itself changed (e.g. a job that became ready by a rule). Performed like any
  // effects.
  Effects started();

  Effects step(const Event& event, Now now);

  // When WakeUp is due at the latest; nothing when only events can change anything.
  std::optional<std::chrono::milliseconds> next_deadline() const;

  // The changeable columns of a job.
  db::JobStateRow row(JobId job) const;
  JobState state(JobId job) const;
  bool contains(JobId job) const;
  ExperimentId experiment_of(JobId job) const;
  // Jobs of an experiment, by number.
  std::vector<JobId> jobs_of(ExperimentId id) const;

  // True if what the session says of this attempt counts: the attempt is live and the session's
  // worker holds it.
  bool speaks_for(SessionId session, AttemptKey key) const;

  // True if an attempt that the worker holds was given this artifact: to learn from, to begin with,
  // or to go on from.
  bool is_given(const std::string& worker_id, const Digest& artifact) const;

  std::optional<WorkerInfo> worker(const std::string& worker_id) const;
  std::vector<WorkerInfo> workers() const;
  std::vector<Reason> explain(JobId job, Now now) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitrung::core
