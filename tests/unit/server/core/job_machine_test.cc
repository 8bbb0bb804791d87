#include "server/core/job_machine.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <sstream>
#include <string>

namespace bitrung::core {
namespace {

constexpr std::array kStates = {JobState::kBlocked, JobState::kReady,      JobState::kOffered,
                                JobState::kRunning, JobState::kCancelling, JobState::kSucceeded,
                                JobState::kFailed,  JobState::kCancelled,  JobState::kSkipped};
const std::map<std::string, JobEvent> kEvents = {{"parents", JobEvent::kParentsSucceeded},
                                                 {"offer", JobEvent::kOffered},
                                                 {"start", JobEvent::kStarted},
                                                 {"success", JobEvent::kSucceeded},
                                                 {"giveup", JobEvent::kGivenUp},
                                                 {"failure", JobEvent::kFailed},
                                                 {"cancel", JobEvent::kCancelRequested},
                                                 {"ancestor", JobEvent::kAncestorEnded},
                                                 {"cached", JobEvent::kCached},
                                                 {"revive", JobEvent::kRevived}};

TEST(JobMachine, EveryEventInEveryState_HasTheAnswerOfTheTable) {
  // Columns in the order of kStates; a dot is "cannot happen or changes nothing".
  const std::string table =
      //          blocked   ready     offered    running    cancelling succeeded failed  cancelled
      //          skipped
      "parents    ready     .         .          .          .          .         .       .         "
      ".\n"
      "offer      .         offered   .          .          .          .         .       .         "
      ".\n"
      "start      .         .         running    .          .          .         .       .         "
      ".\n"
      "success    .         .         succeeded  succeeded  cancelled  .         .       .         "
      ".\n"
      "giveup     .         .         ready      ready      cancelled  .         .       .         "
      ".\n"
      "failure    .         .         failed     failed     cancelled  .         .       .         "
      ".\n"
      "cancel     cancelled cancelled cancelling cancelling .          .         .       .         "
      ".\n"
      "ancestor   skipped   .         .          .          .          .         .       .         "
      ".\n"
      "cached     succeeded succeeded .          .          .          .         .       .         "
      ".\n"
      "revive     .         .         .          .          .          .         blocked blocked   "
      "blocked\n";
  std::istringstream lines(table);
  std::size_t line_count = 0;
  for (std::string event; lines >> event; ++line_count) {
    for (const JobState state : kStates) {
      std::string expected;
      lines >> expected;
      const auto next = next_state(state, kEvents.at(event));
      EXPECT_EQ(next.has_value() ? name(*next) : ".", expected) << name(state) << ", " << event;
    }
  }
  EXPECT_EQ(line_count, kEvents.size());
}

TEST(JobMachine, FailureOfTheJobItself_IsNotTriedAgain) {
  for (const FailureClass failure : {FailureClass::kUserError, FailureClass::kDiverged}) {
    const Verdict verdict = judge_failure(failure, {0, 5, 0}, {});
    EXPECT_FALSE(verdict.again);
    EXPECT_FALSE(verdict.uses_retry);
    EXPECT_FALSE(verdict.is_loss);
  }
}

TEST(JobMachine, FailureOfTheDevice_UsesRetriesUntilNoneIsLeft) {
  for (const FailureClass failure : {FailureClass::kOutOfMemory, FailureClass::kDeviceFault,
                                     FailureClass::kTimeout, FailureClass::kTrainerCrashed}) {
    const Verdict first = judge_failure(failure, {0, 2, 0}, {});
    EXPECT_TRUE(first.again);
    EXPECT_TRUE(first.uses_retry);
    EXPECT_EQ(first.delay, Settings{}.retry_delay_first);
    EXPECT_EQ(judge_failure(failure, {1, 2, 0}, {}).delay, 2 * Settings{}.retry_delay_first);
    EXPECT_FALSE(judge_failure(failure, {2, 2, 0}, {}).again);
  }
}

TEST(JobMachine, LossOfTheWorker_UsesNoRetryAndNoDelay) {
  for (const FailureClass failure : {FailureClass::kLostWorker, FailureClass::kPreempted}) {
    const Verdict verdict = judge_failure(failure, {0, 0, 0}, {});
    EXPECT_TRUE(verdict.again);
    EXPECT_TRUE(verdict.is_loss);
    EXPECT_FALSE(verdict.uses_retry);
    EXPECT_EQ(verdict.delay.count(), 0);
  }
}

TEST(JobMachine, LossAboveTheLimit_FailsTheJob) {
  Settings settings;
  settings.losses_max = 3;
  EXPECT_TRUE(judge_failure(FailureClass::kLostWorker, {0, 0, 2}, settings).again);
  const Verdict verdict = judge_failure(FailureClass::kLostWorker, {0, 0, 3}, settings);
  EXPECT_FALSE(verdict.again);
  EXPECT_TRUE(verdict.lost_too_often);
}

TEST(JobMachine, RetryDelay_DoublesUpToItsLimit) {
  Settings settings;
  settings.retry_delay_first = std::chrono::milliseconds{1'000};
  settings.retry_delay_max = std::chrono::milliseconds{5'000};
  EXPECT_EQ(retry_delay(0, settings).count(), 1'000);
  EXPECT_EQ(retry_delay(1, settings).count(), 2'000);
  EXPECT_EQ(retry_delay(2, settings).count(), 4'000);
  EXPECT_EQ(retry_delay(3, settings).count(), 5'000);
  EXPECT_EQ(retry_delay(4'000'000'000, settings).count(), 5'000);
  settings.retry_delay_first = std::chrono::milliseconds{0};
  EXPECT_EQ(retry_delay(4'000'000'000, settings).count(), 0);
}

}  // namespace
}  // namespace bitrung::core
