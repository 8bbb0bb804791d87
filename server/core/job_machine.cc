#include "server/core/job_machine.h"

#include <algorithm>

#include "db/base/check.h"

namespace bitrung::core {
namespace {

std::optional<JobState> after_blocked(JobEvent event) {
  switch (event) {
    case JobEvent::kParentsSucceeded:
      return JobState::kReady;
    case JobEvent::kCancelRequested:
      return JobState::kCancelled;
    case JobEvent::kAncestorEnded:
      return JobState::kSkipped;
    case JobEvent::kCached:
      return JobState::kSucceeded;
    case JobEvent::kOffered:
    case JobEvent::kStarted:
    case JobEvent::kSucceeded:
    case JobEvent::kGivenUp:
    case JobEvent::kFailed:
    case JobEvent::kRevived:
      return std::nullopt;
  }
  return std::nullopt;
}

std::optional<JobState> after_ready(JobEvent event) {
  switch (event) {
    case JobEvent::kOffered:
      return JobState::kOffered;
    case JobEvent::kCancelRequested:
      return JobState::kCancelled;
    case JobEvent::kCached:
      return JobState::kSucceeded;
    case JobEvent::kParentsSucceeded:
    case JobEvent::kStarted:
    case JobEvent::kSucceeded:
    case JobEvent::kGivenUp:
    case JobEvent::kFailed:
    case JobEvent::kAncestorEnded:  // All parents have succeeded; they cannot end otherwise any
                                    // more.
    case JobEvent::kRevived:
      return std::nullopt;
  }
  return std::nullopt;
}

// A result may arrive before the word that the trainer has begun, so offered answers as running
// does.
std::optional<JobState> after_offered_or_running(JobState state, JobEvent event) {
  switch (event) {
    case JobEvent::kStarted:
      if (state == JobState::kOffered) return JobState::kRunning;
      return std::nullopt;
    case JobEvent::kSucceeded:
      return JobState::kSucceeded;
    case JobEvent::kGivenUp:
      return JobState::kReady;
    case JobEvent::kFailed:
      return JobState::kFailed;
    case JobEvent::kCancelRequested:
      return JobState::kCancelling;
    case JobEvent::kParentsSucceeded:
    case JobEvent::kOffered:
    case JobEvent::kAncestorEnded:
    case JobEvent::kCached:  // The one that runs is the one that the others wait for.
    case JobEvent::kRevived:
      return std::nullopt;
  }
  return std::nullopt;
}

// The person asked first: however the attempt ends, the job is cancelled.
std::optional<JobState> after_cancelling(JobEvent event) {
  switch (event) {
    case JobEvent::kSucceeded:
    case JobEvent::kGivenUp:
    case JobEvent::kFailed:
      return JobState::kCancelled;
    case JobEvent::kParentsSucceeded:
    case JobEvent::kOffered:
    case JobEvent::kStarted:
    case JobEvent::kCancelRequested:
    case JobEvent::kAncestorEnded:
    case JobEvent::kCached:
    case JobEvent::kRevived:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

std::optional<JobState> next_state(JobState state, JobEvent event) {
  switch (state) {
    case JobState::kBlocked:
      return after_blocked(event);
    case JobState::kReady:
      return after_ready(event);
    case JobState::kOffered:
    case JobState::kRunning:
      return after_offered_or_running(state, event);
    case JobState::kCancelling:
      return after_cancelling(event);
    case JobState::kSucceeded:
      return std::nullopt;
    case JobState::kFailed:
    case JobState::kCancelled:
    case JobState::kSkipped:
      if (event == JobEvent::kRevived) return JobState::kBlocked;
      return std::nullopt;
  }
  BITRUNG_CHECK(false && "a job state outside the enumeration");
  return std::nullopt;
}

bool is_live(JobState state) {
  return state == JobState::kOffered || state == JobState::kRunning ||
         state == JobState::kCancelling;
}

bool is_waiting(JobState state) {
  return state == JobState::kBlocked || state == JobState::kReady;
}

bool dooms_children(JobState state) {
  return state == JobState::kFailed || state == JobState::kCancelled ||
         state == JobState::kSkipped || state == JobState::kCancelling;
}

Verdict judge_failure(FailureClass failure, const Tries& tries, const Settings& settings) {
  Verdict verdict;
  switch (failure) {
    case FailureClass::kUserError:
    case FailureClass::kDiverged:
      return verdict;  // The same would happen again.
    case FailureClass::kLostWorker:
    case FailureClass::kPreempted:
      verdict.is_loss = true;
      verdict.lost_too_often = tries.losses >= settings.losses_max;
      verdict.again = !verdict.lost_too_often;
      return verdict;
    case FailureClass::kNone:  // A failure without a class: as little is known as after a crash.
    case FailureClass::kOutOfMemory:
    case FailureClass::kDeviceFault:
    case FailureClass::kTimeout:
    case FailureClass::kTrainerCrashed:
      if (tries.retries_used < tries.retries) {
        verdict.again = true;
        verdict.uses_retry = true;
        verdict.delay = retry_delay(tries.retries_used, settings);
      }
      return verdict;
  }
  BITRUNG_CHECK(false && "a failure class outside the enumeration");
  return verdict;
}

std::chrono::milliseconds retry_delay(std::uint32_t retries_used, const Settings& settings) {
  std::chrono::milliseconds delay = std::min(settings.retry_delay_first, settings.retry_delay_max);
  for (std::uint32_t i = 0; i < retries_used && delay < settings.retry_delay_max; ++i) {
    delay = std::min(2 * delay, settings.retry_delay_max);
    if (delay.count() <= 0) break;  // A first delay of 0 stays 0.
  }
  return delay;
}

}  // namespace bitrung::core
