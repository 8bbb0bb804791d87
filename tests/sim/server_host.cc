#include "tests/sim/server_host.h"

#include <utility>

#include "db/base/check.h"
#include "tests/sim/simulation.h"

namespace bitrung::sim {

class ServerHost::Sink final : public engine::SessionSink {
 public:
  Sink(ServerHost& host, Connection& connection, SessionId session)
      : host_(host), connection_(connection), session_(session) {}
  void set_session(SessionId session) { session_ = session; }
  void send(engine::ToWorker message) override {
    host_.send(session_, connection_, std::move(message));
  }

 private:
  ServerHost& host_;
  Connection& connection_;
  SessionId session_;
};

ServerHost::ServerHost(Simulation& sim, HostClock clock)
    : sim_(sim), clock_(clock), standstill_(sim.loop()) {}
ServerHost::~ServerHost() = default;

core::Now ServerHost::now() {
  return {clock_.local(sim_.loop().now()), wall_offset_ms_ + sim_.loop().now() / 1'000};
}

void ServerHost::start() {
  if (is_up()) return;
  ++run_;
  dead_ = failed_ = failure_wanted_ = turn_planned_ = false;
  messages_left_.reset();
  alarm_.reset();
  inbox_.clear();
  store_ = sim_.disk().open_store();
  publisher_ = std::make_unique<engine::Publisher>();
  core::Settings settings = sim_.settings;
  settings.term = store_->term();
  sim_.note("server starts", settings.term);
  sim_.checker().server_started(settings, now().monotonic);
  sim_.checker().turn_begins();
  engine_ = std::make_unique<engine::Engine>(
      *store_, settings, *this, *publisher_, [this](const absl::Status& status) {
        failed_ = true;
        if (!dead_ && !failure_wanted_) {
          sim_.broken("I14", "the engine failed without a fault: " + status.ToString());
        }
      });
  const absl::Status loaded = engine_->load();
  if (!loaded.ok() || dead_) {
    if (!dead_ && !failure_wanted_) sim_.broken("I14", "load: " + loaded.ToString());
    return kill("dies while it starts");
  }
  sim_.checker().audit(sim_.loop().now());
  arm();
}

void ServerHost::kill(const char* why) {
  if (!is_up()) return;
  sim_.note(why);
  engine_.reset();
  publisher_.reset();
  store_.reset();  // Rolls back what was not committed.
  standstill_.forget();
  sim_.checker().server_stopped();
  sim_.checker().audit(sim_.loop().now());
  sim_.network().break_all("server is gone");
  const Micros down = sim_.random().one_in(4)
                          ? sim_.random().between(0, 2 * sim_.settings.lease.count() * kMilli)
                          : sim_.random().between(0, 3 * kSecond);
  sim_.loop().after(sim_.calm() ? 0 : down, [this] { start(); });
}

void ServerHost::pause(Micros how_long) {
  if (!is_up()) return;
  sim_.note("server pauses", how_long / kMilli);
  standstill_.extend(sim_.loop().now() + how_long);
}

bool ServerHost::answers() const {
  return is_up() && !standstill_.is_on();
}

// ---- Turns ----

void ServerHost::post(core::Event event) {
  inbox_.push_back({event, {}, {}, false});
  engine_->post(std::move(event));
  has_input();
}

void ServerHost::has_input() {
  if (std::exchange(turn_planned_, true)) return;
  Random& random = sim_.random();
  const Micros delay = random.permille(sim_.faults().slow_disk_permille)
                           ? random.between(100 * kMilli, 5 * kSecond)
                           : random.between(0, 2 * kMilli);
  sim_.loop().after(delay, [this, run = run_] {
    if (run == run_ && is_up()) turn();
  });
}

void ServerHost::turn() {
  if (standstill_.holds([this, run = run_] {
        if (run == run_ && is_up()) turn();
      })) {
    return;
  }
  turn_planned_ = false;
  sim_.note("turn", static_cast<std::int64_t>(inbox_.size()));
  sim_.checker().turn_begins();
  for (const Heard& heard : std::exchange(inbox_, {})) {
    if (heard.event) {
      sim_.checker().heard(*heard.event, now().monotonic);
    }
    if (heard.wants_answer) sim_.checker().statement(heard.session, heard.attempt, true);
  }
  engine_->run_turn();
  messages_left_.reset();
  if (dead_) return kill("dies in a turn");
  if (failed_) return kill("ends after a failed commit");
  sim_.checker().turn_ends();
  arm();
}

void ServerHost::arm() {
  const auto wake = engine_->wake_up_time();
  if (wake == alarm_) return;
  alarm_ = wake;
  const std::uint64_t alarm = ++alarms_;
  if (!wake) return;
  sim_.loop().at(clock_.when(*wake), [this, alarm, run = run_] {
    if (alarm != alarms_ || run != run_ || !is_up()) return;
    alarm_.reset();
    post(core::WakeUp{});
  });
}

CommitFate ServerHost::commit_fate() {
  if (failed_) sim_.broken("I14", "a commit after a failed one");
  Random& random = sim_.random();
  if (random.permille(sim_.faults().commit_failure_permille)) {
    sim_.note("commit fails");
    failure_wanted_ = true;
    return CommitFate::kFails;
  }
  if (!random.permille(sim_.faults().kill_in_turn_permille)) return CommitFate::kDone;
  switch (random.below(3)) {
    case 0:
      sim_.note("dies before the commit");
      dead_ = true;
      return CommitFate::kDiesBefore;
    case 1:
      sim_.note("dies after the commit");
      dead_ = true;
      return CommitFate::kDiesAfter;
    default:
      messages_left_ = random.between(1, 4);
      return CommitFate::kDone;
  }
}

bool ServerHost::may_speak() {
  if (dead_) return false;
  if (failed_ || failure_wanted_) sim_.broken("I14", "something was said after a failed commit");
  if (messages_left_ && (*messages_left_)-- == 0) {
    sim_.note("dies while it speaks");
    dead_ = true;
    return false;
  }
  return true;
}

void ServerHost::send(SessionId session, Connection& connection, engine::ToWorker message) {
  if (!may_speak()) return;
  sim_.checker().said(session, message);
  sim_.note("server says", static_cast<std::int64_t>(connection.index),
            static_cast<std::int64_t>(message.index()));
  const bool closes = std::holds_alternative<core::CloseSession>(message);
  sim_.network().to_worker(connection, std::move(message));
  if (closes && !std::exchange(connection.server_closed, true)) {
    sim_.loop().after(sim_.random().between(0, kSecond), [this, &connection] {
      if (is_up() && connection.server_run == run_) {
        post(core::SessionClosed{*connection.server_session});
      }
    });
  }
}

// ---- Statements ----

void ServerHost::end_stream(Connection& connection, const char* why) {
  sim_.note(why, static_cast<std::int64_t>(connection.index));
  if (std::exchange(connection.server_closed, true)) return;
  sim_.network().to_worker(connection, core::CloseSession{why});
  post(core::SessionClosed{*connection.server_session});
}

void ServerHost::closed(Connection& connection) {
  if (standstill_.holds([this, &connection] { closed(connection); })) return;
  if (!is_up() || !connection.server_session || connection.server_run != run_) return;
  if (std::exchange(connection.server_closed, true)) return;
  post(core::SessionClosed{*connection.server_session});
}

void ServerHost::receive(Connection& connection, const Statement& statement) {
  if (standstill_.holds([this, &connection, statement] {
        if (!connection.broken) receive(connection, statement);
      })) {
    return;
  }
  if (!is_up()) return sim_.network().break_off(connection, "server is down");
  sim_.note("server hears", static_cast<std::int64_t>(connection.index),
            static_cast<std::int64_t>(statement.index()));
  if (const auto* hello = std::get_if<Hello>(&statement)) {
    const auto sink = std::make_shared<Sink>(*this, connection, SessionId{});
    const SessionId session = engine_->open_session(sink);
    sink->set_session(session);
    connection.server_session = session;
    connection.server_run = run_;
    core::SessionOpened opened;
    opened.session = session;
    opened.worker_id = hello->worker_id;
    opened.name = "name-of-" + hello->worker_id;
    opened.version = "sim";
    opened.numerics = 1;
    for (std::uint32_t slot = 0; slot < hello->slots; ++slot) {
      opened.slots.push_back({"cpu", "cpu", 16, 1});
    }
    opened.shared_cores = hello->shared_cores;
    for (const agent::DatasetEntry& dataset : hello->open.datasets) {
      opened.datasets.push_back({dataset.name, dataset.sha256});
    }
    for (const agent::AttemptKey& key : hello->open.held) opened.held.push_back(to_core(key));
    opened.term_seen = hello->open.term_seen;
    return post(std::move(opened));
  }
  if (!connection.server_session || connection.server_run != run_ || connection.server_closed) {
    return;
  }
  const SessionId session = *connection.server_session;
  const auto about = [&](const agent::AttemptKey& key) {
    inbox_.push_back({std::nullopt, session, id_of(key), true});
  };
  std::visit(Overload{
                 [](const Hello&) {},
                 [&](const agent::SendHeartbeat& beat) {
                   core::Heartbeat event{session, beat.sequence, {}};
                   for (const agent::HeldAttempt& held : beat.held) {
                     event.held.push_back(to_core(held.key));
                     if (held.progress) {
                       engine::Progress progress;
                       progress.epoch = held.progress->epoch;
                       engine_->progress(session, to_core(held.key), progress);
                     }
                   }
                   post(std::move(event));
                 },
                 [&](const agent::SendStarted& started) {
                   about(started.key);
                   post(core::AttemptStarted{session, to_core(started.key), started.resumed_epoch});
                 },
                 [&](const PointsStatement& batch) {
                   about(batch.key);
                   std::vector<db::PointRow> rows;
                   for (const agent::Point& point : batch.points) {
                     rows.push_back({point.series, point.step, point.value});
                   }
                   engine_->points(session, to_core(batch.key), batch.first, std::move(rows));
                   has_input();
                 },
                 [&](const LinesStatement& batch) {
                   about(batch.key);
                   std::vector<db::LogRow> rows;
                   for (const agent::LogLine& line : batch.lines) {
                     rows.push_back({0, 0, line.time_ms, line.text});
                   }
                   engine_->logs(session, to_core(batch.key), batch.first, std::move(rows));
                   has_input();
                 },
                 [&](const agent::SendCheckpoint& checkpoint) {
                   if (!has_artifact(checkpoint.artifact)) {
                     return end_stream(connection, "checkpoint is not uploaded");
                   }
                   about(checkpoint.key);
                   post(core::CheckpointStored{session, to_core(checkpoint.key), checkpoint.epoch,
                                               checkpoint.artifact});
                 },
                 [&](const agent::SendOutcome& said) {
                   if (const auto* succeeded = std::get_if<agent::Succeeded>(&said.outcome)) {
                     if (!has_artifact(succeeded->artifact)) {
                       return end_stream(connection, "model is not uploaded");
                     }
                     about(said.key);
                     const agent::Result& result = succeeded->result;
                     post(core::AttemptSucceeded{
                         session, to_core(said.key),
                         db::ResultRow{result.test_accuracy, result.validation_accuracy,
                                       result.test_loss, result.best_epoch, result.duration_seconds,
                                       result.images_per_second, succeeded->artifact},
                         succeeded->report_json});
                   } else if (const auto* failed = std::get_if<agent::Failed>(&said.outcome)) {
                     about(said.key);
                     post(core::AttemptFailed{session, to_core(said.key), failed->failure_class,
                                              failed->message});
                   } else {
                     about(said.key);
                     post(core::AttemptCancelled{session, to_core(said.key)});
                   }
                 },
                 [&](const agent::SendDatasets& datasets) {
                   core::DatasetsChanged event{session, {}};
                   for (const agent::DatasetEntry& dataset : datasets.datasets) {
                     event.datasets.push_back({dataset.name, dataset.sha256});
                   }
                   post(std::move(event));
                 },
                 [&](const agent::SendStopping&) { post(core::WorkerStopping{session}); },
             },
             statement);
}

// ---- Calls ----

void ServerHost::submit(engine::NewExperiment experiment,
                        std::function<void(absl::StatusOr<engine::SubmitAnswer>)> reply) {
  if (!is_up()) return reply(absl::UnavailableError("the server is down"));
  const std::string request = experiment.request_id;
  const Digest content = experiment.request_sha256;
  engine_->submit(std::move(experiment), [this, run = run_, request, content,
                                          reply](absl::StatusOr<engine::SubmitAnswer> answer) {
    if (run != run_ || dead_) return;
    if (answer.ok() && !may_speak()) return;
    sim_.checker().answered_submit(request, content, answer);
    reply(std::move(answer));
  });
  has_input();
}

void ServerHost::cancel(std::vector<JobId> jobs, std::function<void(bool)> reply) {
  if (!is_up()) return reply(false);
  inbox_.push_back({core::CancelJobs{jobs}, {}, {}, false});
  engine_->cancel(std::move(jobs), [this, run = run_, reply](absl::StatusOr<std::uint32_t> answer) {
    if (run != run_ || dead_) return;
    if (answer.ok()) {
      if (!may_speak()) return;
      sim_.checker().answered_cancel();
    }
    reply(answer.ok());
  });
  has_input();
}

void ServerHost::retry(std::vector<JobId> jobs) {
  if (!is_up()) return;
  engine_->retry(std::move(jobs), [](const absl::StatusOr<std::uint32_t>&) {});
  has_input();
}

void ServerHost::drain(const std::string& worker, bool draining) {
  if (!is_up()) return;
  engine_->drain(worker, draining, [](const absl::StatusOr<core::WorkerInfo>&) {});
  has_input();
}

void ServerHost::explain(JobId job) {
  if (!is_up()) return;
  engine_->explain(job, [this, job](absl::StatusOr<std::vector<core::Reason>> answer) {
    if (answer.ok() && !answer->empty()) {
      sim_.note("reason", number(job), static_cast<std::int64_t>(answer->front().index()));
    }
    sim_.checker().explained(job, answer);
  });
  has_input();
}

bool ServerHost::take_artifact(const Digest& digest) {
  if (!answers()) return false;
  artifacts_.insert(digest);
  sim_.checker().uploaded(digest);
  engine_->artifact_stored(digest, 1'000);
  has_input();
  return true;
}

}  // namespace bitrung::sim
