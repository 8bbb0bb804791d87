#include "tests/sim/checker.h"

#include <fmt/format.h>

#include <algorithm>

namespace bitrung::sim {
namespace {

std::string text(AttemptId id) {
  return fmt::format("attempt {} of job {}", id.second, number(id.first));
}

}  // namespace

void Checker::fail(std::string_view invariant, const std::string& what) {
  if (!broken_) broken_ = fmt::format("{}: {}", invariant, what);
}

bool Checker::is_live_now(AttemptId id) const {
  const Tables::Attempt* attempt = disk_.tables().attempt(id);
  return attempt != nullptr && is_live(attempt->row.state);
}

// ---- Server ----

void Checker::server_started(const core::Settings& settings, std::chrono::milliseconds now) {
  settings_ = settings;
  speakers_.clear();
  current_.clear();
  heard_.clear();
  for (const auto& [id, attempt] : disk_.tables().attempts) {
    if (is_live(attempt.row.state)) heard_[id] = now;
  }
}

void Checker::server_stopped() {
  stale_.clear();
  opened_.clear();
  may_be_lost_.clear();
}

void Checker::turn_begins() {
  may_be_lost_.clear();
  opened_.clear();
  stale_.clear();
  session_changed_ = false;
}

void Checker::heard(const core::Event& event, std::chrono::milliseconds now) {
  if (const auto* opened = std::get_if<core::SessionOpened>(&event)) {
    if (opened->term_seen > settings_.term) return;
    session_changed_ = true;
    speakers_[number(opened->session)] = opened->worker_id;
    current_[opened->worker_id] = opened->session;
    shared_cores_[opened->worker_id] = opened->shared_cores;
    std::vector<AttemptId>& held = opened_[opened->worker_id].emplace_back();
    for (const core::AttemptKey& key : opened->held) {
      held.push_back(id_of(key));
      const Tables::Attempt* attempt = disk_.tables().attempt(id_of(key));
      if (attempt != nullptr && attempt->row.worker_id == opened->worker_id) {
        heard_[id_of(key)] = now;
      }
    }
  } else if (const auto* closed = std::get_if<core::SessionClosed>(&event)) {
    session_changed_ = true;
    const auto speaker = speakers_.find(number(closed->session));
    if (speaker != speakers_.end() && current_[speaker->second] == closed->session) {
      current_.erase(speaker->second);
    }
  } else if (const auto* beat = std::get_if<core::Heartbeat>(&event)) {
    const auto speaker = speakers_.find(number(beat->session));
    if (speaker == speakers_.end()) return;
    const auto current = current_.find(speaker->second);
    if (current == current_.end() || current->second != beat->session) return;
    for (const core::AttemptKey& key : beat->held) {
      const Tables::Attempt* attempt = disk_.tables().attempt(id_of(key));
      if (attempt != nullptr && attempt->row.worker_id == speaker->second) {
        heard_[id_of(key)] = now;
      }
    }
  } else if (std::holds_alternative<core::WakeUp>(event)) {
    for (const auto& [id, last] : heard_) {
      if (now - last >= settings_.lease + settings_.lease_margin) may_be_lost_.insert(id);
    }
  }
}

void Checker::statement(SessionId session, AttemptId attempt, bool wants_answer) {
  const auto speaker = speakers_.find(number(session));
  if (!wants_answer || speaker == speakers_.end()) return;
  const auto current = current_.find(speaker->second);
  if (current == current_.end() || current->second != session) return;
  if (!is_live_now(attempt)) stale_.push_back({session, attempt, false});
}

void Checker::turn_ends() {
  for (const StaleStatement& each : stale_) {
    if (each.answered || session_changed_ || is_live_now(each.attempt)) continue;
    fail("I4", fmt::format("{} has ended, and who speaks of it is not told", text(each.attempt)));
  }
}

void Checker::appended(AttemptId id) {
  const Tables& tables = disk_.tables();
  const Tables::Attempt& attempt = *tables.attempt(id);
  if (!is_live(attempt.row.state)) {
    // The row of an attempt that ended in this turn is written after its points.
    fail("I4", fmt::format("rows were added to {}, which has ended", text(id)));
  }
  if (tables.job(id.first).state.attempt != id.second) {
    fail("I4", fmt::format("rows were added to {}, which is not the latest", text(id)));
  }
  check_prefix(id, false);
}

void Checker::check_prefix(AttemptId id, bool whole) {
  const Tables::Attempt& attempt = *disk_.tables().attempt(id);
  const std::vector<db::PointRow>& said = points_[id];
  const std::vector<std::string>& printed = lines_[id];
  if (attempt.points.size() > said.size() ||
      !std::equal(attempt.points.begin(), attempt.points.end(), said.begin())) {
    fail("I8", fmt::format("the stored points of {} are not what its trainer said", text(id)));
  }
  if (attempt.lines.size() > printed.size() ||
      !std::equal(
          attempt.lines.begin(), attempt.lines.end(), printed.begin(),
          [](const db::LogRow& row, const std::string& line) { return row.text == line; })) {
    fail("I8", fmt::format("the stored lines of {} are not what its trainer said", text(id)));
  }
  if (whole && attempt.points.size() != said.size()) {
    fail("I8", fmt::format("{} succeeded with {} of {} points", text(id), attempt.points.size(),
                           said.size()));
  }
}

void Checker::committed(const Changes& changes, std::chrono::milliseconds now) {
  for (const auto& [id, before] : changes.attempts) check_attempt(id, before, now);
  for (const auto& [id, before] : changes.jobs) check_job(id, before);
}

void Checker::check_attempt(AttemptId id, const std::optional<db::AttemptRow>& before,
                            std::chrono::milliseconds now) {
  const Tables& tables = disk_.tables();
  const db::AttemptRow& row = tables.attempt(id)->row;
  if (!before) {
    heard_.try_emplace(id, now);
    if (id.second > 1 && tables.attempt({id.first, id.second - 1}) == nullptr) {
      fail("I4", fmt::format("{} follows no attempt", text(id)));
    }
    if (is_live(row.state)) {
      for (const auto& [other, attempt] : tables.attempts) {
        if (other != id && is_live(attempt.row.state) && attempt.row.worker_id == row.worker_id &&
            attempt.row.slot == row.slot) {
          fail("I5", fmt::format("{} and {} have the same slot", text(id), text(other)));
        }
      }
      check_cores(row.worker_id);
    }
  }
  if (is_live(row.state)) {
    if (tables.job(id.first).state.attempt != id.second) {
      fail("I4", fmt::format("{} is live, but not the latest", text(id)));
    }
    return;
  }
  if (row.state == AttemptState::kLost) {
    const auto opened = opened_.find(row.worker_id);
    const bool came_back_without =
        opened != opened_.end() &&
        std::ranges::any_of(opened->second, [id](const std::vector<AttemptId>& held) {
          return std::ranges::find(held, id) == held.end();
        });
    if (!came_back_without && !may_be_lost_.contains(id)) {
      fail("I5", fmt::format("{} was given up {} ms after it was heard of; lease and margin are {}",
                             text(id), (now - heard_[id]).count(),
                             (settings_.lease + settings_.lease_margin).count()));
    }
  }
  heard_.erase(id);
}

void Checker::check_cores(const std::string& worker_id) {
  const std::uint32_t cores = shared_cores_[worker_id];
  if (cores == 0) return;
  std::uint32_t granted = 0;
  for (const auto& [id, attempt] : disk_.tables().attempts) {
    if (!is_live(attempt.row.state) || attempt.row.worker_id != worker_id) continue;
    granted += attempt.row.threads;
    if (attempt.row.threads == 0) fail("I5", fmt::format("{} has no core", text(id)));
  }
  if (granted > cores) {
    fail("I5",
         fmt::format("{} cores of worker {} are granted, it has {}", granted, worker_id, cores));
  }
}

void Checker::check_job(JobId id, const std::optional<db::JobStateRow>& before) {
  const Tables& tables = disk_.tables();
  const db::JobStateRow& row = tables.job(id).state;
  if (before && row.attempt < before->attempt) {
    fail("I4", fmt::format("the attempts of job {} went back", number(id)));
  }
  if (row.resume) {
    const auto origin = origins_.find(*row.resume);
    if (origin == origins_.end() || origin->second.is_model || origin->second.attempt.first != id ||
        origin->second.epoch != row.resume_epoch) {
      fail("I10", fmt::format("the resume state of job {} is not one of its own", number(id)));
    }
    if (!uploaded_.contains(*row.resume)) {
      fail("I9", fmt::format("job {} refers to a resume state that is not here", number(id)));
    }
    if (before && before->resume && row.resume_epoch < before->resume_epoch) {
      fail("I10", fmt::format("the resume state of job {} went back from epoch {} to {}",
                              number(id), before->resume_epoch, row.resume_epoch));
    }
  } else if (before && before->resume) {
    fail("I10", fmt::format("the resume state of job {} was forgotten", number(id)));
  }
  if (row.state != JobState::kSucceeded) return;

  const db::ResultRow& result = *row.result;
  const auto [winner, is_new] = winners_.try_emplace(id, row.attempt, result);
  if (!is_new && (winner->second.first != row.attempt || winner->second.second != result)) {
    fail("I3", fmt::format("the result of job {} changed", number(id)));
  }
  if (!uploaded_.contains(result.artifact)) {
    fail("I9", fmt::format("job {} succeeded with an artifact that is not here", number(id)));
  }
  if (row.cached_from) {
    const db::JobStateRow& original = tables.job(*row.cached_from).state;
    if (original.state != JobState::kSucceeded || original.result != row.result ||
        original.identity != row.identity) {
      fail("I3", fmt::format("job {} took a result that is not an equal job's", number(id)));
    }
    return;
  }
  if (!is_new) return;
  const AttemptId attempt(id, row.attempt);
  const Tables::Attempt* stored = tables.attempt(attempt);
  const auto origin = origins_.find(result.artifact);
  if (stored == nullptr || stored->row.state != AttemptState::kSucceeded ||
      origin == origins_.end() || !origin->second.is_model || origin->second.attempt != attempt ||
      origin->second.worker_id != stored->row.worker_id) {
    fail("I4", fmt::format("job {} succeeded with what attempt {} did not make", number(id),
                           row.attempt));
    return;
  }
  if (before && before->state == JobState::kCancelling && before->attempt == row.attempt) {
    fail("I3", fmt::format("{} won although it had been cancelled", text(attempt)));
  }
  check_prefix(attempt, true);
}

void Checker::said(SessionId session, const engine::ToWorker& message) {
  if (disk_.in_transaction()) fail("I1", "something was said before it was committed");
  const auto about = [&](const core::AttemptKey& key) {
    for (StaleStatement& each : stale_) {
      if (each.session == session && each.attempt == id_of(key)) each.answered = true;
    }
  };
  std::visit(Overload{
                 [&](const core::Welcome&) {},
                 [&](const engine::FullOffer& full) { check_offer(session, full.offer); },
                 [&](const core::Cancel&) {},
                 [&](const core::Fence& fence) {
                   about(fence.key);
                   // A worker hears only its newest session; an older one may be told anything.
                   const AttemptId id = id_of(fence.key);
                   const std::string& speaker = speakers_[number(session)];
                   if (is_live_now(id) && current_[speaker] == session &&
                       disk_.tables().attempt(id)->row.worker_id == speaker) {
                     fail("I11", fmt::format("{} is live and was taken from its worker",
                                             text(id_of(fence.key))));
                   }
                 },
                 [&](const core::HeartbeatReply&) {},
                 [&](const core::OutcomeReply& reply) {
                   about(reply.key);
                   const AttemptId id = id_of(reply.key);
                   const Tables::Attempt* attempt = disk_.tables().attempt(id);
                   if (attempt == nullptr || is_live(attempt->row.state)) {
                     fail("I7", fmt::format("the outcome of {} was acknowledged and is not stored",
                                            text(id)));
                   } else if (attempt->row.state == AttemptState::kSucceeded) {
                     acknowledged_outcomes_.insert(id);
                   }
                 },
                 [&](const core::CloseSession&) { session_changed_ = true; },
                 [&](const engine::PointsRecorded& recorded) {
                   about(recorded.key);
                   const Tables::Attempt* attempt = disk_.tables().attempt(id_of(recorded.key));
                   if (attempt == nullptr || attempt->points.size() < recorded.watermark) {
                     fail("I8", fmt::format("points of {} were acknowledged and are not stored",
                                            text(id_of(recorded.key))));
                   }
                 },
                 [&](const engine::LogsRecorded& recorded) {
                   about(recorded.key);
                   const Tables::Attempt* attempt = disk_.tables().attempt(id_of(recorded.key));
                   if (attempt == nullptr || attempt->lines.size() < recorded.watermark) {
                     fail("I8", fmt::format("lines of {} were acknowledged and are not stored",
                                            text(id_of(recorded.key))));
                   }
                 },
             },
             message);
}

void Checker::check_offer(SessionId session, const core::Offer& offer) {
  const Tables& tables = disk_.tables();
  const AttemptId id = id_of(offer.key);
  const Tables::Attempt* attempt = tables.attempt(id);
  if (attempt == nullptr || attempt->row.worker_id != speakers_[number(session)] ||
      attempt->row.slot != offer.slot || attempt->row.threads != offer.threads) {
    fail("I4", fmt::format("{} was offered and is not stored so", text(id)));
    return;
  }
  const Tables::Job& job = tables.job(offer.key.job);
  std::vector<std::pair<InputRole, Digest>> wanted;
  for (std::size_t i = 0; i < job.spec.inputs.size(); ++i) {
    const db::InputRow& input = job.spec.inputs[i];
    if (input.choice > 0 && std::ranges::find(job.state.chosen, i) == job.state.chosen.end()) {
      continue;
    }
    if (input.artifact) {
      wanted.emplace_back(input.role, *input.artifact);
      continue;
    }
    const db::JobStateRow& parent = tables.job(*input.parent).state;
    if (parent.state != JobState::kSucceeded) {
      fail("I6", fmt::format("{} was offered before its parent, job {}, succeeded", text(id),
                             number(*input.parent)));
      return;
    }
    wanted.emplace_back(input.role, parent.result->artifact);
  }
  if (offer.inputs != wanted) {
    fail("I6", fmt::format("{} was offered with other inputs than its parents' results", text(id)));
  }
}

void Checker::answered_submit(const std::string& request, const Digest& content,
                              const absl::StatusOr<engine::SubmitAnswer>& answer) {
  const Tables& tables = disk_.tables();
  const auto earlier = submits_.find(request);
  if (!answer.ok()) {
    if (absl::IsAlreadyExists(answer.status())) {
      const auto stored = tables.requests.find(request);
      if (stored == tables.requests.end() || stored->second.sha256 == content) {
        fail("I2", fmt::format("request {} was refused although it was sent before", request));
      }
    }
    return;
  }
  if (disk_.in_transaction()) fail("I1", "a submit was acknowledged before it was committed");
  const auto stored = tables.requests.find(request);
  if (stored == tables.requests.end() || stored->second.id != answer->id) {
    fail("I1", fmt::format("request {} was acknowledged and is not stored", request));
    return;
  }
  if (stored->second.sha256 != content) {
    fail("I2", fmt::format("request {} was answered for another content", request));
  }
  if (earlier != submits_.end() && earlier->second.id != answer->id) {
    fail("I2", fmt::format("request {} has two answers", request));
  }
  submits_[request] = {answer->id, content};
}

void Checker::answered_cancel() {
  if (disk_.in_transaction()) fail("I1", "a request was acknowledged before it was committed");
}

void Checker::explained(JobId job, const absl::StatusOr<std::vector<core::Reason>>& answer) {
  if (absl::IsUnavailable(answer.status()) || absl::IsResourceExhausted(answer.status())) return;
  if (!answer.ok() || answer->empty()) {
    fail("I13", fmt::format("there is no reason why job {} is where it is", number(job)));
  }
}

// ---- Workers ----

void Checker::trains(const agent::SendTrain& train, bool offer_is_durable, Micros now) {
  const AttemptId id = id_of(train.offer.key);
  const Tables::Attempt* attempt = disk_.tables().attempt(id);
  if (attempt == nullptr) {
    fail("I4", fmt::format("{} trains and was never stored", text(id)));
    return;
  }
  if (!offer_is_durable) {
    fail("I7", fmt::format("{} trains before its offer is in the spool", text(id)));
  }
  if (!trained_.insert(id).second) fail("I5", fmt::format("{} trains twice", text(id)));
  for (const agent::OfferInput& input : train.offer.inputs) {
    if (!train.paths.contains(input.artifact)) {
      fail("I6", fmt::format("{} trains without one of its inputs", text(id)));
    }
  }
  const std::string& worker_id = attempt->row.worker_id;
  const std::uint32_t shared_cores = shared_cores_[worker_id];
  if (train.cores.size() != (shared_cores > 0 ? attempt->row.threads : 0)) {
    fail("I5", fmt::format("{} trains on {} cores and was granted {}", text(id), train.cores.size(),
                           attempt->row.threads));
  }
  for (const std::uint32_t core : train.cores) {
    for (const auto& [other, training] : training_) {
      if (training.worker_id == worker_id && std::ranges::count(training.cores, core) > 0) {
        fail("I5", fmt::format("{} and {} train on the same core", text(id), text(other)));
      }
    }
  }
  training_[id] = {worker_id, now, std::nullopt, train.cores};
}

void Checker::training_ended(AttemptId id, Micros now) {
  const auto ended = training_.find(id);
  if (ended == training_.end()) return;
  for (const auto& [other, training] : training_) {
    if (other.first != id.first || other == id) continue;
    overlap_ += now - std::max(training.since, ended->second.since);
  }
  training_.erase(ended);
}

void Checker::begins_at(const agent::Offer& offer, std::uint32_t epoch) {
  const std::uint32_t wanted = offer.resume ? origins_.at(*offer.resume).epoch : 0;
  if (epoch != wanted) {
    fail("I10", fmt::format("{} continues from epoch {} instead of {}", text(id_of(offer.key)),
                            epoch, wanted));
  }
}

void Checker::measured(AttemptId id, const std::vector<agent::Point>& points) {
  for (const agent::Point& point : points) {
    points_[id].push_back({point.series, point.step, point.value});
  }
}

void Checker::printed(AttemptId id, const agent::LogLine& line) {
  lines_[id].push_back(line.text);
}

void Checker::says(const Statement& statement, bool outcome_is_durable) {
  if (const auto* points = std::get_if<PointsStatement>(&statement)) {
    if (points->points.size() > agent::kPointsPerBatchMax) fail("I12", "a batch is too large");
  } else if (const auto* lines = std::get_if<LinesStatement>(&statement)) {
    if (lines->lines.size() > agent::kLinesPerBatchMax) fail("I12", "a batch is too large");
  } else if (const auto* said = std::get_if<agent::SendOutcome>(&statement)) {
    if (std::holds_alternative<agent::Succeeded>(said->outcome) && !outcome_is_durable) {
      fail("I7",
           fmt::format("the success of {} is said and could be forgotten", text(id_of(said->key))));
    }
  }
}

void Checker::deletes(AttemptId id) {
  if (is_live_now(id)) {
    fail("I7", fmt::format("the worker drops {}, which the server waits for", text(id)));
  }
}

void Checker::fenced(AttemptId id, Micros until) {
  const auto training = training_.find(id);
  if (training == training_.end() || training->second.must_end_by) return;
  training->second.must_end_by = until;
}

void Checker::paused(const std::string& worker_id, Micros by) {
  for (auto& [id, training] : training_) {
    if (training.worker_id == worker_id && training.must_end_by) *training.must_end_by += by;
  }
}

void Checker::audit(Micros now) {
  const Tables& tables = disk_.tables();
  for (const auto& [request, acknowledged] : submits_) {
    const auto stored = tables.requests.find(request);
    if (stored == tables.requests.end() || stored->second.id != acknowledged.id) {
      fail("I1", fmt::format("request {} was acknowledged and is gone", request));
    }
  }
  std::map<JobId, int> winners;
  for (const auto& [id, attempt] : tables.attempts) {
    if (attempt.row.state == AttemptState::kSucceeded && ++winners[id.first] > 1) {
      fail("I3", fmt::format("job {} has two winners", number(id.first)));
    }
    check_prefix(id, attempt.row.state == AttemptState::kSucceeded);
  }
  for (const auto& [id, winner] : winners_) {
    const db::JobStateRow& row = tables.job(id).state;
    if (row.state != JobState::kSucceeded || row.attempt != winner.first ||
        row.result != winner.second) {
      fail("I3", fmt::format("the result of job {} is gone", number(id)));
    }
  }
  for (const AttemptId& id : acknowledged_outcomes_) {
    const Tables::Attempt* attempt = tables.attempt(id);
    if (attempt == nullptr || attempt->row.state != AttemptState::kSucceeded ||
        tables.job(id.first).state.attempt != id.second) {
      fail("I7", fmt::format("the result of {} was acknowledged and is gone", text(id)));
    }
  }
  for (const auto& [id, training] : training_) {
    if (training.must_end_by && now > *training.must_end_by) {
      fail("I4", fmt::format("{} was fenced and trains on", text(id)));
    }
  }
}

}  // namespace bitrung::sim
