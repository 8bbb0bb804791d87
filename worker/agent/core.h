// What a worker decides: its session, its slots, its attempts.
//
// Pure: no clock, file, process or network. An event goes in with the time, actions come out; the
// adapter (agent.h) performs them in order and hands their results back as events. Not thread-safe;
// one thread owns it.
//
// An attempt, from offer to acknowledgement:
//
//   offer ─> persisting ─> fetching ─> ready ─> training ─> storing ─> ended ─> deleted
//                │            │          │         │           │         ▲   (acknowledged)
//                └────────────┴──────────┴─────────┴───────────┴─────────┘
//                                  failed, cancelled, preempted
//
// * Only a Fence (or a Welcome that fences) takes an attempt away. Losing the server stops nothing:
//   points, lines and outcomes go to the spool first and are said again after the next Welcome,
//   from the acknowledged watermark on.
// * An outcome is durable before it is said, and said only after every point and line is
//   acknowledged and its artifact (or newest resume state) is uploaded.
// * A resume state is said after the points before it: a training that goes on from it elsewhere
// does
//   not measure them again, and they must not be lost with this worker.
// * A server with a lower term than one seen before is a restored backup: it is not listened to.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "worker/agent/types.h"

namespace bitrung::agent {

// ---- Events ----

// How far a stream of points or lines got.
struct StreamPosition {
  std::uint64_t written = 0;
  std::uint64_t acknowledged = 0;
};

struct CheckpointFile {
  std::uint32_t epoch = 0;
  std::string path;
};

// An attempt that an earlier process of this worker left in the spool.
struct RecoveredAttempt {
  Offer offer;
  std::optional<Outcome> outcome;
  StreamPosition points;
  StreamPosition lines;
  std::optional<CheckpointFile> resume;  // Newest complete resume state in its work directory.
};

// First event, once.
struct Begin {
  std::vector<RecoveredAttempt> recovered;
  std::int64_t term_seen = 0;
};

// From the server. Events of a session that is over are ignored.
struct WelcomeReceived {
  SessionId session{};
  std::int64_t term = 0;
  milliseconds lease{};
  milliseconds heartbeat_interval{};
  std::vector<AttemptKey> fenced;
};
struct SessionClosed {
  SessionId session{};
  std::string reason;
};
struct HeartbeatReplied {
  SessionId session{};
  std::uint64_t sequence = 0;
};
struct OfferReceived {
  SessionId session{};
  Offer offer;
};
struct CancelReceived {
  SessionId session{};
  AttemptKey key;
};
struct FenceReceived {
  SessionId session{};
  AttemptKey key;
};
struct PointsAcknowledged {
  SessionId session{};
  AttemptKey key;
  std::uint64_t watermark = 0;
};
struct LinesAcknowledged {
  SessionId session{};
  AttemptKey key;
  std::uint64_t watermark = 0;
};
struct OutcomeAcknowledged {
  SessionId session{};
  AttemptKey key;
};

// Results of actions.
struct OfferPersisted {
  AttemptKey key;
};
struct OutcomePersisted {
  AttemptKey key;
};
struct OutcomeNotPersisted {
  AttemptKey key;
  std::string message;
};
// The spool refused a write (a full disk); what it has is told, the rest is gone.
struct SpoolFailed {
  AttemptKey key;
  std::string message;
  std::uint64_t points = 0;
  std::uint64_t lines = 0;
};
struct InputsFetched {
  AttemptKey key;
  std::map<Digest, std::string> paths;
};
enum class FetchProblem : std::uint8_t {
  kMissing,    // The server does not have it.
  kTransient,  // Worth another try.
  kLocal,      // This host cannot keep it.
};
struct FetchFailed {
  AttemptKey key;
  Digest artifact;
  FetchProblem problem{};
  std::string message;
};
enum class FilePurpose : std::uint8_t { kModel, kResume };
struct FileStored {
  AttemptKey key;
  FilePurpose purpose{};
  std::uint32_t epoch = 0;
  Digest artifact;
};
struct StoreFailed {
  AttemptKey key;
  FilePurpose purpose{};
  std::uint32_t epoch = 0;
  std::string message;
};
struct Uploaded {
  AttemptKey key;
  Digest artifact;
};
struct UploadFailed {
  AttemptKey key;
  Digest artifact;
  bool permanent = false;
  std::string message;
};

// From a trainer.
struct TrainerReady {
  std::uint32_t slot = 0;
};
struct TrainerExited {
  std::uint32_t slot = 0;
  std::string description;  // "was killed by SIGKILL", "could not be started: ..."
  bool out_of_memory = false;
};
struct TrainerLine {
  std::uint32_t slot = 0;
  LogLine line;
};
struct TrainingStarted {
  std::uint32_t resumed_epoch = 0;
};
struct PointsMeasured {
  std::vector<Point> points;
};
struct ProgressMade {
  Progress progress;
};
struct CheckpointWritten {
  CheckpointFile file;
};
struct TrainingSucceeded {
  Result result;
  std::string path;
  std::string report_json = {};           // Empty for none.
  std::size_t report_bytes_left_out = 0;  // Size of a report above kReportBytesMax.
};
struct TrainingFailed {
  FailureClass failure_class{};
  std::string message;
};
struct TrainingCancelled {};
struct TrainingPreempted {
  std::optional<CheckpointFile> file;  // Nothing if it stopped before its first resume state.
};
using TrainingEvent =
    std::variant<TrainingStarted, PointsMeasured, ProgressMade, CheckpointWritten,
                 TrainingSucceeded, TrainingFailed, TrainingCancelled, TrainingPreempted>;
struct TrainerSaid {
  std::uint32_t slot = 0;
  std::string key;  // As the trainer wrote it; an event of another attempt is ignored.
  TrainingEvent event;
};

struct DatasetsFound {
  std::vector<DatasetEntry> datasets;
};
struct ShutdownRequested {};
// Time has passed; sent at wake_at().
struct Tick {};

using Event = std::variant<Begin, WelcomeReceived, SessionClosed, HeartbeatReplied, OfferReceived,
                           CancelReceived, FenceReceived, PointsAcknowledged, LinesAcknowledged,
                           OutcomeAcknowledged, OfferPersisted, OutcomePersisted,
                           OutcomeNotPersisted, SpoolFailed, InputsFetched, FetchFailed, FileStored,
                           StoreFailed, Uploaded, UploadFailed, TrainerReady, TrainerExited,
                           TrainerLine, TrainerSaid, DatasetsFound, ShutdownRequested, Tick>;

// ---- Actions ----

// Opens a session and says Hello in it.
struct OpenSession {
  SessionId session{};
  std::vector<AttemptKey> held;
  std::vector<DatasetEntry> datasets;
  std::int64_t term_seen = 0;
};
struct CloseSession {
  SessionId session{};
};
struct PersistTerm {
  std::int64_t term = 0;
};
struct HeldAttempt {
  AttemptKey key;
  std::optional<Progress> progress;
};
struct SendHeartbeat {
  std::uint64_t sequence = 0;
  std::vector<HeldAttempt> held;
};
struct SendStarted {
  AttemptKey key;
  std::uint32_t slot = 0;
  std::uint32_t resumed_epoch = 0;
};
// Points first..last of the spool.
struct SendPoints {
  AttemptKey key;
  std::uint64_t first = 0;
  std::uint64_t last = 0;
};
struct SendLines {
  AttemptKey key;
  std::uint64_t first = 0;
  std::uint64_t last = 0;
};
struct SendCheckpoint {
  AttemptKey key;
  std::uint32_t epoch = 0;
  Digest artifact;
};
struct SendOutcome {
  AttemptKey key;
  Outcome outcome;
};
struct SendDatasets {
  std::vector<DatasetEntry> datasets;
};
// No more offers in this session, please.
struct SendStopping {};

// Spool and files of an attempt.
struct PersistOffer {
  Offer offer;
};
struct AppendPoints {
  AttemptKey key;
  std::vector<Point> points;
};
struct AppendLine {
  AttemptKey key;
  LogLine line;
};
struct RecordWatermarks {
  AttemptKey key;
  std::uint64_t points = 0;
  std::uint64_t lines = 0;
};
struct PersistOutcome {
  AttemptKey key;
  Outcome outcome;
};
struct FetchInputs {
  AttemptKey key;
  std::vector<Digest> artifacts;
};
struct StoreFile {
  AttemptKey key;
  FilePurpose purpose{};
  std::uint32_t epoch = 0;
  std::string path;
};
struct Upload {
  AttemptKey key;
  Digest artifact;
};
// Its spool, its work directory and its hold on cached artifacts.
struct DeleteAttempt {
  AttemptKey key;
};

// Trainers.
struct StartTrainer {
  std::uint32_t slot = 0;
};
struct KillTrainer {
  std::uint32_t slot = 0;
};
struct SendTrain {
  std::uint32_t slot = 0;
  Offer offer;
  std::string data_dir;
  std::map<Digest, std::string> paths;
  // Positions among the shared cores that the trainer is bound to from now on, as many as
  // offer.threads; empty where slots share none.
  std::vector<std::uint32_t> cores = {};
};
struct SendCancel {
  std::uint32_t slot = 0;
  AttemptKey key;
};
struct SendPreempt {
  std::uint32_t slot = 0;
  AttemptKey key;
};

enum class LogLevel : std::uint8_t { kInfo, kWarning, kError };
struct LogText {
  LogLevel level{};
  std::string text;
};
struct Exit {};

using Action =
    std::variant<OpenSession, CloseSession, PersistTerm, SendHeartbeat, SendStarted, SendPoints,
                 SendLines, SendCheckpoint, SendOutcome, SendDatasets, SendStopping, PersistOffer,
                 AppendPoints, AppendLine, RecordWatermarks, PersistOutcome, FetchInputs, StoreFile,
                 Upload, DeleteAttempt, StartTrainer, KillTrainer, SendTrain, SendCancel,
                 SendPreempt, LogText, Exit>;
using Actions = std::vector<Action>;

// One line for a log or a test: "send_points 1-1 1..3".
std::string describe(const Action& action);
std::string describe(const Outcome& outcome);
// The first 12 digits: enough to tell artifacts apart in a line.
std::string short_hex(const Digest& digest);

// ---- Core ----

struct CoreOptions {
  std::uint32_t slots = 1;
  // Cores that the slots share; 0 if every slot has its own.
  std::uint32_t shared_cores = 0;
  // Trainers started at once, from slot 0 on, the others with their first attempt: a host of many
  // cores may never need them all.
  std::uint32_t warm_slots_max = 8;
  // A trainer that says nothing for this long is taken for dead. It speaks at least once a second
  // while it computes, but a first CUDA kernel or a slow disk may take minutes.
  milliseconds silence_timeout = std::chrono::minutes(5);
  // A trainer stops after its current step; one that does not within this is killed.
  milliseconds cancel_timeout = std::chrono::seconds(30);
  milliseconds preempt_timeout = std::chrono::seconds(20);
  // A service manager kills after 30 s or more; we leave before that.
  milliseconds shutdown_timeout = std::chrono::seconds(27);
  // Time for the server to answer Hello, network and TLS included.
  milliseconds welcome_timeout = std::chrono::seconds(15);
  milliseconds reconnect_min{100};
  milliseconds reconnect_max = std::chrono::seconds(5);
  // Uniform in [0, 1): spreads the reconnects of many workers after a server restart.
  std::function<double()> random = [] { return 0.5; };
};

class Core {
 public:
  explicit Core(CoreOptions options);

  Actions handle(const Event& event, Time now);
  // When a Tick is due; nothing if only another event can change anything.
  std::optional<Time> wake_at() const;

 private:
  enum class SessionState : std::uint8_t { kClosed, kHelloSaid, kOpen };
  enum class Phase : std::uint8_t { kPersisting, kFetching, kReady, kTraining, kStoring, kEnded };
  enum class Stop : std::uint8_t { kNone, kCancel, kFence, kTimeout, kPreempt, kSilence, kSpool };
  enum class Trainer : std::uint8_t { kNone, kStarting, kIdle, kBusy };

  struct Stream {
    StreamPosition position;
    std::uint64_t in_flight = 0;  // Last number of the batch that waits for its reply; 0 for none.
    Time not_before{};
  };
  struct StoredCheckpoint {
    std::uint32_t epoch = 0;
    Digest artifact;
    std::uint64_t points = 0;  // Measured before it.
  };
  struct Attempt {
    Offer offer;
    Phase phase = Phase::kPersisting;
    Stop stop = Stop::kNone;
    std::string stop_message;
    std::optional<Time> kill_at;
    std::optional<std::uint32_t> resumed_epoch;  // Set once training has started.
    std::optional<Progress> progress;
    Stream points;
    std::set<std::string, std::less<>> series;  // Met in the points so far.
    bool series_left_out = false;               // There were too many, and it was said.
    Stream lines;
    std::map<Digest, std::string> inputs;
    std::optional<Time> timeout_at;

    bool fetching = false;
    std::optional<CheckpointFile> unstored;
    bool storing = false;
    std::uint64_t storing_points = 0;        // Measured before what is being stored.
    std::optional<StoredCheckpoint> stored;  // Newest one that is not uploaded.
    std::optional<StoredCheckpoint> said;
    std::optional<StoredCheckpoint> uploading_checkpoint;
    bool uploading_model = false;
    bool model_uploaded = false;
    std::uint32_t transfer_failures = 0;
    Time transfer_not_before{};

    std::optional<Result> result;  // While the model file is being stored.
    std::string report_json;       // Likewise.
    std::optional<Outcome> outcome;
    bool outcome_durable = false;
    bool outcome_said = false;
  };
  struct SlotState {
    Trainer trainer = Trainer::kNone;
    std::optional<AttemptKey> running;
    std::vector<std::uint32_t> cores;  // Of the shared ones, that it trains on.
    // The attempt whose log the trainer's lines belong to: its last one, until the next begins.
    std::optional<AttemptKey> logs_to;
    std::set<AttemptKey> attempts;  // Offered for it and not deleted.
    Time heard{};
    bool killed = false;
    std::uint32_t start_failures = 0;
    Time start_not_before{};
  };

  void on(const Begin& event);
  void on(const WelcomeReceived& event);
  void on(const SessionClosed& event);
  void on(const HeartbeatReplied& event);
  void on(const OfferReceived& event);
  void on(const CancelReceived& event);
  void on(const FenceReceived& event);
  void on(const PointsAcknowledged& event);
  void on(const LinesAcknowledged& event);
  void on(const OutcomeAcknowledged& event);
  void on(const OfferPersisted& event);
  void on(const OutcomePersisted& event);
  void on(const OutcomeNotPersisted& event);
  void on(const SpoolFailed& event);
  void on(const InputsFetched& event);
  void on(const FetchFailed& event);
  void on(const FileStored& event);
  void on(const StoreFailed& event);
  void on(const Uploaded& event);
  void on(const UploadFailed& event);
  void on(const TrainerReady& event);
  void on(const TrainerExited& event);
  void on(const TrainerLine& event);
  void on(const TrainerSaid& event);
  void on(const DatasetsFound& event);
  void on(const ShutdownRequested& event);
  void on(const Tick& event);

  void train(Attempt& attempt, const TrainingStarted& event);
  void train(Attempt& attempt, const PointsMeasured& event);
  // Points of the series that an attempt may have; the rest is left out, and said once.
  std::vector<Point> admitted(Attempt& attempt, const std::vector<Point>& points);
  void train(Attempt& attempt, const ProgressMade& event);
  void train(Attempt& attempt, const CheckpointWritten& event);
  void train(Attempt& attempt, const TrainingSucceeded& event);
  void train(Attempt& attempt, const TrainingFailed& event);
  void train(Attempt& attempt, const TrainingCancelled& event);
  void train(Attempt& attempt, const TrainingPreempted& event);

  bool heard_in(SessionId session);
  Attempt* find(const AttemptKey& key);
  void connect();
  void lose_session(const std::string& reason);
  void heartbeat();
  void say_datasets();
  // Stops listening to the attempt for good: now, or once its trainer has stopped.
  void fence(const AttemptKey& key);
  // Asks the trainer of a training attempt to stop.
  void stop(Attempt& attempt, Stop why, std::string message);
  // What a stopped attempt's outcome is; nothing for a fenced one.
  std::optional<Outcome> stopped_outcome(const Attempt& attempt) const;
  // Records the end, or deletes the attempt when it is fenced; `attempt` must not be used
  // afterwards.
  void end(Attempt& attempt, std::optional<Outcome> outcome);
  void erase(const AttemptKey& key);
  // It has its slot, and its cores, until it ends. One that is being stopped leaves soon: waiting
  // for it is shorter than another round over the server.
  static bool holds_slot(const Attempt& attempt);
  // Shared cores that the attempts take which neither have ended nor are being stopped.
  std::uint32_t cores_held() const;
  // Takes the lowest free ones; false, and none, if there are too few.
  bool take_cores(SlotState& slot, std::uint32_t count);
  // The slot's attempt does not train any more.
  void release_slot(std::uint32_t slot);
  // Of this slot, and of those that waited for its cores.
  void start_waiting(std::uint32_t slot);
  void start_next(std::uint32_t slot);
  void fetch(Attempt& attempt);
  void store_checkpoint(Attempt& attempt, CheckpointFile file);
  // Says whatever may be said about the attempt and has not been.
  void pump(Attempt& attempt);
  void pump_stream(Attempt& attempt, Stream& stream, bool is_points);
  void acknowledged(const AttemptKey& key, bool is_points, std::uint64_t watermark);
  bool wants_resume_state(const Attempt& attempt) const;
  void transfer_failed(Attempt& attempt);
  void check_shutdown();
  void log(LogLevel level, std::string text);

  CoreOptions options_;
  Time now_{};
  Actions actions_;

  SessionState session_state_ = SessionState::kClosed;
  SessionId session_{};
  std::int64_t term_seen_ = 0;
  milliseconds heartbeat_interval_{};
  std::uint64_t heartbeat_sequence_ = 0;
  Time heartbeat_at_{};
  Time heard_at_{};
  Time reconnect_at_{};
  std::uint32_t reconnects_ = 0;
  std::string last_reason_;  // Said once, not at every try.

  std::map<AttemptKey, Attempt> attempts_;
  std::vector<SlotState> slots_;
  std::vector<bool> is_core_taken_;  // Of the shared ones.
  std::vector<DatasetEntry> datasets_;
  std::vector<DatasetEntry> datasets_said_;  // In this session.

  std::optional<Time> shutdown_at_;
  bool exited_ = false;
};

}  // namespace bitrung::agent
