// The main path of a job, and what a repeated or late statement does to it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/server/core/world.h"

namespace bitrung::core {
namespace {

using testing::ElementsAre;
using testing::Pair;

constexpr milliseconds kLeaseAndMargin{70'000};

TEST(Submit, Jobs_GetConsecutiveNumbersAndTheirFirstState) {
  World world("a\nb <- a\n");
  world.submit("c\n");
  EXPECT_EQ(world.job("a"), JobId{1});
  EXPECT_EQ(world.job("b"), JobId{2});
  EXPECT_EQ(world.job("2/c"), JobId{3});
  EXPECT_EQ(world.core().experiment_of(JobId{3}), ExperimentId{2});
  EXPECT_THAT(world.core().jobs_of(ExperimentId{1}), ElementsAre(JobId{1}, JobId{2}));
  EXPECT_THAT(world.core().jobs_of(ExperimentId{9}), ElementsAre());
  EXPECT_FALSE(world.core().contains(JobId{4}));
  EXPECT_FALSE(world.core().contains(JobId{0}));
  world.expect_states("a ready, b blocked, 2/c ready");
  EXPECT_EQ(world.explain("a"), "no worker");
  EXPECT_EQ(world.explain("b"), "waits for a (ready)");
  world.expect_nothing_else();
}

TEST(Life, OfTwoJobs_RunsTheChildWithTheParentsArtifact) {
  World world("teacher\nstudent <- teacher, init teacher\n");
  world.join("w1");
  world.expect("w1: welcome");
  world.expect("w1: offer teacher#1");
  world.expect_nothing_else();
  EXPECT_EQ(world.explain("teacher"), "offered to w1 #1");
  EXPECT_EQ(world.attempt("teacher#1").state, AttemptState::kOffered);
  EXPECT_EQ(world.attempt("teacher#1").device, "cuda:0");
  EXPECT_EQ(world.attempt("teacher#1").worker_name, "w1");

  world.sleep(milliseconds{500}).start("w1", "teacher#1");
  world.expect_nothing_else();
  EXPECT_EQ(world.explain("teacher"), "runs on w1 #1 for 69500 ms");
  EXPECT_EQ(world.attempt("teacher#1").state, AttemptState::kRunning);
  const auto started_at_ms = world.row("teacher").started_at_ms;
  EXPECT_EQ(started_at_ms, world.now().wall_ms);

  world.succeed("w1", "teacher#1");
  world.expect("w1: recorded teacher#1");
  world.expect("w1: offer student#1");
  world.expect_nothing_else();
  EXPECT_EQ(world.attempt("teacher#1").state, AttemptState::kSucceeded);
  const Digest artifact = artifact_of(world.job("teacher"), 1);
  EXPECT_EQ(world.row("teacher").result->artifact, artifact);
  EXPECT_THAT(world.last_offer()->inputs,
              ElementsAre(Pair(InputRole::kTeacher, artifact), Pair(InputRole::kInit, artifact)));
  EXPECT_EQ(world.last_offer()->dataset, copy_digest("copy A"));
  EXPECT_FALSE(world.last_offer()->resume.has_value());
  EXPECT_EQ(world.stored().finished_at_ms(ExperimentId{1}), 0);

  world.start("w1", "student#1").succeed("w1", "student#1");
  world.expect("w1: recorded student#1");
  world.expect_nothing_else();
  EXPECT_EQ(world.explain("student"), "ended");
  EXPECT_EQ(world.stored().finished_at_ms(ExperimentId{1}), world.now().wall_ms);
}

TEST(Life, OutsideArtifact_IsAnInputOfTheOffer) {
  World world("student artifact=resnet110\n");
  world.join("w1");
  EXPECT_THAT(world.last_offer()->inputs,
              ElementsAre(Pair(InputRole::kTeacher, sha256("resnet110"))));
}

TEST(Life, Success_BeforeTheWordThatItStarted_Counts) {
  World world("a\n");
  world.join("w1").succeed("w1", "a#1");
  world.expect_states("a succeeded");
}

TEST(Life, ChildOfTwoParents_WaitsForBoth) {
  World world("a\nb\nc <- a, init b\n");
  world.join("w1", {.slots = {16, 16}});
  world.succeed("w1", "a#1");
  world.expect_states("a succeeded, b offered, c blocked");
  EXPECT_EQ(world.explain("c"), "waits for b (offered)");
  world.forget_messages();
  world.succeed("w1", "b#1");
  world.expect("w1: recorded b#1");
  world.expect("w1: offer c#1");
  world.expect_nothing_else();
}

TEST(Started, Repeated_ChangesNothing) {
  World world("a\n");
  world.join("w1").start("w1", "a#1");
  const auto before = world.attempt("a#1");
  world.forget_messages();
  world.sleep(milliseconds{10}).start("w1", "a#1");
  world.expect_nothing_else();
  EXPECT_EQ(world.attempt("a#1"), before);
}

TEST(Started, SecondAttempt_KeepsTheFirstStartOfTheJob) {
  World world("a\n");
  world.join("w1").start("w1", "a#1");
  const auto first = world.row("a").started_at_ms;
  world.sleep(milliseconds{10}).fail("w1", "a#1", FailureClass::kPreempted);
  world.start("w1", "a#2", 7);
  EXPECT_EQ(world.row("a").started_at_ms, first);
  EXPECT_EQ(world.attempt("a#2").started_at_ms, world.now().wall_ms);
  EXPECT_EQ(world.attempt("a#2").resumed_epoch, 7u);
}

TEST(Success, Repeated_IsAnsweredAgainAndChangesNothing) {
  World world("a\n");
  world.join("w1").succeed("w1", "a#1");
  world.forget_messages();
  const auto before = world.row("a");
  world.sleep(milliseconds{10}).succeed("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect_nothing_else();
  EXPECT_EQ(world.row("a"), before);
}

TEST(Success, HasItsReportSaved_ALateOrRepeatedOneHasNot) {
  World world("a\nb\n");
  world.join("w1").join("w2").succeed("w1", "a#1").succeed("w1", "a#1");
  EXPECT_EQ(world.reports(), "report of a#1");
  world.cancel("b").succeed("w2", "b#1");  // The person asked first.
  EXPECT_EQ(world.reports(), "report of a#1");
}

TEST(Success, OfAFencedAttempt_IsFencedAndChangesNothing) {
  // w1 sleeps through its lease; the job goes to w2; w1 wakes up and reports.
  World world("a\nb <- a\n");
  world.join("w1").join("w2");
  world.start("w1", "a#1").forget_messages();
  world.advance(kLeaseAndMargin);
  world.expect("w1: fence a#1");
  world.expect("w1: offer a#2");  // It speaks, so it may have it again: w1 comes before w2.
  world.leave("w1").heartbeat("w2", "").advance(kLeaseAndMargin);
  world.expect("w2: alive 1");
  world.expect("w2: offer a#3");
  world.expect_nothing_else();

  world.join("w1", {}, "a#2");
  world.expect("w1: welcome fenced a#2");
  world.succeed("w1", "a#1");
  world.expect("w1: fence a#1");
  world.succeed("w1", "a#2");
  world.expect("w1: fence a#2");
  world.succeed("w1", "a#3");  // Of another worker.
  world.expect("w1: fence a#3");
  world.succeed("w1", "a#4");  // Never handed out.
  world.expect("w1: fence a#4");
  world.expect_states("a offered, b blocked");
  world.expect_nothing_else();
}

TEST(Statements, OfAnUnknownJob_AreFenced) {
  World world("a\n");
  world.join("w1").succeed("w1", "a#1").forget_messages();
  const AttemptKey unknown{JobId{77}, 1};
  const SessionId session = world.session("w1");
  world.step(AttemptStarted{session, unknown, 0});
  world.step(CheckpointStored{session, unknown, 1, {}});
  world.step(AttemptSucceeded{session, unknown, {}});
  world.step(AttemptFailed{session, unknown, FailureClass::kTimeout, ""});
  world.step(AttemptCancelled{session, unknown});
  for (int i = 0; i < 5; ++i) {
    world.expect("w1: fence (77)#1");
  }
  world.expect_nothing_else();
}

TEST(Statements, OfAnEndedAttempt_AreFenced) {
  World world("a retries=1\n");
  world.join("w1").start("w1", "a#1").fail("w1", "a#1", FailureClass::kTimeout).forget_messages();
  world.start("w1", "a#1");
  world.checkpoint("w1", "a#1", 3);
  world.succeed("w1", "a#1");
  world.fail("w1", "a#1", FailureClass::kUserError);
  world.stopped("w1", "a#1");
  for (int i = 0; i < 5; ++i) {
    world.expect("w1: fence a#1");
  }
  world.expect_nothing_else();
  world.expect_states("a ready");
  EXPECT_FALSE(world.row("a").resume.has_value());
}

TEST(Statements, OfAClosedSession_AreNotAnswered) {
  World world("a\n");
  world.join("w1").leave("w1").forget_messages();
  world.start("w1", "a#1").succeed("w1", "a#1").heartbeat("w1", "a#1");
  world.expect_nothing_else();
  world.expect_states("a offered");
}

TEST(SpeaksFor, LiveAttempt_OnlyTheSessionOfItsWorker) {
  World world("a\n");
  world.join("w1").join("w2");
  EXPECT_TRUE(world.core().speaks_for(world.session("w1"), world.key("a#1")));
  EXPECT_FALSE(world.core().speaks_for(world.session("w2"), world.key("a#1")));
  EXPECT_FALSE(world.core().speaks_for(world.session("w1"), world.key("a#2")));
  EXPECT_FALSE(world.core().speaks_for(SessionId{99}, world.key("a#1")));
  world.cancel("a");
  EXPECT_TRUE(world.core().speaks_for(world.session("w1"), world.key("a#1")));
  world.stopped("w1", "a#1");
  EXPECT_FALSE(world.core().speaks_for(world.session("w1"), world.key("a#1")));
}

TEST(Checkpoint, NewerEpoch_ReplacesTheResumeState) {
  World world("a\n");
  world.join("w1").start("w1", "a#1");
  world.checkpoint("w1", "a#1", 3, "three").checkpoint("w1", "a#1", 2, "two");
  world.checkpoint("w1", "a#1", 3, "three again");
  EXPECT_EQ(world.row("a").resume, sha256("three"));
  EXPECT_EQ(world.row("a").resume_epoch, 3u);
  world.checkpoint("w1", "a#1", 5, "five");
  world.fail("w1", "a#1", FailureClass::kPreempted);
  EXPECT_EQ(world.last_offer()->key.attempt, 2u);
  EXPECT_EQ(world.last_offer()->resume, sha256("five"));
}

}  // namespace
}  // namespace bitrung::core
