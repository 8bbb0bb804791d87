// Life of one job: which state follows which, and what an attempt's failure means for it.
//
// Pure functions over the states; the counters live in the job. What must happen around a
// transition (rows, messages, children) is the caller's. Every state answers every event, so a new
// one cannot be forgotten.
//
//            1           2            3            4
//   blocked ---> ready ---> offered ---> running ---> succeeded
//    |  |  |      |  ^         |            |
//    |  |  |      |  +----5----+-----5------+--- 6 ---> failed
//    |  |  +--7---+--> cancelled
//    |  +--8--> skipped          offered, running --7--> cancelling --(any end)--> cancelled
//    +--9--> succeeded (also from ready)       failed, cancelled, skipped --10--> blocked
//
//   1 every parent succeeded   2 offered to a worker   3 the trainer has begun   4 its result is
//   recorded 5 the attempt ended and another follows            6 the attempt ended and none
//   follows 7 a person cancelled it    8 an ancestor failed or was cancelled 9 an equal job
//   succeeded  10 a person asked for a retry
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "db/words.h"
#include "server/core/core.h"

namespace bitrung::core {

enum class JobEvent : std::uint8_t {
  kParentsSucceeded,
  kOffered,
  kStarted,
  kSucceeded,
  kGivenUp,  // The attempt ended without deciding the job.
  kFailed,
  kCancelRequested,
  kAncestorEnded,
  kCached,
  kRevived,
};

// The state after the event; nothing if the event cannot happen in this state or changes nothing.
std::optional<JobState> next_state(JobState state, JobEvent event);

// An attempt of it exists and may still speak.
bool is_live(JobState state);

// Neither runs nor has ended: an equal job's result can still be taken.
bool is_waiting(JobState state);

// Nothing that needs it can run unless a person asks for a retry.
bool dooms_children(JobState state);

// What follows from an attempt that ended without a result.
struct Verdict {
  bool again = false;       // Ready again, after the delay; otherwise the job has failed.
  bool uses_retry = false;  // Counts against the job's retries.
  bool is_loss = false;     // Counts against Settings::losses_max.
  bool lost_too_often = false;
  std::chrono::milliseconds delay{};
};

// How often a job has been tried, before the failure in question.
struct Tries {
  std::uint32_t retries_used = 0;
  std::uint32_t retries = 0;
  std::uint32_t losses = 0;
};

Verdict judge_failure(FailureClass failure, const Tries& tries, const Settings& settings);

// The delay before retry number `retries_used` + 1: doubles with each, up to the settings' limit.
std::chrono::milliseconds retry_delay(std::uint32_t retries_used, const Settings& settings);

}  // namespace bitrung::core
