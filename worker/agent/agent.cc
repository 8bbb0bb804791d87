#include "worker/agent/agent.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <boost/asio/post.hpp>

#include "db/base/status.h"
#include "db/base/wall_clock.h"
#include "worker/agent/trainer_protocol.h"

namespace bitrung::agent {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

// Points that a power loss may take are those of the last second; the training itself is back to
// its last checkpoint.
constexpr milliseconds kSyncInterval{1000};

absl::Status sync_all(const std::vector<FileDescriptor>& files) {
  for (const FileDescriptor& file : files) {
    if (::fdatasync(file.get()) != 0) return errno_status("sync", "the spool", errno);
  }
  return absl::OkStatus();
}

absl::StatusOr<Digest> put_no_op_model(const StateDirectory& state, db::ArtifactStore& cache) {
  const std::filesystem::path path = state.path() / "no-op.safetensors";
  BITRUNG_RETURN_IF_ERROR(write_file_durably(path, no_op_model(), 0600));
  BITRUNG_ASSIGN_OR_RETURN(const db::ArtifactStore::Stored stored, cache.put_file(path));
  return stored.sha256;
}

CoreOptions core_options(const AgentOptions& options) {
  CoreOptions core;
  core.slots = static_cast<std::uint32_t>(options.layout.slots.size());
  core.shared_cores = options.layout.shared_cores;
  core.silence_timeout = options.silence_timeout;
  core.random = [engine = std::minstd_rand(std::random_device{}())]() mutable {
    return std::uniform_real_distribution<double>(0.0, 1.0)(engine);
  };
  return core;
}

}  // namespace

void Agent::Pins::add(const AttemptKey& key, const Digest& artifact) {
  const std::lock_guard lock(mutex_);
  pins_[key].insert(artifact);
}

void Agent::Pins::remove(const AttemptKey& key) {
  const std::lock_guard lock(mutex_);
  pins_.erase(key);
}

bool Agent::Pins::has(const Digest& artifact) const {
  const std::lock_guard lock(mutex_);
  for (const auto& [key, artifacts] : pins_) {
    if (artifacts.contains(artifact)) return true;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<Agent>> Agent::create(asio::io_context& io,
                                                     const StateDirectory& state,
                                                     AgentOptions options) {
  const SpoolLayout layout{state.path()};
  BITRUNG_ASSIGN_OR_RETURN(Journal journal, Journal::open(layout.journal()));
  BITRUNG_ASSIGN_OR_RETURN(std::vector<RecoveredAttempt> recovered, recover(layout, journal));
  std::map<AttemptKey, AttemptSpool> spools;
  for (const RecoveredAttempt& attempt : recovered) {
    if (!std::filesystem::exists(layout.spool(attempt.offer.key))) continue;
    BITRUNG_ASSIGN_OR_RETURN(AttemptSpool spool,
                             AttemptSpool::open(layout.spool(attempt.offer.key)));
    spools.emplace(attempt.offer.key, std::move(spool));
  }
  BITRUNG_ASSIGN_OR_RETURN(db::ArtifactStore cache,
                           db::ArtifactStore::open(state.path() / "cache"));
  std::optional<Digest> no_op_model;
  if (options.no_op) {
    BITRUNG_ASSIGN_OR_RETURN(no_op_model, put_no_op_model(state, cache));
  }
  auto agent = std::unique_ptr<Agent>(new Agent(io, state, std::move(options), std::move(cache),
                                                std::move(journal), std::move(recovered),
                                                std::move(spools)));
  if (no_op_model) agent->no_op_trace_.open(state.path() / "no-op.trace");
  agent->no_op_model_ = no_op_model;
  return agent;
}

Agent::Agent(asio::io_context& io, const StateDirectory& state, AgentOptions options,
             db::ArtifactStore cache, Journal journal, std::vector<RecoveredAttempt> recovered,
             std::map<AttemptKey, AttemptSpool> spools)
    : io_(io),
      state_(state),
      options_(std::move(options)),
      layout_{state.path()},
      identity_{state.worker_id(), options_.name, options_.version, options_.numerics,
                options_.layout},
      cache_(std::move(cache)),
      core_(core_options(options_)),
      recovered_(std::move(recovered)),
      session_channel_(make_channel(options_.server, options_.credentials, true)),
      stub_(v1::WorkerService::NewStub(session_channel_)),
      transfers_(make_channel(options_.server, options_.credentials, false), cache_),
      journal_(std::move(journal)),
      spools_(std::move(spools)),
      trainers_(options_.layout.slots.size()),
      datasets_(options_.data_directories, state.path() / "datasets.json", options_.locate),
      wake_up_(io),
      sync_timer_(io),
      scan_timer_(io) {
  for (const RecoveredAttempt& attempt : recovered_) {
    if (const auto* succeeded =
            attempt.outcome ? std::get_if<Succeeded>(&*attempt.outcome) : nullptr) {
      pins_.add(attempt.offer.key, succeeded->artifact);
    }
  }
}

Agent::~Agent() {
  transfers_.cancel();
  datasets_.cancel();
  for (asio::thread_pool* pool : {&disk_, &network_, &reader_}) pool->join();
}

void Agent::start() {
  scan_datasets();
  step(Begin{std::exchange(recovered_, {}), state_.term()});
}

void Agent::shut_down() {
  step(ShutdownRequested{});
}

// ---- Events in, actions out ----

void Agent::step(Event event) {
  if (over_) return;
  events_.push_back(std::move(event));
  if (!stepping_) step_all({});
}

void Agent::step_all(std::vector<Event> events) {
  if (over_) return;
  events_.insert(events_.end(), std::make_move_iterator(events.begin()),
                 std::make_move_iterator(events.end()));
  if (stepping_) return;
  stepping_ = true;
  while (!events_.empty() && !over_) {
    const Event next = std::move(events_.front());
    events_.pop_front();
    for (const Action& action : core_.handle(next, std::chrono::steady_clock::now())) {
      if (spdlog::should_log(spdlog::level::debug) && !std::holds_alternative<LogText>(action)) {
        spdlog::debug("{}", describe(action));
      }
      std::visit([this](const auto& a) { perform(a); }, action);
    }
  }
  stepping_ = false;
  if (!notes_.empty() && !writing_notes_) write_notes();
  arm_wake_up();
}

void Agent::arm_wake_up() {
  const std::optional<Time> at = over_ ? std::nullopt : core_.wake_at();
  if (!at) {
    wake_up_.cancel();
    return;
  }
  wake_up_.expires_at(*at);
  wake_up_.async_wait([this](const error_code& error) {
    if (!error) step(Tick{});
  });
}

template <typename Work>
void Agent::run_on(asio::thread_pool& pool, Work work) {
  asio::post(pool, [this, work = std::move(work), guard = asio::make_work_guard(io_)]() mutable {
    asio::post(io_, [this, event = work()]() mutable { step(std::move(event)); });
  });
}

// ---- Session ----

void Agent::send(v1::OpenSessionRequest request) {
  if (session_) session_->send(std::move(request));
}

void Agent::perform(const OpenSession& action) {
  const SessionId id = action.session;
  session_ = std::make_unique<Session>(
      io_, *stub_,
      Session::Handlers{
          [this, id](const v1::OpenSessionResponse& response) { received(id, response); },
          [this, id](std::string reason) {
            step(SessionClosed{id, std::move(reason)});
          }});
  send(to_request(identity_, action));
}

void Agent::received(SessionId session, const v1::OpenSessionResponse& response) {
  if (response.welcome().takes_batches() && session_) session_->send_batches();
  std::vector<Event> events;
  const auto take = [&](const v1::OpenSessionResponse& statement) {
    absl::StatusOr<Event> event = to_event(session, statement);
    if (event.ok()) {
      events.push_back(*std::move(event));
    } else {
      spdlog::error("a statement of the server is ignored: {}", message(event.status()));
    }
  };
  if (response.has_batch()) {
    for (const v1::OpenSessionResponse& statement : response.batch().statements()) take(statement);
  } else {
    take(response);
  }
  step_all(std::move(events));
}

void Agent::perform(const CloseSession&) {
  session_.reset();
}
void Agent::perform(const SendHeartbeat& action) {
  send(to_request(action));
}
void Agent::perform(const SendStarted& action) {
  if (options_.no_op && options_.no_op->points == 0) {
    no_op_started_.insert_or_assign(action.key, action);  // It ends at once: said with its outcome.
    return;
  }
  send(to_request(action));
}
void Agent::perform(const SendCheckpoint& action) {
  send(to_request(action));
}
void Agent::perform(const SendOutcome& action) {
  if (const auto started = no_op_started_.extract(action.key); !started.empty())
    send(to_request(started.mapped()));
  send(to_request(action));
}
void Agent::perform(const SendDatasets& action) {
  send(to_request(action));
}

void Agent::perform(const SendStopping& action) {
  send(to_request(action));
}

void Agent::perform(const SendPoints& action) {
  const auto spool = spools_.find(action.key);
  if (spool == spools_.end()) return;
  const absl::StatusOr<std::vector<Point>> points =
      spool->second.read_points(action.first, action.last);
  if (!points.ok())
    return step(SpoolFailed{action.key, std::string(message(points.status())), action.first - 1,
                            spool->second.lines().written});
  send(to_request(action, *points));
}

void Agent::perform(const SendLines& action) {
  const auto spool = spools_.find(action.key);
  if (spool == spools_.end()) return;
  const absl::StatusOr<std::vector<LogLine>> lines =
      spool->second.read_lines(action.first, action.last);
  if (!lines.ok())
    return step(SpoolFailed{action.key, std::string(message(lines.status())),
                            spool->second.points().written, action.first - 1});
  send(to_request(action, *lines));
}

// ---- Files ----

void Agent::perform(const PersistTerm& action) {
  asio::post(disk_, [this, term = action.term] {
    if (const absl::Status status = state_.persist_term(term); !status.ok()) {
      spdlog::error("the server's term cannot be remembered: {}", message(status));
    }
  });
}

void Agent::perform(const PersistOffer& action) {
  const std::filesystem::path directory =
      options_.no_op ? std::filesystem::path() : layout_.work(action.offer.key);
  notes_.push_back({Journal::offered(action.offer), {}, directory});
}

absl::Status Agent::prepare(const Note& note) {
  if (note.note.kind == Journal::Kind::kOffer && !note.directory.empty())
    return make_directories(note.directory, 0700);
  return sync_all(note.files);
}

void Agent::write_notes() {
  writing_notes_ = true;
  auto notes = std::make_shared<std::vector<Note>>(std::exchange(notes_, {}));
  asio::post(disk_, [this, notes, guard = asio::make_work_guard(io_)] {
    auto statuses = std::make_shared<std::vector<absl::Status>>();
    std::vector<Journal::Note> ready;
    for (Note& note : *notes) {
      statuses->push_back(prepare(note));
      if (statuses->back().ok()) ready.push_back(note.note);
    }
    const absl::Status written = journal_.write(ready);
    for (std::size_t i = 0; i < notes->size(); ++i) {
      absl::Status& status = (*statuses)[i];
      if (status.ok()) status = written;
      const Journal::Note& note = (*notes)[i].note;
      if (note.kind != Journal::Kind::kRemoved) continue;
      // Here, because a copy that the disk thread still makes for the attempt pins it too.
      pins_.remove(note.key);
      if (status.ok() && !(*notes)[i].directory.empty()) status = remove_attempt(layout_, note.key);
    }
    asio::post(io_, [this, notes, statuses] {
      writing_notes_ = false;
      if (over_) {  // What is still to be removed.
        if (!notes_.empty()) write_notes();
        return;
      }
      std::vector<Event> events;
      for (std::size_t i = 0; i < notes->size(); ++i) {
        const Journal::Note& note = (*notes)[i].note;
        const absl::Status& status = (*statuses)[i];
        switch (note.kind) {
          case Journal::Kind::kOffer:
            if (status.ok()) {
              sync_soon(note.key);
              events.push_back(OfferPersisted{note.key});
            } else {
              events.push_back(SpoolFailed{note.key, std::string(message(status)), 0, 0});
            }
            break;
          case Journal::Kind::kOutcome:
            if (status.ok()) {
              events.push_back(OutcomePersisted{note.key});
            } else {
              events.push_back(OutcomeNotPersisted{note.key, std::string(message(status))});
            }
            break;
          case Journal::Kind::kRemoved:
            if (!status.ok()) {
              spdlog::warn("attempt {} cannot be cleaned up: {}", to_string(note.key),
                           message(status));
            }
            break;
        }
      }
      step_all(std::move(events));
    });
  });
}

absl::StatusOr<AttemptSpool*> Agent::spool_of(const AttemptKey& key) {
  auto spool = spools_.find(key);
  if (spool == spools_.end()) {
    const std::filesystem::path directory = layout_.spool(key);
    BITRUNG_RETURN_IF_ERROR(make_directories(directory, 0700));
    BITRUNG_ASSIGN_OR_RETURN(AttemptSpool opened, AttemptSpool::open(directory));
    spool = spools_.emplace(key, std::move(opened)).first;
  }
  return &spool->second;
}

void Agent::spool_failed(const AttemptKey& key, const absl::Status& status) {
  const auto spool = spools_.find(key);
  const bool is_open = spool != spools_.end();
  step(SpoolFailed{key, std::string(message(status)), is_open ? spool->second.points().written : 0,
                   is_open ? spool->second.lines().written : 0});
}

void Agent::perform(const AppendPoints& action) {
  const absl::StatusOr<AttemptSpool*> spool = spool_of(action.key);
  const absl::Status status = spool.ok() ? (*spool)->append_points(action.points) : spool.status();
  if (!status.ok()) return spool_failed(action.key, status);
  sync_soon(action.key);
}

void Agent::perform(const AppendLine& action) {
  const absl::StatusOr<AttemptSpool*> spool = spool_of(action.key);
  const absl::Status status = spool.ok() ? (*spool)->append_line(action.line) : spool.status();
  if (!status.ok()) return spool_failed(action.key, status);
  sync_soon(action.key);
}

void Agent::perform(const RecordWatermarks& action) {
  const auto spool = spools_.find(action.key);
  if (spool == spools_.end()) return;
  // A watermark that is not written only makes a restarted worker say things twice.
  if (const absl::Status status = spool->second.acknowledge(action.points, action.lines);
      !status.ok()) {
    spdlog::debug("{}", message(status));
  }
}

void Agent::sync_soon(const AttemptKey& key) {
  const bool first = unsynced_.empty();
  unsynced_.insert(key);
  if (!first) return;
  sync_timer_.expires_after(kSyncInterval);
  sync_timer_.async_wait([this](const error_code& error) {
    if (!error) sync_spools();
  });
}

void Agent::sync_spools() {
  asio::post(disk_, [this, guard = asio::make_work_guard(io_)] {
    if (!journal_.has_unsynced_offer()) return;
    if (const absl::Status status = journal_.sync(); !status.ok())
      spdlog::warn("offers would not survive a power cut: {}", message(status));
  });
  for (const AttemptKey& key : std::exchange(unsynced_, {})) {
    const auto spool = spools_.find(key);
    if (spool == spools_.end()) continue;
    absl::StatusOr<std::vector<FileDescriptor>> files = spool->second.duplicates();
    if (!files.ok()) {
      spool_failed(key, files.status());
      continue;
    }
    auto shared = std::make_shared<std::vector<FileDescriptor>>(*std::move(files));
    asio::post(disk_, [this, key, shared, guard = asio::make_work_guard(io_)] {
      const absl::Status status = sync_all(*shared);
      if (status.ok()) return;
      asio::post(io_, [this, key, status] {
        if (spools_.contains(key)) spool_failed(key, status);
      });
    });
  }
}

void Agent::perform(const PersistOutcome& action) {
  Note note{Journal::ended(action.key, action.outcome), {}, {}};
  if (const auto spool = spools_.find(action.key); spool != spools_.end()) {
    absl::StatusOr<std::vector<FileDescriptor>> duplicates = spool->second.duplicates();
    if (!duplicates.ok()) {
      return step(OutcomeNotPersisted{action.key, std::string(message(duplicates.status()))});
    }
    note.files = *std::move(duplicates);
  }
  notes_.push_back(std::move(note));
}

void Agent::perform(const StoreFile& action) {
  if (no_op_model_) {  // The same bytes for all of them.
    pins_.add(action.key, *no_op_model_);
    return step(FileStored{action.key, action.purpose, action.epoch, *no_op_model_});
  }
  auto files = std::make_shared<std::vector<FileDescriptor>>();
  absl::Status status;
  const auto spool = spools_.find(action.key);
  if (action.purpose == FilePurpose::kResume && spool != spools_.end()) {
    absl::StatusOr<std::vector<FileDescriptor>> duplicates = spool->second.duplicates();
    status = duplicates.status();
    if (duplicates.ok()) *files = *std::move(duplicates);
  }
  run_on(disk_, [this, action, files, status]() mutable -> Event {
    if (action.purpose == FilePurpose::kResume) {
      if (status.ok() && journal_.has_unsynced_offer()) status = journal_.sync();
      if (status.ok()) status = sync_all(*files);
      if (status.ok()) status = persist_resume_epoch(layout_, action.key, action.epoch);
      if (!status.ok())
        return StoreFailed{action.key, action.purpose, action.epoch, std::string(message(status))};
    }
    const absl::StatusOr<db::ArtifactStore::Stored> stored = cache_.put_file(action.path);
    if (!stored.ok()) {
      return StoreFailed{action.key, action.purpose, action.epoch,
                         std::string(message(stored.status()))};
    }
    pins_.add(action.key, stored->sha256);
    shrink_cache();
    return FileStored{action.key, action.purpose, action.epoch, stored->sha256};
  });
}

void Agent::perform(const FetchInputs& action) {
  if (no_op_model_ && std::ranges::all_of(action.artifacts, [this](const Digest& artifact) {
        return artifact == *no_op_model_;
      })) {  // What all of them make, and never out of the cache.
    return step(InputsFetched{action.key, {{*no_op_model_, cache_.path(*no_op_model_).string()}}});
  }
  for (const Digest& artifact : action.artifacts) pins_.add(action.key, artifact);
  run_on(network_, [this, action]() -> Event {
    InputsFetched fetched{action.key, {}};
    for (const Digest& artifact : action.artifacts) {
      if (auto problem = transfers_.fetch(artifact)) {
        return FetchFailed{action.key, artifact, problem->kind, std::move(problem->message)};
      }
      fetched.paths.emplace(artifact, cache_.path(artifact).string());
    }
    asio::post(disk_, [this] { shrink_cache(); });
    return fetched;
  });
}

void Agent::perform(const Upload& action) {
  if (no_op_model_uploaded_) return step(Uploaded{action.key, action.artifact});
  run_on(network_, [this, action]() -> Event {
    if (auto problem = transfers_.upload(action.artifact)) {
      return UploadFailed{action.key, action.artifact, problem->permanent,
                          std::move(problem->message)};
    }
    if (options_.no_op) asio::post(io_, [this] { no_op_model_uploaded_ = true; });
    return Uploaded{action.key, action.artifact};
  });
}

void Agent::shrink_cache() {
  const auto keep = [](const Digest& artifact, void* pins) {
    return static_cast<const Pins*>(pins)->has(artifact);
  };
  const absl::StatusOr<std::uint64_t> removed =
      cache_.shrink_to(options_.cache_bytes_max, keep, &pins_);
  if (!removed.ok())
    spdlog::warn("the artifact cache cannot be trimmed: {}", message(removed.status()));
}

void Agent::perform(const DeleteAttempt& action) {
  const bool has_files = spools_.erase(action.key) > 0 || !options_.no_op;
  unsynced_.erase(action.key);
  notes_.push_back({Journal::removed(action.key),
                    {},
                    has_files ? layout_.work(action.key) : std::filesystem::path()});
}

void Agent::scan_datasets() {
  asio::post(reader_, [this, guard = asio::make_work_guard(io_)] {
    DatasetScan scan = datasets_.scan();
    asio::post(io_, [this, scan = std::move(scan)]() mutable {
      if (over_) return;
      for (std::string& problem : scan.problems) {
        if (dataset_problems_.insert(problem).second) spdlog::info("{}", problem);
      }
      step(DatasetsFound{std::move(scan.datasets)});
      scan_timer_.expires_after(options_.dataset_scan_interval);
      scan_timer_.async_wait([this](const error_code& error) {
        if (!error) scan_datasets();
      });
    });
  });
}

// ---- Trainers ----

void Agent::do_nothing(const Offer& offer) {
  no_op_trace_
      << number(offer.key.job) << ' '
      << std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count()
      << '\n';
  const auto say = [&](TrainingEvent event) {
    step(TrainerSaid{offer.slot, to_string(offer.key), std::move(event)});
  };
  say(TrainingStarted{});
  const std::uint64_t points = options_.no_op->points;
  for (std::uint64_t first = 1; first <= points; first += kPointsPerBatchMax) {
    say(PointsMeasured{
        no_op_points(first, std::min<std::uint64_t>(kPointsPerBatchMax, points - first + 1))});
  }
  TrainingSucceeded success;
  success.result.duration_seconds = 1e-3;
  success.result.images_per_second = 1;
  say(std::move(success));
}

void Agent::perform(const StartTrainer& action) {
  if (options_.no_op) return step(TrainerReady{action.slot});
  const Slot& slot = options_.layout.slots[action.slot];
  const TrainerLaunch launch{
      options_.trainer,
      {"--device", slot.device.device, "--threads", std::to_string(slot.threads), "--cache-dir",
       (state_.path() / "datasets").string()},
      slot.cores};
  const std::uint32_t number = action.slot;
  TrainerProcess::Handlers handlers{
      [this, number](std::string_view line) { on_trainer_event(number, line); },
      [this, number](std::string_view line) { on_trainer_line(number, line); },
      [this, number](std::string description, bool out_of_memory) {
        trainers_[number].reset();
        step(TrainerExited{number, std::move(description), out_of_memory});
      }};
  auto trainer = TrainerProcess::spawn(io_, launch, std::move(handlers));
  if (!trainer.ok()) {
    return step(TrainerExited{
        number, fmt::format("could not be started: {}", message(trainer.status())), false});
  }
  trainers_[number] = *std::move(trainer);
  spdlog::debug("trainer of slot {} is process {}", number, trainers_[number]->pid());
}

void Agent::on_trainer_event(std::uint32_t slot, std::string_view line) {
  absl::StatusOr<TrainerEvent> event = parse_trainer_event(line);
  if (!event.ok()) {
    spdlog::error("trainer of slot {} wrote an event that cannot be read: {}", slot,
                  message(event.status()));
    return;
  }
  if (std::holds_alternative<ReadyEvent>(*event)) return step(TrainerReady{slot});
  KeyedEvent& keyed = std::get<KeyedEvent>(*event);
  step(TrainerSaid{slot, std::move(keyed.key), std::move(keyed.event)});
}

void Agent::on_trainer_line(std::uint32_t slot, std::string_view line) {
  const std::int64_t now_ms = wall_clock_ms();
  for (std::string& piece : split_line(line)) step(TrainerLine{slot, {now_ms, std::move(piece)}});
}

void Agent::perform(const KillTrainer& action) {
  if (trainers_[action.slot]) trainers_[action.slot]->kill();
}

void Agent::perform(const SendTrain& action) {
  if (options_.no_op) return do_nothing(action.offer);
  if (!trainers_[action.slot]) return;
  TrainerProcess& trainer = *trainers_[action.slot];
  if (!action.cores.empty() && !options_.layout.core_numbers.empty()) {
    std::vector<int> cores;
    for (const std::uint32_t core : action.cores) {
      cores.push_back(options_.layout.core_numbers[core]);
    }
    // It is slower elsewhere, not wrong.
    if (const absl::Status bound = trainer.bind(cores); !bound.ok()) {
      spdlog::warn("the trainer of slot {} is not bound to cores {}: {}", action.slot,
                   fmt::join(cores, ","), message(bound));
    }
  }
  trainer.write(train_command(action.offer, layout_.work(action.offer.key).string(),
                              action.data_dir, action.paths));
}

void Agent::perform(const SendCancel& action) {
  if (trainers_[action.slot]) trainers_[action.slot]->write(cancel_command(action.key));
}

void Agent::perform(const SendPreempt& action) {
  if (trainers_[action.slot]) trainers_[action.slot]->write(preempt_command(action.key));
}

// ---- The rest ----

void Agent::perform(const LogText& action) {
  switch (action.level) {
    case LogLevel::kInfo:
      spdlog::info("{}", action.text);
      break;
    case LogLevel::kWarning:
      spdlog::warn("{}", action.text);
      break;
    case LogLevel::kError:
      spdlog::error("{}", action.text);
      break;
  }
}

void Agent::perform(const Exit&) {
  over_ = true;
  transfers_.cancel();
  datasets_.cancel();
  // Not now: the event that led here may come from a trainer or a session, whose handler is still
  // running.
  asio::post(io_, [this] {
    if (session_) session_->finish();
    for (auto& trainer : trainers_) trainer.reset();
    wake_up_.cancel();
    sync_timer_.cancel();
    scan_timer_.cancel();
    if (exited_) exited_();
  });
}

}  // namespace bitrung::agent
