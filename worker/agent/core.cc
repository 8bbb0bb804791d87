#include "worker/agent/core.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "db/base/check.h"
#include "db/base/planted_bug.h"

namespace bitrung::agent {
namespace {

// A batch that the server did not take whole is not said again at once: it would be a tight loop.
constexpr milliseconds kBatchPause{1000};
constexpr milliseconds kTransferPauseMin{500};
constexpr milliseconds kTransferPauseMax{30'000};
// Fetching is tried this often before another worker may try its luck.
constexpr std::uint32_t kFetchTriesMax = 10;
// A trainer is started this often for one job.
constexpr std::uint32_t kStartTriesMax = 3;
constexpr milliseconds kStartPauseMin{1000};
constexpr milliseconds kStartPauseMax{10'000};
// A session is dead after this many silent heartbeat intervals and a grace for a slow disk at the
// server.
constexpr int kSilentHeartbeats = 3;
constexpr milliseconds kSilentGrace{5000};

milliseconds doubled(milliseconds first, std::uint32_t times, milliseconds most) {
  milliseconds value = first;
  for (std::uint32_t i = 0; i < times && value < most; ++i) value *= 2;
  return std::min(value, most);
}

Failed preempted(std::string message) {
  return {FailureClass::kPreempted, std::move(message)};
}

}  // namespace

Core::Core(CoreOptions options)
    : options_(std::move(options)),
      slots_(options_.slots),
      is_core_taken_(options_.shared_cores, false) {
  BITRUNG_CHECK(options_.slots >= 1);
}

Actions Core::handle(const Event& event, Time now) {
  BITRUNG_CHECK(actions_.empty());
  now_ = now;
  std::visit([this](const auto& e) { on(e); }, event);
  check_shutdown();
  return std::exchange(actions_, {});
}

std::optional<Time> Core::wake_at() const {
  if (exited_) return std::nullopt;
  std::optional<Time> first;
  const auto consider = [&first](Time time) {
    if (!first || time < *first) first = time;
  };
  switch (session_state_) {
    case SessionState::kClosed:
      if (!shutdown_at_) consider(reconnect_at_);
      break;
    case SessionState::kHelloSaid:
      consider(heard_at_ + options_.welcome_timeout);
      break;
    case SessionState::kOpen:
      consider(heartbeat_at_);
      consider(heard_at_ + kSilentHeartbeats * heartbeat_interval_ + kSilentGrace);
      break;
  }
  for (const auto& [key, attempt] : attempts_) {
    if (attempt.kill_at) consider(*attempt.kill_at);
    if (attempt.timeout_at) consider(*attempt.timeout_at);
    if (session_state_ == SessionState::kOpen) {
      for (const Time time :
           {attempt.points.not_before, attempt.lines.not_before, attempt.transfer_not_before}) {
        if (time > now_) consider(time);
      }
    }
  }
  for (const SlotState& slot : slots_) {
    if (slot.trainer == Trainer::kStarting || slot.trainer == Trainer::kBusy) {
      if (!slot.killed) consider(slot.heard + options_.silence_timeout);
    } else if (slot.trainer == Trainer::kNone && slot.start_not_before > now_) {
      consider(slot.start_not_before);
    }
  }
  if (shutdown_at_) consider(*shutdown_at_);
  return first;
}

// ---- Session ----

void Core::on(const Begin& event) {
  term_seen_ = event.term_seen;
  for (const RecoveredAttempt& recovered : event.recovered) {
    Attempt attempt;
    attempt.offer = recovered.offer;
    attempt.phase = Phase::kEnded;
    attempt.points.position = recovered.points;
    attempt.lines.position = recovered.lines;
    if (recovered.outcome) {
      attempt.outcome = recovered.outcome;
      attempt.outcome_durable = true;
    } else {
      // Its trainer died with us. Saying so, with everything it left, loses nothing; leaving it out
      // of Hello would.
      attempt.outcome = Failed{
          FailureClass::kLostWorker,
          recovered.resume ? fmt::format("the worker restarted while it trained; epoch {} is kept",
                                         recovered.resume->epoch)
                           : "the worker restarted while it trained"};
      actions_.push_back(PersistOutcome{recovered.offer.key, *attempt.outcome});
    }
    Attempt& kept = attempts_.emplace(recovered.offer.key, std::move(attempt)).first->second;
    if (kept.offer.slot < slots_.size()) slots_[kept.offer.slot].attempts.insert(kept.offer.key);
    log(LogLevel::kInfo,
        fmt::format("attempt {} ({}) found in the spool: {}", to_string(kept.offer.key),
                    kept.offer.display_name, describe(*kept.outcome)));
    if (recovered.resume && wants_resume_state(kept)) store_checkpoint(kept, *recovered.resume);
  }
  const std::uint32_t warm = options_.shared_cores > 0 ? options_.warm_slots_max : options_.slots;
  for (std::uint32_t slot = 0; slot < std::min(warm, options_.slots); ++slot) {
    // Warm before the first job comes.
    slots_[slot].trainer = Trainer::kStarting;
    slots_[slot].heard = now_;
    actions_.push_back(StartTrainer{slot});
  }
  connect();
}

void Core::connect() {
  session_ = SessionId{number(session_) + 1};
  session_state_ = SessionState::kHelloSaid;
  heard_at_ = now_;
  datasets_said_ = datasets_;
  OpenSession open{session_, {}, datasets_, term_seen_};
  for (const auto& [key, attempt] : attempts_) {
    if (attempt.stop != Stop::kFence) open.held.push_back(key);
  }
  actions_.push_back(std::move(open));
}

void Core::lose_session(const std::string& reason) {
  session_state_ = SessionState::kClosed;
  const milliseconds most = doubled(options_.reconnect_min, reconnects_, options_.reconnect_max);
  ++reconnects_;
  reconnect_at_ =
      now_ + std::chrono::duration_cast<milliseconds>(most * (0.5 + 0.5 * options_.random()));
  for (auto& [key, attempt] : attempts_) {
    attempt.points.in_flight = 0;
    attempt.lines.in_flight = 0;
    if (!BITRUNG_PLANTED(OUTCOME_SAID_ONCE)) attempt.outcome_said = false;
  }
  if (reason != last_reason_) {
    last_reason_ = reason;
    log(LogLevel::kWarning,
        fmt::format("no session with the server: {}; training goes on, trying again", reason));
  }
}

bool Core::heard_in(SessionId session) {
  if (session != session_ || session_state_ != SessionState::kOpen) return false;
  heard_at_ = now_;
  return true;
}

void Core::on(const WelcomeReceived& event) {
  if (event.session != session_ || session_state_ != SessionState::kHelloSaid) return;
  if (event.term < term_seen_) {
    actions_.push_back(CloseSession{session_});
    // Slowly: a person has to mend this.
    reconnects_ = 32;
    lose_session(fmt::format(
        "the server says term {}, but this worker has spoken with term {}; it was restored from "
        "an old backup or is another server, and is not obeyed",
        event.term, term_seen_));
    return;
  }
  if (event.term > term_seen_) {
    term_seen_ = event.term;
    actions_.push_back(PersistTerm{event.term});
  }
  session_state_ = SessionState::kOpen;
  heard_at_ = now_;
  reconnects_ = 0;
  last_reason_.clear();
  heartbeat_interval_ = std::max(event.heartbeat_interval, milliseconds{50});
  log(LogLevel::kInfo,
      fmt::format("session open, term {}, lease {} ms", event.term, event.lease.count()));

  for (const AttemptKey& key : event.fenced) fence(key);
  heartbeat();
  say_datasets();
  if (shutdown_at_) actions_.push_back(SendStopping{});
  for (auto& [key, attempt] : attempts_) {
    if (attempt.stop == Stop::kFence) continue;
    if (attempt.resumed_epoch) {
      actions_.push_back(SendStarted{key, attempt.offer.slot, *attempt.resumed_epoch});
    }
    if (attempt.said)
      actions_.push_back(SendCheckpoint{key, attempt.said->epoch, attempt.said->artifact});
    if (attempt.phase == Phase::kFetching) fetch(attempt);
    pump(attempt);
  }
  for (std::uint32_t slot = 0; slot < slots_.size(); ++slot) start_next(slot);
}

void Core::on(const SessionClosed& event) {
  if (event.session != session_ || session_state_ == SessionState::kClosed) return;
  lose_session(event.reason);
}

void Core::heartbeat() {
  heartbeat_at_ = now_ + heartbeat_interval_;
  SendHeartbeat beat{++heartbeat_sequence_, {}};
  for (const auto& [key, attempt] : attempts_) {
    if (attempt.stop != Stop::kFence) beat.held.push_back({key, attempt.progress});
  }
  actions_.push_back(std::move(beat));
}

void Core::say_datasets() {
  if (datasets_said_ == datasets_) return;
  datasets_said_ = datasets_;
  actions_.push_back(SendDatasets{datasets_});
}

void Core::on(const HeartbeatReplied& event) {
  heard_in(event.session);
}

void Core::on(const DatasetsFound& event) {
  datasets_ = event.datasets;
  if (session_state_ == SessionState::kOpen) say_datasets();
}

// ---- Offers ----

void Core::on(const OfferReceived& event) {
  if (!heard_in(event.session)) return;
  const Offer& offer = event.offer;
  if (Attempt* held = find(offer.key)) {
    if (held->stop != Stop::kFence && held->resumed_epoch) {
      actions_.push_back(SendStarted{offer.key, held->offer.slot, *held->resumed_epoch});
    }
    return;
  }
  Attempt& attempt = attempts_[offer.key];
  attempt.offer = offer;
  if (shutdown_at_) return end(attempt, preempted("the worker is shutting down"));
  if (offer.slot >= slots_.size()) {
    return end(attempt, Failed{FailureClass::kDeviceFault,
                               fmt::format("the offer names slot {}, this worker has slots 0 to {}",
                                           offer.slot, slots_.size() - 1)});
  }
  for (const AttemptKey& key : slots_[offer.slot].attempts) {
    const Attempt& other = attempts_.at(key);
    if (holds_slot(other)) {
      return end(attempt, preempted(fmt::format("slot {} is busy with attempt {}", offer.slot,
                                                to_string(key))));
    }
  }
  if (options_.shared_cores > 0) {
    // An older server does not say; it has a slot for each core.
    if (attempt.offer.threads == 0) attempt.offer.threads = 1;
    if (attempt.offer.threads > options_.shared_cores) {
      return end(attempt, Failed{FailureClass::kDeviceFault,
                                 fmt::format("the offer names {} threads, this worker has {} cores",
                                             attempt.offer.threads, options_.shared_cores)});
    }
    if (const std::uint32_t held = cores_held();
        held + attempt.offer.threads > options_.shared_cores) {
      return end(attempt, preempted(fmt::format("{} of {} cores are busy, the offer names {}", held,
                                                options_.shared_cores, attempt.offer.threads)));
    }
  }
  slots_[offer.slot].attempts.insert(offer.key);
  if (offer.dataset.empty()) {
    return end(attempt, Failed{FailureClass::kUserError, "the job's options name no data set"});
  }
  log(LogLevel::kInfo, fmt::format("attempt {} ({}) offered for slot {}", to_string(offer.key),
                                   offer.display_name, offer.slot));
  actions_.push_back(PersistOffer{attempt.offer});
}

void Core::on(const OfferPersisted& event) {
  Attempt* attempt = find(event.key);
  if (attempt == nullptr || attempt->phase != Phase::kPersisting) return;
  attempt->phase = Phase::kFetching;
  fetch(*attempt);
}

void Core::fetch(Attempt& attempt) {
  if (attempt.fetching || session_state_ != SessionState::kOpen ||
      now_ < attempt.transfer_not_before)
    return;
  FetchInputs fetch{attempt.offer.key, {}};
  for (const OfferInput& input : attempt.offer.inputs) fetch.artifacts.push_back(input.artifact);
  if (attempt.offer.resume) fetch.artifacts.push_back(*attempt.offer.resume);
  std::sort(fetch.artifacts.begin(), fetch.artifacts.end());
  fetch.artifacts.erase(std::unique(fetch.artifacts.begin(), fetch.artifacts.end()),
                        fetch.artifacts.end());
  if (fetch.artifacts.empty()) {
    attempt.phase = Phase::kReady;
    return start_next(attempt.offer.slot);
  }
  attempt.fetching = true;
  actions_.push_back(std::move(fetch));
}

void Core::on(const InputsFetched& event) {
  Attempt* attempt = find(event.key);
  if (attempt == nullptr || attempt->phase != Phase::kFetching) return;
  attempt->fetching = false;
  attempt->transfer_failures = 0;
  attempt->inputs = event.paths;
  attempt->phase = Phase::kReady;
  start_next(attempt->offer.slot);
}

void Core::transfer_failed(Attempt& attempt) {
  attempt.transfer_not_before =
      now_ + doubled(kTransferPauseMin, attempt.transfer_failures, kTransferPauseMax);
  ++attempt.transfer_failures;
}

void Core::on(const FetchFailed& event) {
  Attempt* attempt = find(event.key);
  if (attempt == nullptr || attempt->phase != Phase::kFetching) return;
  attempt->fetching = false;
  log(LogLevel::kWarning,
      fmt::format("attempt {}: artifact {} cannot be fetched: {}", to_string(event.key),
                  short_hex(event.artifact), event.message));
  switch (event.problem) {
    case FetchProblem::kMissing:
      if (event.artifact == attempt->offer.resume) {
        // Starting afresh is slower, not wrong.
        attempt->offer.resume.reset();
        return fetch(*attempt);
      }
      return end(*attempt, Failed{FailureClass::kUserError,
                                  fmt::format("input {} cannot be fetched: {}",
                                              event.artifact.hex(), event.message)});
    case FetchProblem::kLocal:
      return end(*attempt, Failed{FailureClass::kTrainerCrashed,
                                  fmt::format("input {} cannot be kept: {}", event.artifact.hex(),
                                              event.message)});
    case FetchProblem::kTransient:
      // An absent server is no reason: the offer waits for it.
      if (session_state_ == SessionState::kOpen &&
          attempt->transfer_failures + 1 >= kFetchTriesMax) {
        return end(*attempt, Failed{FailureClass::kTrainerCrashed,
                                    fmt::format("input {} cannot be fetched: {}",
                                                event.artifact.hex(), event.message)});
      }
      transfer_failed(*attempt);
      return;
  }
}

void Core::start_next(std::uint32_t slot_number) {
  SlotState& slot = slots_[slot_number];
  // An attempt begins only under a session: without one it may have been given away long ago.
  if (slot.running || session_state_ != SessionState::kOpen) return;
  for (const AttemptKey key : slot.attempts) {
    Attempt& attempt = attempts_.at(key);
    if (attempt.phase != Phase::kReady) continue;
    if (slot.trainer == Trainer::kNone) {
      if (now_ < slot.start_not_before) return;
      slot.trainer = Trainer::kStarting;
      slot.heard = now_;
      slot.killed = false;
      actions_.push_back(StartTrainer{slot_number});
      return;
    }
    // One that is being killed may have said its last word, but will not train any more.
    if (slot.trainer != Trainer::kIdle || slot.killed) return;
    const auto dataset = std::ranges::find(datasets_, attempt.offer.dataset, &DatasetEntry::name);
    if (dataset == datasets_.end()) {
      return end(
          attempt,
          Failed{FailureClass::kUserError,
                 fmt::format("this worker does not have the data set {}; give its directory with "
                             "--data-dir or fetch it: bitrung data fetch {}",
                             attempt.offer.dataset, attempt.offer.dataset)});
    }
    if (attempt.offer.dataset_sha256 && *attempt.offer.dataset_sha256 != dataset->sha256) {
      return end(attempt,
                 Failed{FailureClass::kUserError,
                        fmt::format("the data set {} in {} has digest {}, the job wants {}",
                                    dataset->name, dataset->directory, dataset->sha256.hex(),
                                    attempt.offer.dataset_sha256->hex())});
    }
    // What has them is being stopped: it leaves soon.
    if (options_.shared_cores > 0 && !take_cores(slot, attempt.offer.threads)) return;
    slot.trainer = Trainer::kBusy;
    slot.running = key;
    slot.logs_to = key;
    slot.heard = now_;
    attempt.phase = Phase::kTraining;
    if (attempt.offer.timeout.count() > 0) attempt.timeout_at = now_ + attempt.offer.timeout;
    actions_.push_back(
        SendTrain{slot_number, attempt.offer, dataset->directory, attempt.inputs, slot.cores});
    return;
  }
}

// ---- Stopping ----

void Core::on(const CancelReceived& event) {
  if (!heard_in(event.session)) return;
  Attempt* attempt = find(event.key);
  if (attempt == nullptr || attempt->stop == Stop::kFence) return;
  switch (attempt->phase) {
    case Phase::kPersisting:
    case Phase::kFetching:
    case Phase::kReady:
      return end(*attempt, Cancelled{});
    case Phase::kTraining:
      return stop(*attempt, Stop::kCancel, "");
    case Phase::kStoring:
    case Phase::kEnded:
      return;  // It ended before the request came; the server decides what that means.
  }
}

void Core::on(const FenceReceived& event) {
  if (heard_in(event.session)) fence(event.key);
}

void Core::fence(const AttemptKey& key) {
  Attempt* attempt = find(key);
  if (attempt == nullptr || attempt->stop == Stop::kFence) return;
  if (BITRUNG_PLANTED(FENCE_IGNORED_IN_TRAINING) && attempt->phase == Phase::kTraining) return;
  log(LogLevel::kInfo, fmt::format("attempt {} ({}) is not ours any more", to_string(key),
                                   attempt->offer.display_name));
  if (attempt->phase == Phase::kTraining) return stop(*attempt, Stop::kFence, "");
  erase(key);
}

void Core::stop(Attempt& attempt, Stop why, std::string message) {
  BITRUNG_CHECK(attempt.phase == Phase::kTraining);
  const bool asked = attempt.stop != Stop::kNone;
  // A fence silences whatever else was going on; a cancel is what the server waits for. Other
  // reasons come second.
  if (asked && why != Stop::kFence && !(why == Stop::kCancel && attempt.stop != Stop::kFence))
    return;
  attempt.stop = why;
  attempt.stop_message = std::move(message);
  attempt.timeout_at.reset();
  if (asked) return;
  const std::uint32_t slot = attempt.offer.slot;
  if (why == Stop::kSilence) {
    attempt.kill_at.reset();
    slots_[slot].killed = true;
    actions_.push_back(KillTrainer{slot});
  } else if (why == Stop::kPreempt) {
    attempt.kill_at = now_ + options_.preempt_timeout;
    actions_.push_back(SendPreempt{slot, attempt.offer.key});
  } else {
    attempt.kill_at = now_ + options_.cancel_timeout;
    actions_.push_back(SendCancel{slot, attempt.offer.key});
  }
}

std::optional<Outcome> Core::stopped_outcome(const Attempt& attempt) const {
  switch (attempt.stop) {
    case Stop::kNone:
      return Failed{FailureClass::kTrainerCrashed, "the trainer stopped without being asked to"};
    case Stop::kCancel:
      return Cancelled{};
    case Stop::kFence:
      return std::nullopt;
    case Stop::kTimeout:
      return Failed{FailureClass::kTimeout, attempt.stop_message};
    case Stop::kPreempt:
      return preempted(attempt.stop_message);
    case Stop::kSilence:
    case Stop::kSpool:
      return Failed{FailureClass::kTrainerCrashed, attempt.stop_message};
  }
  return std::nullopt;
}

void Core::end(Attempt& attempt, std::optional<Outcome> outcome) {
  const AttemptKey key = attempt.offer.key;
  if (attempt.stop == Stop::kFence || !outcome) return erase(key);
  log(LogLevel::kInfo, fmt::format("attempt {} ({}) {}", to_string(key), attempt.offer.display_name,
                                   describe(*outcome)));
  attempt.phase = Phase::kEnded;
  attempt.kill_at.reset();
  attempt.timeout_at.reset();
  attempt.outcome = std::move(outcome);
  attempt.outcome_durable = BITRUNG_PLANTED(OUTCOME_BEFORE_DURABLE);
  if (!wants_resume_state(attempt)) {
    attempt.unstored.reset();
    attempt.stored.reset();
  }
  actions_.push_back(PersistOutcome{key, *attempt.outcome});
}

void Core::erase(const AttemptKey& key) {
  actions_.push_back(DeleteAttempt{key});
  const auto erased = attempts_.find(key);
  const std::uint32_t number = erased->second.offer.slot;
  attempts_.erase(erased);
  if (number >= slots_.size()) return;
  SlotState& slot = slots_[number];
  slot.attempts.erase(key);
  if (slot.logs_to == key && slot.running != key) slot.logs_to.reset();
}

bool Core::holds_slot(const Attempt& attempt) {
  return attempt.stop == Stop::kNone && attempt.phase != Phase::kStoring &&
         attempt.phase != Phase::kEnded;
}

std::uint32_t Core::cores_held() const {
  std::uint32_t held = 0;
  for (const SlotState& slot : slots_) {
    for (const AttemptKey& key : slot.attempts) {
      const Attempt& attempt = attempts_.at(key);
      if (holds_slot(attempt)) held += attempt.offer.threads;
    }
  }
  return held;
}

bool Core::take_cores(SlotState& slot, std::uint32_t count) {
  BITRUNG_CHECK(slot.cores.empty());
  for (std::uint32_t core = 0; core < is_core_taken_.size() && slot.cores.size() < count; ++core) {
    if (!is_core_taken_[core]) slot.cores.push_back(core);
  }
  if (slot.cores.size() < count) {
    slot.cores.clear();
    return false;
  }
  for (const std::uint32_t core : slot.cores) {
    is_core_taken_[core] = !BITRUNG_PLANTED(CORES_GIVEN_TWICE);
  }
  return true;
}

void Core::release_slot(std::uint32_t number) {
  SlotState& slot = slots_[number];
  slot.running.reset();
  if (slot.trainer == Trainer::kBusy) slot.trainer = Trainer::kIdle;
  for (const std::uint32_t core : std::exchange(slot.cores, {})) is_core_taken_[core] = false;
}

void Core::start_waiting(std::uint32_t number) {
  start_next(number);
  if (options_.shared_cores == 0) return;
  for (std::uint32_t slot = 0; slot < slots_.size(); ++slot) {
    if (slot != number) start_next(slot);
  }
}

// ---- Results of actions ----

void Core::on(const OutcomePersisted& event) {
  Attempt* attempt = find(event.key);
  if (attempt == nullptr || attempt->phase != Phase::kEnded) return;
  attempt->outcome_durable = true;
  pump(*attempt);
}

void Core::on(const OutcomeNotPersisted& event) {
  Attempt* attempt = find(event.key);
  if (attempt == nullptr || attempt->phase != Phase::kEnded) return;
  log(LogLevel::kError, fmt::format("the outcome of attempt {} cannot be written: {}",
                                    to_string(event.key), event.message));
  if (std::holds_alternative<Succeeded>(*attempt->outcome)) {
    // A success that only memory knows could be taken back by a crash.
    attempt->outcome =
        Failed{FailureClass::kTrainerCrashed,
               fmt::format("its result could not be written on the worker: {}", event.message)};
  }
  // A failure may be said without being durable: should we die now, the next process says
  // lost_worker instead.
  attempt->outcome_durable = true;
  pump(*attempt);
}

void Core::on(const SpoolFailed& event) {
  Attempt* attempt = find(event.key);
  if (attempt == nullptr) return;
  attempt->points.position.written = event.points;
  attempt->lines.position.written = event.lines;
  const std::string text = fmt::format("the worker cannot write its spool: {}", event.message);
  log(LogLevel::kError, fmt::format("attempt {}: {}", to_string(event.key), text));
  switch (attempt->phase) {
    case Phase::kPersisting:
    case Phase::kFetching:
    case Phase::kReady:
      return end(*attempt, Failed{FailureClass::kTrainerCrashed, text});
    case Phase::kTraining:
      return stop(*attempt, Stop::kSpool, text);
    case Phase::kStoring:
    case Phase::kEnded:
      return pump(*attempt);  // At most a log line after the end is missing.
  }
}

void Core::store_checkpoint(Attempt& attempt, CheckpointFile file) {
  if (attempt.storing) {
    attempt.unstored = std::move(file);
    return;
  }
  attempt.storing = true;
  attempt.storing_points = attempt.points.position.written;
  actions_.push_back(StoreFile{attempt.offer.key, FilePurpose::kResume, file.epoch, file.path});
}

void Core::on(const FileStored& event) {
  Attempt* attempt = find(event.key);
  if (attempt == nullptr) return;
  if (event.purpose == FilePurpose::kModel) {
    if (attempt->phase != Phase::kStoring) return;
    BITRUNG_CHECK(attempt->result.has_value());
    return end(*attempt,
               Succeeded{*attempt->result, event.artifact, std::move(attempt->report_json)});
  }
  attempt->storing = false;
  if (wants_resume_state(*attempt))
    attempt->stored = StoredCheckpoint{event.epoch, event.artifact, attempt->storing_points};
  if (attempt->unstored)
    store_checkpoint(*attempt, *std::exchange(attempt->unstored, std::nullopt));
  pump(*attempt);
}

void Core::on(const StoreFailed& event) {
  Attempt* attempt = find(event.key);
  if (attempt == nullptr) return;
  if (event.purpose == FilePurpose::kModel) {
    if (attempt->phase != Phase::kStoring) return;
    return end(*attempt,
               Failed{FailureClass::kTrainerCrashed,
                      fmt::format("the trained model cannot be kept: {}", event.message)});
  }
  // The trainer goes on, and the next resume state may fit again.
  log(LogLevel::kWarning, fmt::format("attempt {}: the resume state of epoch {} cannot be kept: {}",
                                      to_string(event.key), event.epoch, event.message));
  attempt->storing = false;
  if (attempt->unstored)
    store_checkpoint(*attempt, *std::exchange(attempt->unstored, std::nullopt));
  pump(*attempt);
}

void Core::on(const Uploaded& event) {
  Attempt* attempt = find(event.key);
  if (attempt == nullptr) return;
  attempt->transfer_failures = 0;
  if (attempt->uploading_checkpoint && attempt->uploading_checkpoint->artifact == event.artifact) {
    attempt->said = *std::exchange(attempt->uploading_checkpoint, std::nullopt);
    if (attempt->stored && attempt->stored->artifact == event.artifact) attempt->stored.reset();
    if (session_state_ == SessionState::kOpen) {
      actions_.push_back(SendCheckpoint{event.key, attempt->said->epoch, attempt->said->artifact});
    }
  } else if (attempt->uploading_model) {
    attempt->uploading_model = false;
    attempt->model_uploaded = true;
  }
  pump(*attempt);
}

void Core::on(const UploadFailed& event) {
  Attempt* attempt = find(event.key);
  if (attempt == nullptr) return;
  log(LogLevel::kWarning,
      fmt::format("attempt {}: artifact {} cannot be uploaded: {}", to_string(event.key),
                  short_hex(event.artifact), event.message));
  const bool is_checkpoint =
      attempt->uploading_checkpoint && attempt->uploading_checkpoint->artifact == event.artifact;
  attempt->uploading_checkpoint.reset();
  attempt->uploading_model = false;
  if (!event.permanent) {
    transfer_failed(*attempt);
  } else if (is_checkpoint) {
    if (attempt->stored && attempt->stored->artifact == event.artifact) attempt->stored.reset();
  } else {
    return end(*attempt,
               Failed{FailureClass::kTrainerCrashed,
                      fmt::format("the trained model cannot be uploaded: {}", event.message)});
  }
  pump(*attempt);
}

// ---- Trainers ----

void Core::on(const TrainerReady& event) {
  SlotState& slot = slots_.at(event.slot);
  if (slot.trainer != Trainer::kStarting) return;
  slot.trainer = Trainer::kIdle;
  slot.heard = now_;
  slot.start_failures = 0;
  start_next(event.slot);
}

void Core::on(const TrainerExited& event) {
  SlotState& slot = slots_.at(event.slot);
  const Trainer before = std::exchange(slot.trainer, Trainer::kNone);
  slot.killed = false;
  const FailureClass failure_class =
      event.out_of_memory ? FailureClass::kOutOfMemory : FailureClass::kTrainerCrashed;
  if (slot.running) {
    Attempt* attempt = find(*slot.running);
    BITRUNG_CHECK(attempt != nullptr);
    release_slot(event.slot);
    if (attempt->stop == Stop::kNone) {
      end(*attempt, Failed{failure_class, fmt::format("the trainer {}", event.description)});
    } else {
      end(*attempt, stopped_outcome(*attempt));
    }
  } else if (before == Trainer::kStarting) {
    log(LogLevel::kError, fmt::format("the trainer of slot {} did not come up: it {}", event.slot,
                                      event.description));
    // A host that is short of memory for a moment must not use up the job's retries.
    slot.start_not_before = now_ + doubled(kStartPauseMin, slot.start_failures, kStartPauseMax);
    if (++slot.start_failures >= kStartTriesMax) {
      slot.start_failures = 0;
      for (const AttemptKey key : slot.attempts) {
        Attempt& attempt = attempts_.at(key);
        if (attempt.phase == Phase::kReady) {
          end(attempt,
              Failed{event.out_of_memory ? FailureClass::kOutOfMemory : FailureClass::kDeviceFault,
                     fmt::format("the trainer did not come up: it {}", event.description)});
          break;
        }
      }
    }
  } else if (!shutdown_at_) {
    log(LogLevel::kWarning,
        fmt::format("the idle trainer of slot {} {}", event.slot, event.description));
  }
  start_waiting(event.slot);
}

void Core::on(const TrainerLine& event) {
  SlotState& slot = slots_.at(event.slot);
  Attempt* attempt = slot.logs_to ? find(*slot.logs_to) : nullptr;
  if (attempt == nullptr || attempt->stop == Stop::kFence || attempt->stop == Stop::kSpool ||
      attempt->outcome_said) {
    log(LogLevel::kInfo, fmt::format("trainer of slot {}: {}", event.slot, event.line.text));
    return;
  }
  actions_.push_back(AppendLine{attempt->offer.key, event.line});
  ++attempt->lines.position.written;
  pump(*attempt);
}

void Core::on(const TrainerSaid& event) {
  SlotState& slot = slots_.at(event.slot);
  slot.heard = now_;
  if (!slot.running || to_string(*slot.running) != event.key) return;
  Attempt* attempt = find(*slot.running);
  BITRUNG_CHECK(attempt != nullptr);
  std::visit([this, attempt](const auto& e) { train(*attempt, e); }, event.event);
}

void Core::train(Attempt& attempt, const TrainingStarted& event) {
  if (attempt.resumed_epoch) return;
  attempt.resumed_epoch = event.resumed_epoch;
  if (session_state_ == SessionState::kOpen && attempt.stop != Stop::kFence) {
    actions_.push_back(SendStarted{attempt.offer.key, attempt.offer.slot, event.resumed_epoch});
  }
}

std::vector<Point> Core::admitted(Attempt& attempt, const std::vector<Point>& points) {
  std::vector<Point> kept;
  kept.reserve(points.size());
  for (const Point& point : points) {
    if (!attempt.series.contains(point.series)) {
      if (attempt.series.size() >= kSeriesPerAttemptMax) {
        if (!std::exchange(attempt.series_left_out, true)) {
          log(LogLevel::kWarning,
              fmt::format("attempt {} has more than {} series, the limit; \"{}\" and any other new "
                          "one is left out",
                          to_string(attempt.offer.key), kSeriesPerAttemptMax, point.series));
        }
        continue;
      }
      attempt.series.insert(point.series);
    }
    kept.push_back(point);
  }
  return kept;
}

void Core::train(Attempt& attempt, const PointsMeasured& event) {
  if (attempt.stop == Stop::kFence || attempt.stop == Stop::kSpool || event.points.empty()) return;
  std::vector<Point> points = admitted(attempt, event.points);
  if (points.empty()) return;
  attempt.points.position.written += points.size();
  actions_.push_back(AppendPoints{attempt.offer.key, std::move(points)});
  pump(attempt);
}

void Core::train(Attempt& attempt, const ProgressMade& event) {
  attempt.progress = event.progress;
}

void Core::train(Attempt& attempt, const CheckpointWritten& event) {
  if (attempt.stop != Stop::kFence) store_checkpoint(attempt, event.file);
}

void Core::train(Attempt& attempt, const TrainingSucceeded& event) {
  const std::uint32_t slot = attempt.offer.slot;
  release_slot(slot);
  if (attempt.stop == Stop::kFence || attempt.stop == Stop::kSpool) {
    end(attempt, stopped_outcome(attempt));
  } else {
    // Also when a stop was asked for: it was done before the request reached it.
    attempt.phase = Phase::kStoring;
    attempt.kill_at.reset();
    attempt.timeout_at.reset();
    attempt.result = event.result;
    attempt.report_json = event.report_json;
    if (event.report_bytes_left_out > 0) {
      log(LogLevel::kWarning,
          fmt::format("the report of attempt {} has {} bytes, the limit is {}; its result is kept "
                      "without it",
                      to_string(attempt.offer.key), event.report_bytes_left_out, kReportBytesMax));
    }
    actions_.push_back(StoreFile{attempt.offer.key, FilePurpose::kModel, 0, event.path});
  }
  start_waiting(slot);
}

void Core::train(Attempt& attempt, const TrainingFailed& event) {
  const std::uint32_t slot = attempt.offer.slot;
  release_slot(slot);
  if (attempt.stop == Stop::kFence || attempt.stop == Stop::kSpool) {
    end(attempt, stopped_outcome(attempt));
  } else {
    end(attempt, Failed{event.failure_class, event.message});
  }
  start_waiting(slot);
}

void Core::train(Attempt& attempt, const TrainingCancelled&) {
  const std::uint32_t slot = attempt.offer.slot;
  release_slot(slot);
  end(attempt, stopped_outcome(attempt));
  start_waiting(slot);
}

void Core::train(Attempt& attempt, const TrainingPreempted& event) {
  const std::uint32_t slot = attempt.offer.slot;
  release_slot(slot);
  if (event.file && attempt.stop != Stop::kFence) store_checkpoint(attempt, *event.file);
  end(attempt, stopped_outcome(attempt));
  start_waiting(slot);
}

// ---- Saying it ----

bool Core::wants_resume_state(const Attempt& attempt) const {
  if (!attempt.outcome) return true;
  if (std::holds_alternative<Succeeded>(*attempt.outcome)) return false;
  const auto* failed = std::get_if<Failed>(&*attempt.outcome);
  // Such a job fails the same way again, wherever it starts from.
  return failed == nullptr || (failed->failure_class != FailureClass::kUserError &&
                               failed->failure_class != FailureClass::kDiverged);
}

void Core::pump_stream(Attempt& attempt, Stream& stream, bool is_points) {
  const StreamPosition& position = stream.position;
  if (stream.in_flight != 0 || position.acknowledged >= position.written ||
      now_ < stream.not_before)
    return;
  const std::uint64_t most = is_points ? kPointsPerBatchMax : kLinesPerBatchMax;
  const std::uint64_t first = position.acknowledged + 1;
  const std::uint64_t last = std::min(position.written, position.acknowledged + most);
  stream.in_flight = last;
  if (is_points) {
    actions_.push_back(SendPoints{attempt.offer.key, first, last});
  } else {
    actions_.push_back(SendLines{attempt.offer.key, first, last});
  }
}

void Core::pump(Attempt& attempt) {
  if (session_state_ != SessionState::kOpen || attempt.stop == Stop::kFence) return;
  pump_stream(attempt, attempt.points, true);
  pump_stream(attempt, attempt.lines, false);

  const auto* succeeded = attempt.outcome ? std::get_if<Succeeded>(&*attempt.outcome) : nullptr;
  const bool uploading = attempt.uploading_checkpoint || attempt.uploading_model;
  if (!uploading && now_ >= attempt.transfer_not_before) {
    if (succeeded != nullptr && attempt.outcome_durable && !attempt.model_uploaded) {
      attempt.uploading_model = true;
      actions_.push_back(Upload{attempt.offer.key, succeeded->artifact});
    } else if (attempt.stored && attempt.points.position.acknowledged >= attempt.stored->points) {
      attempt.uploading_checkpoint = attempt.stored;
      actions_.push_back(Upload{attempt.offer.key, attempt.stored->artifact});
    }
  }

  if (!attempt.outcome || !attempt.outcome_durable || attempt.outcome_said) return;
  const auto whole = [](const Stream& stream) {
    return stream.position.acknowledged >= stream.position.written ||
           BITRUNG_PLANTED(OUTCOME_BEFORE_POINTS);
  };
  if (!whole(attempt.points) || !whole(attempt.lines)) return;
  if (succeeded != nullptr ? !attempt.model_uploaded
                           : wants_resume_state(attempt) &&
                                 (attempt.storing || attempt.unstored || attempt.stored)) {
    return;
  }
  attempt.outcome_said = true;
  actions_.push_back(SendOutcome{attempt.offer.key, *attempt.outcome});
}

void Core::acknowledged(const AttemptKey& key, bool is_points, std::uint64_t watermark) {
  Attempt* attempt = find(key);
  if (attempt == nullptr) return;
  Stream& stream = is_points ? attempt->points : attempt->lines;
  if (stream.in_flight == 0) return;  // A second reply to the same batch.
  const bool whole = watermark >= stream.in_flight;
  stream.in_flight = 0;
  if (BITRUNG_PLANTED(WATERMARK_OFF_BY_ONE)) ++watermark;
  stream.position.acknowledged = std::min(watermark, stream.position.written);
  // The spool has every record, so it can also go back to where the server says it is.
  if (!whole) stream.not_before = now_ + kBatchPause;
  actions_.push_back(RecordWatermarks{key, attempt->points.position.acknowledged,
                                      attempt->lines.position.acknowledged});
  pump(*attempt);
}

void Core::on(const PointsAcknowledged& event) {
  if (heard_in(event.session)) acknowledged(event.key, true, event.watermark);
}

void Core::on(const LinesAcknowledged& event) {
  if (heard_in(event.session)) acknowledged(event.key, false, event.watermark);
}

void Core::on(const OutcomeAcknowledged& event) {
  if (!heard_in(event.session)) return;
  const Attempt* attempt = find(event.key);
  if (attempt != nullptr && attempt->phase == Phase::kEnded && attempt->outcome_said)
    erase(event.key);
}

// ---- Time and shutdown ----

void Core::on(const Tick&) {
  switch (session_state_) {
    case SessionState::kClosed:
      if (!shutdown_at_ && now_ >= reconnect_at_) connect();
      break;
    case SessionState::kHelloSaid:
      if (now_ >= heard_at_ + options_.welcome_timeout) {
        actions_.push_back(CloseSession{session_});
        lose_session(fmt::format("no answer for {} ms", options_.welcome_timeout.count()));
      }
      break;
    case SessionState::kOpen: {
      const milliseconds silence = kSilentHeartbeats * heartbeat_interval_ + kSilentGrace;
      if (now_ >= heard_at_ + silence) {
        actions_.push_back(CloseSession{session_});
        lose_session(fmt::format("nothing heard for {} ms", silence.count()));
      } else if (now_ >= heartbeat_at_) {
        heartbeat();
      }
      break;
    }
  }
  for (std::uint32_t number = 0; number < slots_.size(); ++number) {
    SlotState& slot = slots_[number];
    if (slot.trainer == Trainer::kNone) start_next(number);
    if (slot.killed) continue;
    if (slot.trainer != Trainer::kBusy && slot.trainer != Trainer::kStarting) continue;
    if (now_ < slot.heard + options_.silence_timeout) continue;
    const std::string text =
        fmt::format("the trainer said nothing for {} s and was killed",
                    static_cast<double>(options_.silence_timeout.count()) / 1000.0);
    Attempt* attempt = slot.running ? find(*slot.running) : nullptr;
    if (attempt != nullptr && attempt->stop == Stop::kNone) {
      stop(*attempt, Stop::kSilence, text);
    } else {
      slot.killed = true;
      actions_.push_back(KillTrainer{number});
    }
  }
  for (auto& [key, attempt] : attempts_) {
    if (attempt.timeout_at && now_ >= *attempt.timeout_at) {
      stop(attempt, Stop::kTimeout,
           fmt::format("it ran longer than its timeout of {} s",
                       static_cast<double>(attempt.offer.timeout.count()) / 1000.0));
    }
    if (attempt.kill_at && now_ >= *attempt.kill_at) {
      attempt.kill_at.reset();
      slots_[attempt.offer.slot].killed = true;
      log(LogLevel::kWarning,
          fmt::format("attempt {}: the trainer did not stop when asked and is killed",
                      to_string(key)));
      actions_.push_back(KillTrainer{attempt.offer.slot});
    }
    if (attempt.phase == Phase::kFetching) fetch(attempt);
    pump(attempt);
  }
}

void Core::on(const ShutdownRequested&) {
  if (shutdown_at_) return;
  shutdown_at_ = now_ + options_.shutdown_timeout;
  log(LogLevel::kInfo, "shutting down: running attempts keep a resume state and are given back");
  // Said first: else what is given back below would be offered to this worker again.
  if (session_state_ == SessionState::kOpen) actions_.push_back(SendStopping{});
  std::vector<AttemptKey> keys;
  for (const auto& [key, attempt] : attempts_) keys.push_back(key);
  for (const AttemptKey& key : keys) {
    Attempt& attempt = attempts_.at(key);
    switch (attempt.phase) {
      case Phase::kPersisting:
      case Phase::kFetching:
      case Phase::kReady:
        end(attempt, preempted("the worker was shut down before it started"));
        break;
      case Phase::kTraining:
        stop(attempt, Stop::kPreempt, "the worker was shut down");
        break;
      case Phase::kStoring:
      case Phase::kEnded:
        break;
    }
  }
}

void Core::check_shutdown() {
  if (!shutdown_at_ || exited_) return;
  bool done = true;
  for (const auto& [key, attempt] : attempts_) {
    // Without a server, what is durable waits for the next process of this worker.
    const bool durable =
        attempt.phase == Phase::kEnded && attempt.outcome_durable && !attempt.storing;
    if (!durable || session_state_ != SessionState::kClosed) done = false;
  }
  if (!done && now_ < *shutdown_at_) return;
  if (!done)
    log(LogLevel::kWarning,
        "time is up: what is not said yet is said by the next start of this worker");
  exited_ = true;
  actions_.push_back(Exit{});
}

Core::Attempt* Core::find(const AttemptKey& key) {
  const auto it = attempts_.find(key);
  return it == attempts_.end() ? nullptr : &it->second;
}

void Core::log(LogLevel level, std::string text) {
  actions_.push_back(LogText{level, std::move(text)});
}

}  // namespace bitrung::agent
