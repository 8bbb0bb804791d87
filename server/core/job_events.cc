// Events about jobs and what workers say about attempts. A statement of a session that does not
// hold the attempt changes nothing and is fenced.
#include "db/base/check.h"
#include "db/base/planted_bug.h"
#include "server/core/state.h"

namespace bitrung::core {

void Core::State::on(const Submit& event) {
  BITRUNG_CHECK(check_graph(event.jobs).ok());  // Refused by whoever took the request.
  const ExperimentId id{next_experiment_id++};
  const JobId first{next_job_id};
  next_job_id += static_cast<std::int64_t>(event.jobs.size());

  const ExperimentIndex index = jobs.add(id, first, event.jobs);
  const Experiment& experiment = jobs.experiment(index);
  effects.reserve(effects.size() + 1 + experiment.job_count);
  effects.push_back(AddExperiment{id, first, experiment.job_count});
  for (JobIndex job = experiment.first; job < jobs.size(); ++job) {
    save(job);
  }
  note_experiment(index);
  compute_chains(index);
  for (JobIndex job = experiment.first; job < jobs.size(); ++job) {
    if (jobs[job].state == JobState::kReady) {
      released.push_back(job);
    }
  }
  for (const Pin& pin : experiment.pins) {
    pin_if_agreed(pin.dataset);
  }
}

void Core::State::on(const CancelJobs& event) {
  // All named ones first: a job that is named and depends on another is cancelled, not skipped.
  std::vector<JobIndex> cancelled;
  for (const JobId id : event.jobs) {
    if (!jobs.contains(id)) continue;
    const JobIndex index = jobs.index(id);
    Job& job = jobs[index];
    if (!next_state(job.state, JobEvent::kCancelRequested).has_value()) continue;
    leave_queue(index);
    move(index, JobEvent::kCancelRequested);
    if (job.state == JobState::kCancelling) {
      const Worker& worker = fleet[fleet.live(job.live).worker];
      if (worker.connected) {
        send(worker.session, Cancel{key_of(index)});
      }
    } else {
      mark_finished(index);
    }
    cancelled.push_back(index);
  }
  for (const JobIndex index : cancelled) {
    skip_descendants(index);
  }
}

void Core::State::on(const RetryJobs& event) {
  std::vector<JobIndex> revived;
  const auto revive_if_ended = [&](JobIndex index) {
    if (next_state(jobs[index].state, JobEvent::kRevived).has_value()) {
      revive(index);
      revived.push_back(index);
    }
  };
  for (const JobId id : event.jobs) {
    if (jobs.contains(id)) {
      revive_if_ended(jobs.index(id));
    }
  }
  // Upwards: what they need; candidates only if not one of them is left. The list grows while it is
  // walked.
  for (std::size_t i = 0; i < revived.size(); ++i) {
    jobs.for_each_need(revived[i], [&](std::span<const Input> need, std::size_t) {
      if (!is_doomed(need)) return;
      for (const Input& input : need) revive_if_ended(input.value);
    });
  }
  // Downwards: what was skipped and has no other reason to stay so.
  for (std::size_t i = 0; i < revived.size(); ++i) {
    jobs.for_each_child(revived[i], [&](JobIndex child) {
      if (jobs[child].state != JobState::kSkipped) return;
      if (!is_doomed(child)) {
        revive_if_ended(child);
      }
    });
  }
  // One that needs a job which is still being cancelled can only be tried again after that.
  for (const JobIndex index : revived) {
    if (jobs[index].state != JobState::kBlocked || !is_doomed(index)) continue;
    move(index, JobEvent::kAncestorEnded);
    mark_finished(index);
    skip_descendants(index);
  }
  for (const JobIndex index : revived) {
    if (!jobs.experiment_of(jobs[index]).costs_known) {
      compute_chains(jobs[index].experiment);
    }
  }
}

void Core::State::on(const AttemptStarted& event) {
  const JobIndex index = job_spoken_for(event.session, event.key);
  if (index == kNone) return fence(event.session, event.key);
  Job& job = jobs[index];
  if (job.state != JobState::kOffered) return;  // A repeat, or it is being cancelled.
  move(index, JobEvent::kStarted);
  if (job.started_at_ms == 0) {
    job.started_at_ms = now.wall_ms;
  }
  db::AttemptRow& row = fleet.live(job.live).row;
  row.state = AttemptState::kRunning;
  row.started_at_ms = now.wall_ms;
  row.resumed_epoch = event.resumed_epoch;
  effects.push_back(SaveAttempt{row});
}

void Core::State::on(const CheckpointStored& event) {
  const JobIndex index = job_spoken_for(event.session, event.key);
  if (index == kNone) return fence(event.session, event.key);
  Job& job = jobs[index];
  RareColumns& columns = jobs.rare(index);
  const bool is_older = columns.resume.has_value() && event.epoch <= job.resume_epoch;
  if (is_older && !BITRUNG_PLANTED(RESUME_STATE_GOES_BACK)) return;
  columns.resume = event.artifact;
  job.resume_epoch = event.epoch;
  save(index);
}

void Core::State::on(const AttemptSucceeded& event) {
  const JobIndex index = job_spoken_for(event.session, event.key);
  if (index == kNone) {
    if (jobs.contains(event.key.job)) {
      const Job& job = jobs[jobs.index(event.key.job)];
      const bool is_recorded_winner = job.state == JobState::kSucceeded &&
                                      job.cached_from == JobId{} &&
                                      job.attempt == event.key.attempt;
      if (is_recorded_winner) {
        send(event.session, OutcomeReply{event.key});  // The reply to the first report was lost.
        return;
      }
    }
    return fence(event.session, event.key);
  }
  Job& job = jobs[index];
  if (job.state == JobState::kCancelling) {
    // The person asked first. The artifact stays with the attempt, not with the job.
    end_without_result(index, AttemptState::kCancelled, FailureClass::kNone, "");
  } else {
    BITRUNG_CHECK(equal[job.group].winner == kNone);
    equal[job.group].winner = index;
    end_attempt(index, AttemptState::kSucceeded, FailureClass::kNone, "");
    record_success(index, JobEvent::kSucceeded, jobs.add_result(event.result));
    if (!event.report_json.empty()) effects.push_back(SaveReport{event.key.job, event.report_json});
    measure(job, event.result);
  }
  send(event.session, OutcomeReply{event.key});
}

void Core::State::on(const AttemptFailed& event) {
  const JobIndex index = job_spoken_for(event.session, event.key);
  if (index == kNone) return fence(event.session, event.key);
  const FailureClass failure = event.failure_class == FailureClass::kNone
                                   ? FailureClass::kTrainerCrashed
                                   : event.failure_class;
  end_without_result(index, AttemptState::kFailed, failure, event.message);
  send(event.session, OutcomeReply{event.key});
}

void Core::State::on(const AttemptCancelled& event) {
  const JobIndex index = job_spoken_for(event.session, event.key);
  if (index == kNone) return fence(event.session, event.key);
  if (jobs[index].state == JobState::kCancelling) {
    end_without_result(index, AttemptState::kCancelled, FailureClass::kNone, "");
  } else {
    end_without_result(index, AttemptState::kFailed, FailureClass::kPreempted,
                       "the worker stopped the attempt without being asked to");
  }
  send(event.session, OutcomeReply{event.key});
}

}  // namespace bitrung::core
