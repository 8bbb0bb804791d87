#include "tests/sim/worker_host.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "tests/sim/simulation.h"
#include "worker/agent/spool.h"

namespace bitrung::sim {
namespace {

using agent::milliseconds;

constexpr Micros kCallTimeout = 10 * kSecond;
// A trainer stops within 3 s when asked. A deaf one is killed after 30 s, by a clock that may be 5
// % slow, and gone a moment later.
constexpr Micros kStopTime = 5 * kSecond;
constexpr Micros kKillTime = 35 * kSecond;

Digest digest_from(std::uint64_t number) {
  Digest digest;
  for (std::size_t i = 0; i < digest.bytes.size(); i += 8) {
    number = mix(number);
    for (std::size_t byte = 0; byte < 8; ++byte) {
      digest.bytes[i + byte] = static_cast<std::uint8_t>(number >> (8 * byte));
    }
  }
  return digest;
}

enum Failure : std::size_t {
  kCrash,
  kOutOfMemory,
  kHang,
  kUserError,
  kDiverged,
  kDeviceFault,
  kFailures
};

}  // namespace

WorkerHost::WorkerHost(Simulation& sim, std::size_t index, std::uint32_t slots, bool shares_cores,
                       HostClock clock)
    : sim_(sim),
      index_(index),
      slots_(slots),
      shared_cores_(shares_cores ? slots : 0),
      clock_(clock),
      id_(fmt::format("w{}", index)),
      standstill_(sim.loop()) {
  own_datasets_ = {{"common", digest_from(1), "/data"},
                   {"split", digest_from(2 + index % 2), "/data"}};
}

WorkerHost::~WorkerHost() = default;

agent::Time WorkerHost::local_now() const {
  return agent::Time(clock_.local(sim_.loop().now()));
}

bool WorkerHost::is_idle() const {
  return is_up() && spool_.empty() && std::ranges::none_of(trainers_, [](const Trainer& trainer) {
           return trainer.state == Trainer::State::kTraining;
         });
}

std::string WorkerHost::describe() const {
  std::string text = fmt::format("worker {} {}", id_, is_up() ? "is up" : "is down");
  for (const auto& [key, entry] : spool_) {
    text += fmt::format("; spool {} points {}/{} lines {}/{} {}", agent::to_string(key),
                        entry.points_acknowledged, entry.points.size(), entry.lines_acknowledged,
                        entry.lines.size(),
                        entry.outcome ? agent::describe(*entry.outcome) : "no outcome");
  }
  for (const Trainer& trainer : trainers_) {
    text += fmt::format("; trainer {}", static_cast<int>(trainer.state));
  }
  return text;
}

// ---- The process ----

void WorkerHost::start() {
  if (is_up()) return;
  ++run_;
  sim_.note("worker starts", static_cast<std::int64_t>(index_));
  agent::CoreOptions options;
  options.slots = slots_;
  options.shared_cores = shared_cores_;
  options.warm_slots_max = 2;
  options.silence_timeout = sim_.silence_timeout;
  options.random = [this] { return static_cast<double>(sim_.random().below(1'000)) / 1'000.0; };
  core_ = std::make_unique<agent::Core>(std::move(options));
  trainers_.assign(slots_, Trainer{});
  events_.clear();
  stepping_ = false;
  alarm_.reset();
  open_spools_.clear();
  unsynced_.clear();
  connection_ = nullptr;
  disk_free_ = 0;
  agent::Begin begin;
  begin.term_seen = term_;
  for (auto& [key, entry] : spool_) {
    open_spools_.insert(key);
    begin.recovered.push_back({entry.offer,
                               entry.outcome,
                               {entry.points.size(), entry.points_acknowledged},
                               {entry.lines.size(), entry.lines_acknowledged},
                               entry.resume});
  }
  step(std::move(begin));
  in_process(sim_.random().between(0, kSecond),
             [this] { step(agent::DatasetsFound{own_datasets_}); });
}

void WorkerHost::kill(bool power_loss, bool disk_loss) {
  if (!is_up()) return;
  sim_.note("worker dies", static_cast<std::int64_t>(index_), power_loss, disk_loss);
  ++run_;
  core_.reset();
  standstill_.forget();
  for (Trainer& trainer : trainers_) training_over(trainer);
  trainers_.clear();
  if (connection_ != nullptr) sim_.network().break_off(*connection_, "worker is gone");
  connection_ = nullptr;
  Random& random = sim_.random();
  if (power_loss) {
    std::erase_if(spool_, [&random](const auto& each) {
      return !each.second.offer_synced && random.permille(500);
    });
    for (auto& [key, entry] : spool_) {
      entry.offer_synced = true;
      const auto keep = [&random](std::size_t synced, std::size_t size) {
        return static_cast<std::size_t>(
            random.between(static_cast<std::int64_t>(synced), static_cast<std::int64_t>(size)));
      };
      entry.points.resize(keep(entry.points_synced, entry.points.size()));
      entry.lines.resize(keep(entry.lines_synced, entry.lines.size()));
      entry.points_acknowledged =
          std::min<std::uint64_t>(entry.points_acknowledged, entry.points.size());
      entry.lines_acknowledged =
          std::min<std::uint64_t>(entry.lines_acknowledged, entry.lines.size());
    }
  }
  if (disk_loss) {
    spool_.clear();
    cache_.clear();
    term_ = 0;
    id_ = fmt::format("w{}-{}", index_, ++lives_);
  }
  const Micros down = random.one_in(4) ? random.between(0, 2 * sim_.settings.lease.count() * kMilli)
                                       : random.between(100 * kMilli, 5 * kSecond);
  sim_.loop().after(sim_.calm() ? kSecond : down, [this] { start(); });
}

void WorkerHost::pause(Micros how_long) {
  if (!is_up()) return;
  sim_.note("worker pauses", static_cast<std::int64_t>(index_), how_long / kMilli);
  standstill_.extend(sim_.loop().now() + how_long);
  sim_.checker().paused(id_, how_long);
}

void WorkerHost::in_process(Micros delay, std::function<void()> what) {
  sim_.loop().after(delay, [this, run = run_, what = std::move(what)] {
    if (run != run_) return;
    if (standstill_.holds([this, run, what] {
          if (run == run_) what();
        })) {
      return;
    }
    what();
  });
}

void WorkerHost::on_disk(std::function<void()> what) {
  Random& random = sim_.random();
  const Micros took = random.permille(sim_.faults().slow_disk_permille)
                          ? random.between(100 * kMilli, 5 * kSecond)
                          : random.between(0, 5 * kMilli);
  disk_free_ = std::max(disk_free_, sim_.loop().now()) + took;
  in_process(disk_free_ - sim_.loop().now(), std::move(what));
}

void WorkerHost::step(agent::Event event) {
  if (!is_up()) return;
  events_.push_back(std::move(event));
  if (std::exchange(stepping_, true)) return;
  while (!events_.empty()) {
    const agent::Event next = std::move(events_.front());
    events_.pop_front();
    for (const agent::Action& action : core_->handle(next, local_now())) {
      if (sim_.prints()) sim_.print(fmt::format("  {} {}", id_, agent::describe(action)));
      sim_.note("worker", static_cast<std::int64_t>(index_),
                static_cast<std::int64_t>(action.index()));
      std::visit([this](const auto& each) { perform(each); }, action);
    }
  }
  stepping_ = false;
  arm();
}

void WorkerHost::arm() {
  const std::optional<agent::Time> wake = core_->wake_at();
  if (wake == alarm_) return;
  alarm_ = wake;
  const std::uint64_t alarm = ++alarms_;
  if (!wake) return;
  const Micros when =
      clock_.when(std::chrono::duration_cast<milliseconds>(wake->time_since_epoch()));
  in_process(std::max<Micros>(when - sim_.loop().now(), 1), [this, alarm] {
    if (alarm != alarms_) return;
    alarm_.reset();
    step(agent::Tick{});
  });
}

void WorkerHost::shut_down() {
  if (!is_up()) return;
  sim_.note("worker shuts down", static_cast<std::int64_t>(index_));
  in_process(0, [this] { step(agent::ShutdownRequested{}); });
}

void WorkerHost::find_datasets(std::vector<agent::DatasetEntry> datasets) {
  if (is_up()) in_process(0, [this, datasets] { step(agent::DatasetsFound{datasets}); });
}

void WorkerHost::restore_datasets() {
  find_datasets(own_datasets_);
}

void WorkerHost::perform(const agent::LogText&) {}

void WorkerHost::perform(const agent::Exit&) {
  in_process(0, [this] { kill(false, false); });
}

// ---- Session ----

void WorkerHost::perform(const agent::OpenSession& action) {
  if (connection_ != nullptr) sim_.network().hang_up(*connection_);
  connection_ = &sim_.network().connect(index_, action.session);
  if (!sim_.server().is_up()) {
    // Refused, or not even that.
    return sim_.network().break_off(*connection_, "server is down");
  }
  say(Hello{id_, slots_, shared_cores_, action});
}

void WorkerHost::perform(const agent::CloseSession&) {
  if (connection_ != nullptr) sim_.network().hang_up(*connection_);
  connection_ = nullptr;
}

void WorkerHost::say(Statement statement) {
  if (connection_ != nullptr) sim_.network().to_server(*connection_, std::move(statement));
}

void WorkerHost::perform(const agent::SendHeartbeat& action) {
  say(action);
}
void WorkerHost::perform(const agent::SendStarted& action) {
  say(action);
}
void WorkerHost::perform(const agent::SendCheckpoint& action) {
  say(action);
}
void WorkerHost::perform(const agent::SendDatasets& action) {
  say(action);
}
void WorkerHost::perform(const agent::SendStopping& action) {
  say(action);
}

void WorkerHost::perform(const agent::SendOutcome& action) {
  const auto entry = spool_.find(action.key);
  sim_.checker().says(action, entry != spool_.end() && entry->second.outcome.has_value());
  say(action);
}

void WorkerHost::perform(const agent::SendPoints& action) {
  if (!open_spools_.contains(action.key)) return;
  const std::vector<agent::Point>& points = spool_.at(action.key).points;
  PointsStatement statement{action.key, action.first, {}};
  const auto end = std::min<std::uint64_t>(action.last, points.size());
  for (std::uint64_t i = action.first; i <= end; ++i) statement.points.push_back(points[i - 1]);
  sim_.checker().says(statement, false);
  say(std::move(statement));
}

void WorkerHost::perform(const agent::SendLines& action) {
  if (!open_spools_.contains(action.key)) return;
  const std::vector<agent::LogLine>& lines = spool_.at(action.key).lines;
  LinesStatement statement{action.key, action.first, {}};
  const auto end = std::min<std::uint64_t>(action.last, lines.size());
  for (std::uint64_t i = action.first; i <= end; ++i) statement.lines.push_back(lines[i - 1]);
  sim_.checker().says(statement, false);
  say(std::move(statement));
}

void WorkerHost::receive(Connection& connection, const engine::ToWorker& message) {
  if (!is_up()) return;
  if (standstill_.holds([this, &connection, message] {
        if (!connection.broken) receive(connection, message);
      })) {
    return;
  }
  const SessionId session = connection.worker_session;
  sim_.note("worker hears", static_cast<std::int64_t>(index_),
            static_cast<std::int64_t>(message.index()));
  const auto fenced = [this](const core::AttemptKey& key) {
    sim_.checker().fenced(id_of(key), stopped_by(to_agent(key)));
  };
  std::visit(
      Overload{
          [&](const core::Welcome& welcome) {
            agent::WelcomeReceived event{session,
                                         sim_.disk().tables().term,
                                         sim_.settings.lease,
                                         sim_.heartbeat_interval,
                                         {}};
            for (const core::AttemptKey& key : welcome.fenced) {
              event.fenced.push_back(to_agent(key));
              fenced(key);
            }
            step(std::move(event));
          },
          [&](const engine::FullOffer& full) {
            agent::OfferReceived event{session, {}};
            agent::Offer& offer = event.offer;
            offer.key = to_agent(full.offer.key);
            offer.slot = full.offer.slot;
            offer.threads = full.offer.threads;
            offer.display_name = full.display_name;
            offer.spec_json = full.spec_json;
            offer.dataset = agent::dataset_of(full.spec_json);
            for (const auto& [role, artifact] : full.offer.inputs) {
              offer.inputs.push_back({role, artifact});
            }
            offer.resume = full.offer.resume;
            offer.dataset_sha256 = full.offer.dataset;
            offer.timeout = milliseconds(static_cast<std::int64_t>(full.timeout_seconds * 1'000));
            step(std::move(event));
          },
          [&](const core::Cancel& cancel) {
            step(agent::CancelReceived{session, to_agent(cancel.key)});
          },
          [&](const core::Fence& fence) {
            fenced(fence.key);
            step(agent::FenceReceived{session, to_agent(fence.key)});
          },
          [&](const core::HeartbeatReply& reply) {
            step(agent::HeartbeatReplied{session, reply.sequence});
          },
          [&](const core::OutcomeReply& reply) {
            step(agent::OutcomeAcknowledged{session, to_agent(reply.key)});
          },
          [&](const core::CloseSession& close) {
            if (connection_ == &connection) connection_ = nullptr;
            step(agent::SessionClosed{session, close.reason});
          },
          [&](const engine::PointsRecorded& recorded) {
            step(agent::PointsAcknowledged{session, to_agent(recorded.key), recorded.watermark});
          },
          [&](const engine::LogsRecorded& recorded) {
            step(agent::LinesAcknowledged{session, to_agent(recorded.key), recorded.watermark});
          },
      },
      message);
}

void WorkerHost::closed(Connection& connection, const char* why) {
  if (!is_up()) return;
  if (standstill_.holds([this, &connection, why] { closed(connection, why); })) return;
  if (connection_ == &connection) connection_ = nullptr;
  step(agent::SessionClosed{connection.worker_session, why});
}

// ---- Spool ----

bool WorkerHost::spool_fails() {
  return sim_.random().permille(sim_.faults().spool_failure_permille);
}

void WorkerHost::perform(const agent::PersistTerm& action) {
  on_disk([this, term = action.term] { term_ = term; });
}

void WorkerHost::perform(const agent::PersistOffer& action) {
  on_disk([this, offer = action.offer] {
    const agent::AttemptKey key = offer.key;
    if (spool_fails()) {
      return in_process(0, [this, key] {
        step(agent::SpoolFailed{key, "no space left on device", 0, 0});
      });
    }
    spool_[key].offer = offer;
    in_process(sim_.random().between(0, kMilli), [this, key] {
      open_spools_.insert(key);
      sync_soon(key);
      step(agent::OfferPersisted{key});
    });
  });
}

void WorkerHost::sync_soon(const agent::AttemptKey& key) {
  const bool first = unsynced_.empty();
  unsynced_.insert(key);
  if (!first) return;
  in_process(kSecond, [this] {
    on_disk([this] { sync_journal(); });
    for (const agent::AttemptKey& each : std::exchange(unsynced_, {})) {
      on_disk([this, each] {
        const auto entry = spool_.find(each);
        if (entry == spool_.end()) return;
        entry->second.points_synced = entry->second.points.size();
        entry->second.lines_synced = entry->second.lines.size();
      });
    }
  });
}

// One file for all of them.
void WorkerHost::sync_journal() {
  for (auto& [key, entry] : spool_) entry.offer_synced = true;
}

void WorkerHost::perform(const agent::AppendPoints& action) {
  if (!open_spools_.contains(action.key)) return;
  std::vector<agent::Point>& points = spool_.at(action.key).points;
  points.insert(points.end(), action.points.begin(), action.points.end());
  sync_soon(action.key);
}

void WorkerHost::perform(const agent::AppendLine& action) {
  if (!open_spools_.contains(action.key)) return;
  spool_.at(action.key).lines.push_back(action.line);
  sync_soon(action.key);
}

void WorkerHost::perform(const agent::RecordWatermarks& action) {
  if (!open_spools_.contains(action.key)) return;
  SpoolEntry& entry = spool_.at(action.key);
  entry.points_acknowledged = action.points;
  entry.lines_acknowledged = action.lines;
}

void WorkerHost::perform(const agent::PersistOutcome& action) {
  on_disk([this, key = action.key, outcome = action.outcome] {
    const auto entry = spool_.find(key);
    if (entry == spool_.end() || spool_fails()) {
      return in_process(0, [this, key] {
        step(agent::OutcomeNotPersisted{key, "it cannot be written"});
      });
    }
    sync_journal();
    entry->second.points_synced = entry->second.points.size();
    entry->second.lines_synced = entry->second.lines.size();
    entry->second.outcome = outcome;
    in_process(sim_.random().between(0, kMilli),
               [this, key] { step(agent::OutcomePersisted{key}); });
  });
}

void WorkerHost::perform(const agent::DeleteAttempt& action) {
  sim_.checker().deletes(id_of(action.key));
  open_spools_.erase(action.key);
  unsynced_.erase(action.key);
  on_disk([this, key = action.key] { spool_.erase(key); });
}

void WorkerHost::perform(const agent::StoreFile& action) {
  on_disk([this, action] {
    const Digest digest = files_.at(action.path);
    if (action.purpose == agent::FilePurpose::kResume) sync_journal();
    cache_.insert(digest);
    in_process(sim_.random().between(0, kMilli), [this, action, digest] {
      step(agent::FileStored{action.key, action.purpose, action.epoch, digest});
    });
  });
}

// ---- Transfers ----

void WorkerHost::perform(const agent::Upload& action) {
  const auto done = std::make_shared<bool>(false);
  const auto finish = [this, action, done](bool ok) {
    if (std::exchange(*done, true)) return;
    if (ok) {
      step(agent::Uploaded{action.key, action.artifact});
    } else {
      step(agent::UploadFailed{action.key, action.artifact, false, "no answer"});
    }
  };
  sim_.network().call(
      index_, Direction::kToServer,
      [this, action, finish, run = run_] {
        if (!sim_.server().take_artifact(action.artifact)) return;
        sim_.network().call(
            index_, Direction::kToWorker,
            [this, finish, run] {
              if (run == run_) in_process(0, [finish] { finish(true); });
            },
            false);
      },
      true);
  in_process(kCallTimeout, [finish] { finish(false); });
}

void WorkerHost::perform(const agent::FetchInputs& action) {
  in_process(0, [this, action] { fetch_next(action, 0, {}); });
}

void WorkerHost::fetch_next(const agent::FetchInputs& fetch, std::size_t next,
                            std::map<Digest, std::string> paths) {
  for (; next < fetch.artifacts.size() && cache_.contains(fetch.artifacts[next]); ++next) {
    paths.emplace(fetch.artifacts[next], "cache");
  }
  if (next == fetch.artifacts.size()) {
    return step(agent::InputsFetched{fetch.key, std::move(paths)});
  }
  const Digest digest = fetch.artifacts[next];
  const auto done = std::make_shared<bool>(false);
  const auto finish = [this, fetch, next, paths, digest, done](bool ok) {
    if (std::exchange(*done, true)) return;
    if (ok) {
      cache_.insert(digest);
      return fetch_next(fetch, next, paths);
    }
    step(agent::FetchFailed{fetch.key, digest, agent::FetchProblem::kTransient, "no answer"});
  };
  sim_.network().call(
      index_, Direction::kToServer,
      [this, digest, finish, run = run_] {
        if (!sim_.server().answers()) return;
        if (!sim_.server().has_artifact(digest)) {
          return sim_.broken("I9", "an artifact that was offered is not here");
        }
        sim_.network().call(
            index_, Direction::kToWorker,
            [this, finish, run] {
              if (run == run_) in_process(0, [finish] { finish(true); });
            },
            false);
      },
      true);
  in_process(kCallTimeout, [finish] { finish(false); });
}

// ---- Trainers ----

Micros WorkerHost::stopped_by(const agent::AttemptKey& key) const {
  const bool is_deaf = std::ranges::any_of(trainers_, [&key](const Trainer& trainer) {
    return trainer.state == Trainer::State::kTraining && trainer.offer->key == key &&
           trainer.is_deaf;
  });
  return sim_.loop().now() + (is_deaf ? kKillTime : kStopTime);
}

void WorkerHost::training_over(Trainer& trainer) {
  ++trainer.run;
  if (trainer.state != Trainer::State::kTraining) return;
  sim_.checker().training_ended(id_of(trainer.offer->key), sim_.loop().now());
  trainer.state = Trainer::State::kIdle;
}

void WorkerHost::trainer_says(std::uint32_t slot, agent::TrainingEvent event) {
  const std::string key = agent::to_string(trainers_[slot].offer->key);
  step(agent::TrainerSaid{slot, key, std::move(event)});
}

void WorkerHost::trainer_exits(std::uint32_t slot, const char* how, bool out_of_memory) {
  Trainer& trainer = trainers_[slot];
  if (trainer.state == Trainer::State::kNone) return;
  training_over(trainer);
  trainer.state = Trainer::State::kNone;
  step(agent::TrainerExited{slot, how, out_of_memory});
}

void WorkerHost::perform(const agent::StartTrainer& action) {
  Trainer& trainer = trainers_[action.slot];
  trainer = Trainer{
      .state = Trainer::State::kStarting, .process = trainer.process + 1, .run = trainer.run + 1};
  const bool fails = sim_.random().permille(sim_.faults().trainer_permille / 4);
  in_process(sim_.random().between(50 * kMilli, 2 * kSecond),
             [this, slot = action.slot, run = trainer.run, fails] {
               Trainer& started = trainers_[slot];
               if (started.run != run || started.state != Trainer::State::kStarting) return;
               if (fails) return trainer_exits(slot, "exited with 1", false);
               started.state = Trainer::State::kIdle;
               step(agent::TrainerReady{slot});
             });
}

void WorkerHost::perform(const agent::KillTrainer& action) {
  // Until then it may still be heard, and be told to do something else.
  in_process(sim_.random().between(0, 100 * kMilli),
             [this, slot = action.slot, process = trainers_[action.slot].process] {
               if (trainers_[slot].process != process) return;
               trainer_exits(slot, "was killed by SIGKILL", false);
             });
}

void WorkerHost::perform(const agent::SendTrain& action) {
  Trainer& trainer = trainers_[action.slot];
  if (trainer.state != Trainer::State::kIdle) {
    return sim_.broken("I5", "a trainer that is not idle is told to train");
  }
  Random& random = sim_.random();
  sim_.checker().trains(action, spool_.contains(action.offer.key), sim_.loop().now());
  const std::uint64_t run = trainer.run + 1;
  trainer = Trainer{.state = Trainer::State::kTraining,
                    .process = trainer.process,
                    .run = run,
                    .offer = action.offer};
  trainer.epoch = action.offer.resume ? sim_.checker().origin(*action.offer.resume).epoch : 0;
  trainer.epochs = 2 + static_cast<std::uint32_t>(number(action.offer.key.job) % 4);
  trainer.epochs = std::max(trainer.epochs, trainer.epoch + 1);
  trainer.epoch_time = random.between(200 * kMilli, 8 * kSecond);
  if (random.permille(sim_.faults().trainer_permille)) {
    trainer.fails_at = trainer.epoch + 1 +
                       static_cast<std::uint32_t>(random.below(trainer.epochs - trainer.epoch));
    trainer.failure = random.below(kFailures);
  }
  trainer.is_deaf = random.permille(sim_.faults().trainer_permille / 4);
  in_process(random.between(10 * kMilli, 500 * kMilli), [this, slot = action.slot, run] {
    Trainer& begun = trainers_[slot];
    if (begun.run != run) return;
    sim_.checker().begins_at(*begun.offer, begun.epoch);
    trainer_says(slot, agent::TrainingStarted{begun.epoch});
    in_process(begun.epoch_time, [this, slot, run] {
      if (trainers_[slot].run == run) train_epoch(slot);
    });
  });
}

agent::CheckpointFile WorkerHost::write_resume_state(Trainer& trainer) {
  const agent::AttemptKey key = trainer.offer->key;
  const std::string path =
      fmt::format("{}/{}/resume-{}-{}", id_, agent::to_string(key), trainer.epoch, files_written_);
  const Digest digest = digest_from(mix(index_ + 100) + ++files_written_);
  files_[path] = digest;
  sim_.checker().made(digest, {id_of(key), id_, trainer.epoch, false});
  trainer.newest = agent::CheckpointFile{trainer.epoch, path};
  const auto entry = spool_.find(key);
  if (entry != spool_.end()) entry->second.resume = trainer.newest;
  return *trainer.newest;
}

void WorkerHost::train_epoch(std::uint32_t slot) {
  Trainer& trainer = trainers_[slot];
  Random& random = sim_.random();
  const std::uint64_t run = trainer.run;
  const agent::AttemptKey key = trainer.offer->key;
  ++trainer.epoch;
  if (trainer.fails_at == trainer.epoch && !sim_.calm()) {
    const auto fail = [&](FailureClass failure_class) {
      training_over(trainer);
      trainer_says(slot, agent::TrainingFailed{failure_class, "as planned"});
    };
    switch (trainer.failure) {
      case kCrash:
        return trainer_exits(slot, "was killed by SIGSEGV", false);
      case kOutOfMemory:
        return trainer_exits(slot, "was killed by SIGKILL", true);
      case kHang:
        return;  // Silent until it is killed.
      case kUserError:
        return fail(FailureClass::kUserError);
      case kDiverged:
        return fail(FailureClass::kDiverged);
      default:
        return fail(FailureClass::kDeviceFault);
    }
  }
  std::vector<agent::Point> points;
  const std::size_t count = random.below(5);
  for (std::size_t i = 0; i < count; ++i) {
    points.push_back({i % 2 == 0 ? "loss" : "accuracy", trainer.epoch,
                      static_cast<double>(random.below(1'000'000))});
  }
  sim_.checker().measured(id_of(key), points);
  trainer_says(slot, agent::PointsMeasured{points});
  if (trainers_[slot].run != run) return;
  if (random.one_in(2)) {
    const agent::LogLine line{sim_.loop().now() / 1'000,
                              fmt::format("epoch {} {}", trainer.epoch, random.below(1'000'000))};
    sim_.checker().printed(id_of(key), line);
    step(agent::TrainerLine{slot, line});
  }
  agent::ProgressMade progress;
  progress.progress.epoch = trainer.epoch;
  progress.progress.epochs = trainer.epochs;
  trainer_says(slot, progress);
  if (random.one_in(2)) {
    trainer_says(slot, agent::CheckpointWritten{write_resume_state(trainer)});
  }
  if (trainers_[slot].run != run) return;
  if (trainer.epoch < trainer.epochs) {
    return in_process(trainer.epoch_time, [this, slot, run] {
      if (trainers_[slot].run == run) train_epoch(slot);
    });
  }
  const std::string path =
      fmt::format("{}/{}/model-{}", id_, agent::to_string(key), files_written_);
  const Digest digest = digest_from(mix(index_ + 100) + ++files_written_);
  files_[path] = digest;
  sim_.checker().made(digest, {id_of(key), id_, trainer.epoch, true});
  agent::TrainingSucceeded succeeded;
  succeeded.path = path;
  succeeded.result.best_epoch = trainer.epoch;
  succeeded.result.duration_seconds = 1.0 + static_cast<double>(random.below(100));
  if (!random.one_in(4)) {
    succeeded.result.validation_accuracy = 80.0 + static_cast<double>(random.below(3));
  }
  if (random.one_in(2)) succeeded.report_json = "{}";
  training_over(trainer);
  trainer_says(slot, std::move(succeeded));
}

void WorkerHost::perform(const agent::SendCancel& action) {
  Trainer& trainer = trainers_[action.slot];
  if (trainer.state != Trainer::State::kTraining || trainer.offer->key != action.key ||
      trainer.is_deaf) {
    return;
  }
  in_process(sim_.random().between(0, 3 * kSecond), [this, slot = action.slot, run = trainer.run] {
    Trainer& stopped = trainers_[slot];
    if (stopped.run != run) return;
    training_over(stopped);
    trainer_says(slot, agent::TrainingCancelled{});
  });
}

void WorkerHost::perform(const agent::SendPreempt& action) {
  Trainer& trainer = trainers_[action.slot];
  if (trainer.state != Trainer::State::kTraining || trainer.offer->key != action.key ||
      trainer.is_deaf) {
    return;
  }
  in_process(sim_.random().between(0, 3 * kSecond), [this, slot = action.slot, run = trainer.run] {
    Trainer& stopped = trainers_[slot];
    if (stopped.run != run) return;
    agent::TrainingPreempted preempted;
    if (sim_.random().one_in(2) && stopped.epoch > 0) {
      preempted.file = write_resume_state(stopped);
    } else {
      preempted.file = stopped.newest;
    }
    training_over(stopped);
    trainer_says(slot, preempted);
  });
}

}  // namespace bitrung::sim
