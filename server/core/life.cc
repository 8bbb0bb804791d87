// What goes with each transition of a job: rows, children, equal jobs, the slot.
#include <fmt/format.h>

#include <algorithm>

#include "db/base/check.h"
#include "server/core/state.h"

namespace bitrung::core {

void Core::State::move(JobIndex job, JobEvent event) {
  const std::optional<JobState> next = next_state(jobs[job].state, event);
  BITRUNG_CHECK(next.has_value());
  jobs.set_state(job, *next);
  save(job);
  Experiment& experiment = jobs.experiment(jobs[job].experiment);
  if (experiment.unfinished == 0) {
    finish_candidates.push_back(jobs[job].experiment);
  } else if (experiment.finished) {
    experiment.finished = false;
    effects.push_back(SaveExperimentFinished{experiment.id, 0});
  }
}

void Core::State::save(JobIndex job) {
  if (jobs[job].saved_this_step) return;
  jobs[job].saved_this_step = true;
  saved.push_back(job);
  effects.push_back(SaveJob{jobs.id(job)});
}

void Core::State::mark_finished(JobIndex job) {
  BITRUNG_CHECK(is_terminal(jobs[job].state));
  jobs[job].finished_at_ms = now.wall_ms;
}

void Core::State::leave_queue(JobIndex job) {
  if (jobs[job].queue != kNone) {
    scheduler.remove(jobs, job);
  }
  if (const auto retry_at = std::as_const(jobs).rare(job).retry_at) {
    BITRUNG_CHECK(retries.erase({*retry_at, job}) == 1);
    jobs.rare(job).retry_at.reset();
  }
}

void Core::State::skip_descendants(JobIndex job) {
  std::vector<JobIndex> doomed = {job};
  while (!doomed.empty()) {
    const JobIndex parent = doomed.back();
    doomed.pop_back();
    jobs.for_each_child(parent, [&](JobIndex child) {
      if (jobs[child].has_choices) {
        review_choices(child);
        if (!is_doomed(child)) return;
      }
      // A child that has ended stays as it is; below one that took an equal job's result nothing is
      // missing.
      if (jobs[child].state != JobState::kBlocked) return;
      move(child, JobEvent::kAncestorEnded);
      mark_finished(child);
      doomed.push_back(child);
    });
  }
}

void Core::State::end_attempt(JobIndex index, AttemptState state, FailureClass failure,
                              const std::string& error) {
  Job& job = jobs[index];
  BITRUNG_CHECK(is_live(job.state) && job.live != kNone);
  scheduler.worker_changed(fleet.live(job.live).worker);
  db::AttemptRow row = fleet.end(job.live);
  job.live = kNone;
  row.state = state;
  row.failure_class = failure;
  row.error = error;
  row.finished_at_ms = now.wall_ms;
  effects.push_back(SaveAttempt{std::move(row)});

  EqualGroup& group = equal[job.group];
  BITRUNG_CHECK(group.live == index);
  group.live = kNone;
  release_equal_jobs(job.group);
}

void Core::State::end_without_result(JobIndex index, AttemptState state, FailureClass failure,
                                     const std::string& error) {
  Job& job = jobs[index];
  if (job.state == JobState::kCancelling) {
    const bool is_lost = state == AttemptState::kLost;
    end_attempt(index, is_lost ? AttemptState::kLost : AttemptState::kCancelled, failure, error);
    move(index, JobEvent::kGivenUp);
    mark_finished(index);
    skip_descendants(index);
    return;
  }
  end_attempt(index, state, failure, error);
  const Verdict verdict =
      judge_failure(failure, {job.retries_used, job.retries, job.losses}, settings);
  job.failure_class = failure;
  job.retries_used += verdict.uses_retry ? 1 : 0;
  job.losses += verdict.is_loss ? 1 : 0;
  jobs.rare(index).error =
      verdict.lost_too_often
          ? fmt::format(
                "{} attempts of the job ended together with their worker, the limit is {}; "
                "the job may be what ends them: {}",
                job.losses, settings.losses_max, error)
          : error;
  if (!verdict.again) {
    move(index, JobEvent::kFailed);
    mark_finished(index);
    skip_descendants(index);
    return;
  }
  move(index, JobEvent::kGivenUp);
  if (verdict.delay.count() > 0) {
    const auto retry_at = now.monotonic + verdict.delay;
    jobs.rare(index).retry_at = retry_at;
    retries.emplace(retry_at, index);
  } else {
    released.push_back(index);
  }
}

void Core::State::record_success(JobIndex index, JobEvent event, std::uint32_t result) {
  Job& job = jobs[index];
  move(index, event);
  BITRUNG_CHECK(job.state == JobState::kSucceeded && job.result == kNone);
  mark_finished(index);
  job.result = result;
  job.failure_class = FailureClass::kNone;
  if (job.rare != kNone) {
    jobs.rare(index).error.clear();
  }
  jobs.for_each_child(index, [&](JobIndex child) {
    if (jobs[child].has_choices) return review_choices(child);
    BITRUNG_CHECK(jobs[child].parents_left > 0);
    if (--jobs[child].parents_left == 0) {
      released.push_back(child);
    }
  });
}

void Core::State::take_result_of(JobIndex index, JobIndex winner) {
  leave_queue(index);
  record_success(index, JobEvent::kCached, jobs[winner].result);
  const JobId original = jobs[winner].cached_from;
  jobs[index].cached_from = original != JobId{} ? original : jobs.id(winner);
}

void Core::State::review_choices(JobIndex index) {
  bool has_chosen = false;
  jobs.for_each_need(index, [&](std::span<const Input> need, std::size_t position) {
    if (need.front().choice == 0) return;
    std::optional<std::size_t> best;
    const auto accuracy = [&](std::size_t of) {
      return jobs.result(jobs[need[of].value].result).validation_accuracy;
    };
    for (std::size_t i = 0; i < need.size(); ++i) {
      const JobState state = jobs[need[i].value].state;
      if (need[i].kind == Input::Kind::kChosen) return;
      if (dooms_children(state)) continue;
      if (state != JobState::kSucceeded) return;
      // No accuracy is less than any number.
      if (!best.has_value() || accuracy(i) > accuracy(*best)) best = i;
    }
    if (!best.has_value()) return;
    jobs.choose(index, position + *best);
    has_chosen = true;
  });
  Job& job = jobs[index];
  const bool has_waited = job.parents_left > 0;
  job.parents_left = parents_left(index);
  if (has_chosen) {
    save(index);
    learn_identities({index});
  }
  if (has_waited && job.parents_left == 0) {
    released.push_back(index);
  }
}

std::uint32_t Core::State::parents_left(JobIndex index) const {
  std::uint32_t count = 0;
  jobs.for_each_need(index, [&](std::span<const Input> need, std::size_t) {
    const Input& first = need.front();
    if (!first.is_job()) return;
    const bool is_met =
        first.choice == 0 ? jobs[first.value].state == JobState::kSucceeded : is_chosen(need);
    count += is_met ? 0 : 1;
  });
  return count;
}

bool Core::State::is_doomed(std::span<const Input> need) const {
  return std::ranges::all_of(need, [this](const Input& input) {
    return input.is_job() && dooms_children(jobs[input.value].state);
  });
}

bool Core::State::is_doomed(JobIndex index) const {
  bool is_any_doomed = false;
  jobs.for_each_need(index, [&](std::span<const Input> need, std::size_t) {
    is_any_doomed = is_any_doomed || is_doomed(need);
  });
  return is_any_doomed;
}

void Core::State::revive(JobIndex index) {
  Job& job = jobs[index];
  move(index, JobEvent::kRevived);
  job.retries_used = 0;
  job.losses = 0;
  job.failure_class = FailureClass::kNone;
  job.finished_at_ms = 0;
  if (job.rare != kNone) {
    jobs.rare(index).error.clear();
  }
  released.push_back(index);
}

}  // namespace bitrung::core
