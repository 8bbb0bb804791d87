#include "server/engine/engine.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>

#include "db/base/check.h"
#include "db/base/planted_bug.h"
#include "db/base/status.h"
#include "server/engine/inventory.h"

namespace bitrung::engine {
namespace {

// A bound on what one transaction holds; what is left waits for the next turn, a few milliseconds
// later.
constexpr std::size_t kInputsPerTurnMax = 512;

template <typename... Handlers>
struct Overload : Handlers... {
  using Handlers::operator()...;
};
template <typename... Handlers>
Overload(Handlers...) -> Overload<Handlers...>;

absl::Status stopping() {
  return absl::UnavailableError("the server is stopping; try again when it is back");
}

}  // namespace

Engine::Engine(db::Store& store, core::Settings settings, Clock& clock, Publisher& publisher,
               std::function<void(const absl::Status&)> on_failure)
    : store_(store),
      settings_(settings),
      clock_(clock),
      publisher_(publisher),
      on_failure_(std::move(on_failure)) {}

Engine::~Engine() = default;

absl::Status Engine::load() {
  BITRUNG_ASSIGN_OR_RETURN(const db::Snapshot snapshot, store_.load());
  core_ = std::make_unique<core::Core>(settings_, snapshot, clock_.now());
  experiments_stored_ = snapshot.next_experiment_id - 1;  // None is ever removed.
  jobs_stored_ = snapshot.next_job_id - 1;
  take(core_->started());
  BITRUNG_RETURN_IF_ERROR(write_rows());
  if (turn_.in_transaction) BITRUNG_RETURN_IF_ERROR(store_.commit());
  turn_ = Turn();  // Nobody listens yet, and no session is open.
  return absl::OkStatus();
}

void Engine::run() {
  BITRUNG_CHECK(core_ != nullptr);
  const auto keep_running = boost::asio::make_work_guard(io_);
  wake_at_deadline();
  io_.run();
  abandon_inbox();
}

void Engine::stop() {
  io_.stop();
}

void Engine::enqueue_all(std::vector<Input> inputs) {
  if (inputs.empty()) return;
  {
    const std::lock_guard lock(inbox_mutex_);
    if (!ended_) {
      inbox_.insert(inbox_.end(), std::make_move_iterator(inputs.begin()),
                    std::make_move_iterator(inputs.end()));
      if (!std::exchange(turn_scheduled_, true)) schedule_turn();
      return;
    }
  }
  for (const Input& input : inputs) {
    if (input.abandon) input.abandon(stopping());
  }
}

void Engine::enqueue(Input input) {
  bool ended = false;
  {
    const std::lock_guard lock(inbox_mutex_);
    ended = ended_;
    if (!ended) {
      inbox_.push_back(std::move(input));
      if (!std::exchange(turn_scheduled_, true)) schedule_turn();
    }
  }
  if (ended && input.abandon) input.abandon(stopping());
}

void Engine::schedule_turn() {
  boost::asio::post(io_, [this] {
    turn();
    wake_at_deadline();
  });
}

void Engine::turn() {
  std::vector<Input> inputs;
  {
    const std::lock_guard lock(inbox_mutex_);
    if (ended_) return;
    if (inbox_.size() <= kInputsPerTurnMax) {
      inputs = std::exchange(inbox_, {});
      turn_scheduled_ = false;
    } else {
      const auto end = inbox_.begin() + kInputsPerTurnMax;
      inputs.assign(std::make_move_iterator(inbox_.begin()), std::make_move_iterator(end));
      inbox_.erase(inbox_.begin(), end);
      schedule_turn();
    }
  }

  const absl::Status handled = handle_all(inputs);
  if (!handled.ok()) {
    for (const Input& input : inputs) {
      if (input.abandon) input.abandon(handled);
    }
    fail(handled);
    return;
  }
  // Durable now: speak. A reply may enqueue new inputs; they belong to the next turn.
  Turn done = std::exchange(turn_, Turn());
  if (const absl::Status status = speak(done.outbox); !status.ok()) return fail(status);
  for (const JobId job : done.saved_jobs) {
    if (core_->state(job) != JobState::kRunning) publisher_.forget_progress(job);
  }
  for (const std::int64_t experiment : done.touched_experiments)
    publisher_.jobs_changed(ExperimentId{experiment});
}

absl::Status Engine::handle_all(std::vector<Input>& inputs) {
  for (Input& input : inputs) BITRUNG_RETURN_IF_ERROR(input.handle(*this));
  BITRUNG_RETURN_IF_ERROR(write_rows());
  BITRUNG_RETURN_IF_ERROR(complete_offers());
  if (BITRUNG_PLANTED(SPEAKS_BEFORE_COMMIT)) {
    std::vector<Utterance> outbox = std::exchange(turn_.outbox, {});
    BITRUNG_RETURN_IF_ERROR(speak(outbox));
  }
  // Nobody may learn of a fact that a power cut could still undo: commit first, speak second.
  // The core is ahead of the disk here, so an error ends the process and is never retried.
  if (turn_.in_transaction) {
    const absl::Status committed = store_.commit();
    if (!BITRUNG_PLANTED(IGNORES_FAILED_COMMIT)) return committed;
  }
  return absl::OkStatus();
}

void Engine::fail(const absl::Status& status) {
  abandon_inbox();
  io_.stop();
  on_failure_(status);
}

void Engine::abandon_inbox() {
  std::vector<Input> abandoned;
  {
    const std::lock_guard lock(inbox_mutex_);
    ended_ = true;
    abandoned = std::exchange(inbox_, {});
  }
  for (const Input& input : abandoned) {
    if (input.abandon) input.abandon(stopping());
  }
}

void Engine::wake_at_deadline() {
  const auto deadline = core_->next_deadline();
  if (deadline == timer_deadline_) return;
  timer_deadline_ = deadline;
  timer_.cancel();
  if (!deadline) return;
  const auto wait = std::max(std::chrono::milliseconds(0), *deadline - clock_.now().monotonic);
  timer_.expires_after(wait);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (error) return;
    timer_deadline_.reset();
    post(core::WakeUp{});
  });
}

absl::Status Engine::ensure_transaction() {
  if (turn_.in_transaction) return absl::OkStatus();
  BITRUNG_RETURN_IF_ERROR(store_.begin());
  turn_.in_transaction = true;
  return absl::OkStatus();
}

void Engine::take(core::Effects effects) {
  for (core::Effect& effect : effects) {
    std::visit(
        Overload{
            [](const core::AddExperiment&) {},  // record() has seen it.
            [this](const core::SaveJob& save) {
              if (turn_.changed_set.insert(number(save.job)).second)
                turn_.changed_jobs.push_back(save.job);
              turn_.touched_experiments.insert(number(core_->experiment_of(save.job)));
            },
            [this](core::SaveAttempt& save) { note_attempt(std::move(save.row)); },
            [this](core::SavePin& save) { turn_.pins.push_back(std::move(save.row)); },
            [this](core::SaveReport& save) { turn_.reports.push_back(std::move(save)); },
            [this](core::SaveWorker& save) { turn_.workers.push_back(std::move(save.worker_id)); },
            [this](const core::SaveExperimentFinished& save) {
              turn_.finished.push_back(save);
              turn_.touched_experiments.insert(number(save.id));
            },
            [this](core::Send& sending) {
              std::visit(Overload{[&](core::Offer& offer) {
                                    turn_.offers.push_back(turn_.outbox.size());
                                    send_after_commit(sending.session, FullOffer{std::move(offer)});
                                  },
                                  [&](auto& message) {
                                    send_after_commit(sending.session, std::move(message));
                                  }},
                         sending.message);
            },
        },
        effect);
  }
}

void Engine::note_attempt(db::AttemptRow row) {
  // The latest row of an attempt is all that is written of it, in the place of its first: an
  // earlier attempt of the job still ends before a later one lives.
  const auto [place, is_new] = turn_.attempt_places.try_emplace(
      core::AttemptKey{row.job, row.attempt}, turn_.attempts.size());
  if (is_new) {
    turn_.attempts.push_back(std::move(row));
  } else {
    turn_.attempts[place->second] = std::move(row);
  }
}

absl::Status Engine::write_rows() {
  if (turn_.changed_jobs.empty() && turn_.attempts.empty() && turn_.pins.empty() &&
      turn_.reports.empty() && turn_.workers.empty() && turn_.finished.empty()) {
    return absl::OkStatus();
  }
  BITRUNG_RETURN_IF_ERROR(ensure_transaction());
  const std::int64_t first_new = turn_.new_jobs.empty() ? 0 : number(turn_.new_jobs.front().id);
  std::size_t inserted = 0;
  for (const JobId job : turn_.changed_jobs) {
    // Of an older job beyond all of them, too: a negative number is a huge one.
    const auto place = static_cast<std::size_t>(number(job) - first_new);
    if (place >= turn_.new_jobs.size()) {
      BITRUNG_RETURN_IF_ERROR(store_.update_job(core_->row(job)));
    } else {
      BITRUNG_RETURN_IF_ERROR(store_.insert_job(turn_.new_jobs[place], core_->row(job)));
      ++inserted;
    }
  }
  BITRUNG_CHECK(inserted == turn_.new_jobs.size());  // The core saves every job it adds.
  turn_.new_jobs = {};
  // Written: not again in this turn unless they change again.
  turn_.saved_jobs.insert(turn_.saved_jobs.end(), turn_.changed_jobs.begin(),
                          turn_.changed_jobs.end());
  turn_.changed_jobs.clear();
  turn_.changed_set.clear();
  for (const std::string& id : turn_.workers) {
    const auto worker = core_->worker(id);
    BITRUNG_CHECK(worker.has_value());
    BITRUNG_RETURN_IF_ERROR(store_.save_worker({.id = id,
                                                .name = worker->name,
                                                .version = worker->version,
                                                .draining = worker->draining,
                                                .last_seen_ms = worker->last_seen_ms,
                                                .inventory_json = inventory_json(*worker)}));
  }
  for (const db::PinRow& row : turn_.pins) BITRUNG_RETURN_IF_ERROR(store_.insert_pin(row));
  for (const db::AttemptRow& row : turn_.attempts)
    BITRUNG_RETURN_IF_ERROR(store_.save_attempt(row));
  for (const core::SaveReport& report : turn_.reports)
    BITRUNG_RETURN_IF_ERROR(store_.insert_report(report.job, report.report_json));
  for (const auto& finished : turn_.finished) {
    BITRUNG_RETURN_IF_ERROR(store_.set_experiment_finished(finished.id, finished.finished_at_ms));
  }
  turn_.pins.clear();
  turn_.attempts.clear();
  turn_.attempt_places.clear();
  turn_.reports.clear();
  turn_.workers.clear();
  turn_.finished.clear();
  return absl::OkStatus();
}

void Engine::send(SessionId session, ToWorker message) {
  auto found = spoken_to_.find(number(session));
  if (found == spoken_to_.end()) {
    const std::lock_guard lock(sinks_mutex_);
    const auto sink = sinks_.find(number(session));
    if (sink == sinks_.end()) return;  // It closed meanwhile; its next session is told again.
    found = spoken_to_.emplace(number(session), sink->second).first;
  }
  found->second->send(std::move(message));
}

void Engine::flush_sinks() {
  for (const auto& [session, sink] : std::exchange(spoken_to_, {})) sink->flush();
}

void Engine::send_after_commit(SessionId session, ToWorker message) {
  turn_.outbox.push_back(MessageTo{session, std::move(message)});
}

absl::Status Engine::speak(std::vector<Utterance>& outbox) {
  absl::Status status;
  for (Utterance& utterance : outbox) {
    status =
        std::visit(Overload{[this](MessageTo& to) {
                              send(to.session, std::move(to.message));
                              return absl::OkStatus();
                            },
                            [](const std::function<absl::Status()>& perform) { return perform(); }},
                   utterance);
    if (!status.ok()) break;
  }
  flush_sinks();
  return status;
}

absl::Status Engine::complete_offers() {
  for (const std::size_t place : std::exchange(turn_.offers, {})) {
    auto& full = std::get<FullOffer>(std::get<MessageTo>(turn_.outbox[place]).message);
    BITRUNG_ASSIGN_OR_RETURN(db::Store::OfferText text, store_.offer_text(full.offer.key.job));
    full.display_name = std::move(text.display_name);
    full.spec_json = std::move(text.spec_json);
    full.dataset = std::move(text.dataset);
    full.timeout_seconds = text.timeout_seconds;
  }
  return absl::OkStatus();
}

void Engine::submit(NewExperiment experiment, Reply<SubmitAnswer> reply) {
  auto shared = std::make_shared<NewExperiment>(std::move(experiment));
  enqueue({.handle = [shared,
                      reply](Engine& engine) { return engine.record(std::move(*shared), reply); },
           .abandon = [reply](const absl::Status& status) { reply(status); }});
}

absl::Status Engine::admit(const NewExperiment& experiment) const {
  constexpr std::string_view kRemedy =
      "start another server with a new --state-dir for what comes, and keep this one for its "
      "results";
  if (experiments_stored_ >= settings_.experiments_max) {
    return absl::ResourceExhaustedError(
        fmt::format("the server holds {} experiments, the limit is {}; {}", experiments_stored_,
                    settings_.experiments_max, kRemedy));
  }
  const auto added = static_cast<std::int64_t>(experiment.nodes.size());
  if (added > settings_.jobs_max - jobs_stored_) {
    return absl::ResourceExhaustedError(
        fmt::format("the server holds {} jobs and the experiment has {}, the limit is {}; {}",
                    jobs_stored_, added, settings_.jobs_max, kRemedy));
  }
  return absl::OkStatus();
}

absl::Status Engine::record(NewExperiment experiment, const Reply<SubmitAnswer>& reply) {
  const auto answer = [&](absl::StatusOr<SubmitAnswer> value) {
    turn_.outbox.push_back([reply, value = std::move(value)]() mutable {
      reply(std::move(value));
      return absl::OkStatus();
    });
    return absl::OkStatus();
  };
  BITRUNG_ASSIGN_OR_RETURN(const auto earlier, store_.find_request(experiment.request_id));
  if (earlier && !BITRUNG_PLANTED(FORGETS_REQUEST_ID)) {
    if (earlier->request_sha256 == experiment.request_sha256)
      return answer(SubmitAnswer{earlier->id, true});
    return answer(absl::AlreadyExistsError(
        fmt::format("request id {} was used for another submit, experiment {}; choose a new one",
                    experiment.request_id, number(earlier->id))));
  }
  if (experiment.join_active) {
    BITRUNG_ASSIGN_OR_RETURN(const auto active,
                             store_.find_active(experiment.name, experiment.graph_sha256));
    if (active) {
      BITRUNG_RETURN_IF_ERROR(ensure_transaction());
      BITRUNG_RETURN_IF_ERROR(
          store_.insert_joined_request(experiment.request_id, experiment.request_sha256, *active));
      return answer(SubmitAnswer{*active, true});
    }
  }
  if (absl::Status full = admit(experiment); !full.ok()) return answer(std::move(full));

  BITRUNG_RETURN_IF_ERROR(ensure_transaction());
  core::Effects effects = core_->step(core::Submit{std::move(experiment.nodes)}, clock_.now());
  const auto added = std::ranges::find_if(effects, [](const core::Effect& effect) {
    return std::holds_alternative<core::AddExperiment>(effect);
  });
  BITRUNG_CHECK(added != effects.end());
  const auto& add = std::get<core::AddExperiment>(*added);
  BITRUNG_CHECK(add.job_count == experiment.rows.size());
  BITRUNG_RETURN_IF_ERROR(
      store_.insert_experiment({.id = add.id,
                                .name = std::move(experiment.name),
                                .request_id = std::move(experiment.request_id),
                                .request_sha256 = experiment.request_sha256,
                                .graph_sha256 = experiment.graph_sha256,
                                .source_yaml = std::move(experiment.source_yaml),
                                .submitted_at_ms = clock_.now().wall_ms,
                                .finished_at_ms = 0,
                                .submitted_by = std::move(experiment.submitted_by)}));
  std::int64_t next = number(add.first_job);
  for (db::JobSpecRow& row : experiment.rows) {
    row.id = JobId{next++};
    row.experiment = add.id;
    for (db::InputRow& input : row.inputs) {
      if (input.parent) input.parent = JobId{number(add.first_job) + number(*input.parent)};
    }
  }
  BITRUNG_CHECK(turn_.new_jobs.empty());
  turn_.new_jobs = std::move(experiment.rows);
  experiments_stored_ += 1;
  jobs_stored_ += add.job_count;
  const SubmitAnswer result{add.id, false};
  take(std::move(effects));
  BITRUNG_RETURN_IF_ERROR(write_rows());  // A second submit of this turn must find it.
  return answer(result);
}

Engine::Input Engine::change_jobs(core::Event event, Reply<std::uint32_t> reply) {
  return {.handle =
              [event = std::move(event), reply](Engine& engine) {
                core::Effects effects = engine.core_->step(event, engine.clock_.now());
                // What was to be tried again and could not be is saved, but as it was.
                const bool is_retry = std::holds_alternative<core::RetryJobs>(event);
                std::unordered_set<std::int64_t> changed;
                for (const core::Effect& effect : effects) {
                  const auto* save = std::get_if<core::SaveJob>(&effect);
                  if (save == nullptr) continue;
                  if (is_retry && engine.core_->row(save->job).state == JobState::kSkipped)
                    continue;
                  changed.insert(number(save->job));
                }
                engine.take(std::move(effects));
                engine.turn_.outbox.push_back(
                    [reply, count = static_cast<std::uint32_t>(changed.size())] {
                      reply(count);
                      return absl::OkStatus();
                    });
                return absl::OkStatus();
              },
          .abandon = [reply](const absl::Status& status) { reply(status); }};
}

void Engine::cancel(std::vector<JobId> jobs, Reply<std::uint32_t> reply) {
  enqueue(change_jobs(core::CancelJobs{std::move(jobs)}, std::move(reply)));
}

void Engine::retry(std::vector<JobId> jobs, Reply<std::uint32_t> reply) {
  enqueue(change_jobs(core::RetryJobs{std::move(jobs)}, std::move(reply)));
}

template <typename T>
void Engine::ask(Reply<T> reply, std::function<absl::StatusOr<T>(Engine&)> answer) {
  enqueue({.handle =
               [reply, answer = std::move(answer)](Engine& engine) {
                 engine.turn_.outbox.push_back([reply, value = answer(engine)]() mutable {
                   reply(std::move(value));
                   return absl::OkStatus();
                 });
                 return absl::OkStatus();
               },
           .abandon = [reply](const absl::Status& status) { reply(status); }});
}

void Engine::drain(std::string worker, bool draining, Reply<core::WorkerInfo> reply) {
  ask<core::WorkerInfo>(
      std::move(reply),
      [worker = std::move(worker), draining](Engine& engine) -> absl::StatusOr<core::WorkerInfo> {
        const std::vector<core::WorkerInfo> all = engine.core_->workers();
        std::vector<const core::WorkerInfo*> matches;
        for (const core::WorkerInfo& info : all) {
          if (info.worker_id == worker || info.name == worker) matches.push_back(&info);
        }
        if (matches.empty()) {
          return absl::NotFoundError(
              fmt::format("there is no worker \"{}\"; `bitrung workers` lists them", worker));
        }
        if (matches.size() > 1) {
          return absl::FailedPreconditionError(
              fmt::format("{} workers are named \"{}\"; use the id that `bitrung workers` shows",
                          matches.size(), worker));
        }
        const std::string id = matches.front()->worker_id;
        engine.take(engine.core_->step(core::SetDraining{id, draining}, engine.clock_.now()));
        return *engine.core_->worker(id);
      });
}

void Engine::explain(JobId job, Reply<std::vector<core::Reason>> reply) {
  ask<std::vector<core::Reason>>(
      std::move(reply), [job](Engine& engine) -> absl::StatusOr<std::vector<core::Reason>> {
        if (!engine.core_->contains(job)) {
          return absl::NotFoundError(fmt::format("there is no job {}", number(job)));
        }
        return engine.core_->explain(job, engine.clock_.now());
      });
}

void Engine::is_given(std::string worker_id, Digest artifact, Reply<bool> reply) {
  ask<bool>(std::move(reply),
            [worker_id = std::move(worker_id), artifact](Engine& engine) -> absl::StatusOr<bool> {
              return engine.core_->is_given(worker_id, artifact);
            });
}

void Engine::workers(Reply<std::vector<core::WorkerInfo>> reply) {
  ask<std::vector<core::WorkerInfo>>(
      std::move(reply), [](Engine& engine) -> absl::StatusOr<std::vector<core::WorkerInfo>> {
        return engine.core_->workers();
      });
}

SessionId Engine::open_session(std::shared_ptr<SessionSink> sink) {
  const std::lock_guard lock(sinks_mutex_);
  const SessionId id{next_session_++};
  sinks_.emplace(number(id), std::move(sink));
  return id;
}

Engine::Input Engine::event_input(core::Event event) {
  return {.handle = [event = std::move(event)](Engine& engine) {
    engine.take(engine.core_->step(event, engine.clock_.now()));
    if (const auto* closed = std::get_if<core::SessionClosed>(&event)) {
      const std::lock_guard lock(engine.sinks_mutex_);
      engine.sinks_.erase(number(closed->session));
    }
    return absl::OkStatus();
  }};
}

void Engine::post(core::Event event) {
  enqueue(event_input(std::move(event)));
}

Engine::Input Engine::progress_input(SessionId session, core::AttemptKey key, Progress progress) {
  progress.attempt = key.attempt;
  return {.handle = [session, key, progress](Engine& engine) {
    if (!engine.core_->speaks_for(session, key)) return absl::OkStatus();
    engine.turn_.outbox.push_back([&engine, key, progress] {
      engine.publisher_.progress_changed(engine.core_->experiment_of(key.job), key.job, progress);
      return absl::OkStatus();
    });
    return absl::OkStatus();
  }};
}

void Engine::progress(SessionId session, core::AttemptKey key, Progress progress) {
  enqueue(progress_input(session, key, std::move(progress)));
}

absl::Status Engine::append(SessionId session, core::AttemptKey key,
                            const std::function<absl::StatusOr<std::uint64_t>()>& write,
                            std::function<void(std::uint64_t)> recorded) {
  if (!core_->speaks_for(session, key)) {
    send_after_commit(session, core::Fence{key});
    return absl::OkStatus();
  }
  BITRUNG_RETURN_IF_ERROR(ensure_transaction());
  const absl::StatusOr<std::uint64_t> watermark = write();
  if (absl::IsOutOfRange(watermark.status())) {
    // A gap: the worker is ahead of what is recorded. Its session starts over and repeats from the
    // watermark.
    send_after_commit(session, core::CloseSession{std::string(message(watermark.status()))});
    return absl::OkStatus();
  }
  if (!watermark.ok()) return watermark.status();
  turn_.outbox.push_back([recorded = std::move(recorded), watermark = *watermark] {
    recorded(watermark);
    return absl::OkStatus();
  });
  return absl::OkStatus();
}

Engine::Input Engine::points_input(SessionId session, core::AttemptKey key,
                                   std::uint64_t first_sequence, std::vector<db::PointRow> points) {
  auto rows = std::make_shared<const std::vector<db::PointRow>>(std::move(points));
  return {.handle = [session, key, first_sequence, rows](Engine& engine) {
    return engine.append(
        session, key,
        [&] { return engine.store_.append_points(key.job, key.attempt, first_sequence, *rows); },
        [&engine, session, key, rows](std::uint64_t watermark) {
          engine.send(session, PointsRecorded{key, watermark});
          engine.publisher_.points_recorded(engine.core_->experiment_of(key.job), {key, rows});
        });
  }};
}

void Engine::points(SessionId session, core::AttemptKey key, std::uint64_t first_sequence,
                    std::vector<db::PointRow> points) {
  enqueue(points_input(session, key, first_sequence, std::move(points)));
}

Engine::Input Engine::logs_input(SessionId session, core::AttemptKey key, std::uint64_t first_line,
                                 std::vector<db::LogRow> lines) {
  auto rows = std::make_shared<const std::vector<db::LogRow>>(std::move(lines));
  return {.handle = [session, key, first_line, rows](Engine& engine) {
    return engine.append(
        session, key,
        [&] { return engine.store_.append_logs(key.job, key.attempt, first_line, *rows); },
        [&engine, session, key](std::uint64_t watermark) {
          engine.send(session, LogsRecorded{key, watermark});
          engine.publisher_.logs_recorded(engine.core_->experiment_of(key.job), key.job);
        });
  }};
}

void Engine::logs(SessionId session, core::AttemptKey key, std::uint64_t first_line,
                  std::vector<db::LogRow> lines) {
  enqueue(logs_input(session, key, first_line, std::move(lines)));
}

void Engine::artifact_stored(Digest sha256, std::uint64_t size_bytes) {
  enqueue({.handle = [sha256, size_bytes](Engine& engine) -> absl::Status {
    BITRUNG_RETURN_IF_ERROR(engine.ensure_transaction());
    return engine.store_.record_artifact(sha256, size_bytes, engine.clock_.now().wall_ms);
  }});
}

}  // namespace bitrung::engine
