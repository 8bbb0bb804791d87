// Attempts that end without a result, retries, and what they mean for dependants.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/server/core/world.h"

namespace bitrung::core {
namespace {

using testing::HasSubstr;

TEST(Failure, OfTheJobItself_FailsItAndSkipsDescendants) {
  for (const FailureClass failure : {FailureClass::kUserError, FailureClass::kDiverged}) {
    World world("a retries=3\nb <- a\nc <- b\nd\n");
    world.join("w1").start("w1", "a#1").forget_messages();
    world.fail("w1", "a#1", failure, "loss is NaN at step 7");
    world.expect("w1: recorded a#1");
    world.expect("w1: offer d#1");
    world.expect_nothing_else();
    world.expect_states("a failed, b skipped, c skipped, d offered");
    EXPECT_EQ(world.row("a").failure_class, failure);
    EXPECT_EQ(world.row("a").error, "loss is NaN at step 7");
    EXPECT_EQ(world.attempt("a#1").state, AttemptState::kFailed);
    EXPECT_EQ(world.attempt("a#1").error, "loss is NaN at step 7");
    EXPECT_EQ(world.row("c").error, "");
    EXPECT_EQ(world.explain("a"), "ended");
    EXPECT_EQ(world.explain("b"), "skipped because of a");
    EXPECT_EQ(world.explain("c"), "skipped because of a");
    EXPECT_GT(world.row("c").finished_at_ms, 0);
    EXPECT_EQ(world.stored().finished_at_ms(ExperimentId{1}), 0);
    world.succeed("w1", "d#1");
    EXPECT_GT(world.stored().finished_at_ms(ExperimentId{1}), 0);
  }
}

TEST(Failure, OfTheDevice_IsRetriedAfterADelayThatDoubles) {
  for (const FailureClass failure : {FailureClass::kOutOfMemory, FailureClass::kDeviceFault,
                                     FailureClass::kTimeout, FailureClass::kTrainerCrashed}) {
    World world("a retries=2\nb <- a\n");
    world.join("w1").forget_messages();
    world.fail("w1", "a#1", failure);
    world.expect("w1: recorded a#1");
    world.expect_nothing_else();
    world.expect_states("a ready, b blocked");
    EXPECT_EQ(world.explain("a"), "waits 1000 ms for retry 1/2");
    EXPECT_EQ(world.row("a").failure_class, failure);
    world.advance(milliseconds{999});
    world.expect_nothing_else();
    world.advance(milliseconds{1});
    world.expect("w1: offer a#2");
    world.fail("w1", "a#2", failure);
    world.expect("w1: recorded a#2");
    world.advance(milliseconds{1'999});
    world.expect_nothing_else();
    world.advance(milliseconds{1});
    world.expect("w1: offer a#3");
    world.fail("w1", "a#3", failure);
    world.expect_states("a failed, b skipped");
    EXPECT_EQ(world.row("a").retries_used, 2u);
  }
}

TEST(Failure, WithoutAClass_IsTreatedAsACrash) {
  World world("a\n");
  world.join("w1").fail("w1", "a#1", FailureClass::kNone);
  world.expect_states("a failed");
  EXPECT_EQ(world.row("a").failure_class, FailureClass::kTrainerCrashed);
}

TEST(Failure, ThenSuccess_IsForgottenInTheRow) {
  World world("a retries=1\n");
  world.join("w1").fail("w1", "a#1", FailureClass::kTimeout).advance(milliseconds{1'000});
  world.succeed("w1", "a#2");
  EXPECT_EQ(world.row("a").failure_class, FailureClass::kNone);
  EXPECT_EQ(world.row("a").error, "");
  EXPECT_EQ(world.attempt("a#1").failure_class, FailureClass::kTimeout);
}

TEST(Failure, OfOneParent_LeavesTheOthersDescendantsAlone) {
  World world("a\nb\nc <- a, init b\nd <- b\n");
  world.join("w1", {.slots = {16, 16}});
  world.fail("w1", "a#1", FailureClass::kUserError);
  world.expect_states("a failed, c skipped, b offered, d blocked");
  world.succeed("w1", "b#1");
  world.expect_states("c skipped, d offered");
}

TEST(Loss, UsesNoRetryAndTriesAgainAtOnce) {
  World world("a\n");
  world.join("w1").forget_messages();
  world.fail("w1", "a#1", FailureClass::kPreempted, "the host is wanted back");
  world.expect("w1: recorded a#1");
  world.expect("w1: offer a#2");
  world.expect_nothing_else();
  EXPECT_EQ(world.row("a").losses, 1u);
  EXPECT_EQ(world.row("a").error, "the host is wanted back");
}

TEST(Loss, MoreOftenThanTheLimit_FailsTheJob) {
  Settings settings;
  settings.losses_max = 2;
  World world("a\nb <- a\n", settings);
  world.join("w1");
  world.fail("w1", "a#1", FailureClass::kLostWorker).fail("w1", "a#2", FailureClass::kPreempted);
  world.expect_states("a offered");
  world.fail("w1", "a#3", FailureClass::kLostWorker, "the host is gone");
  world.expect_states("a failed, b skipped");
  EXPECT_EQ(world.row("a").failure_class, FailureClass::kLostWorker);
  EXPECT_THAT(world.row("a").error, HasSubstr("3 attempts"));
  EXPECT_THAT(world.row("a").error, HasSubstr("limit is 2"));
  EXPECT_THAT(world.row("a").error, HasSubstr("the host is gone"));
}

TEST(Loss, StoppedWithoutBeingAsked_CountsAsPreempted) {
  World world("a\n");
  world.join("w1").start("w1", "a#1").forget_messages();
  world.stopped("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect("w1: offer a#2");
  world.expect_nothing_else();
  EXPECT_EQ(world.row("a").losses, 1u);
  EXPECT_EQ(world.attempt("a#1").failure_class, FailureClass::kPreempted);
}

TEST(Retry, OfAFailedJob_RunsItAndItsSkippedDescendantsAgain) {
  World world("a retries=1\nb <- a\nc <- b\n");
  world.join("w1").start("w1", "a#1").checkpoint("w1", "a#1", 3);
  world.fail("w1", "a#1", FailureClass::kPreempted).fail("w1", "a#2", FailureClass::kDiverged);
  world.expect_states("a failed, b skipped, c skipped");
  EXPECT_GT(world.stored().finished_at_ms(ExperimentId{1}), 0);
  world.forget_messages();
  world.retry("a");
  world.expect("w1: offer a#3");
  world.expect_nothing_else();
  world.expect_states("a offered, b blocked, c blocked");
  EXPECT_EQ(world.stored().finished_at_ms(ExperimentId{1}), 0);
  const db::JobStateRow row = world.row("a");
  EXPECT_EQ(row.retries_used, 0u);
  EXPECT_EQ(row.losses, 0u);
  EXPECT_EQ(row.failure_class, FailureClass::kNone);
  EXPECT_EQ(row.error, "");
  EXPECT_EQ(row.finished_at_ms, 0);
  EXPECT_EQ(world.last_offer()->resume, sha256("checkpoint 3"));
  world.succeed("w1", "a#3").succeed("w1", "b#1").succeed("w1", "c#1");
  EXPECT_GT(world.stored().finished_at_ms(ExperimentId{1}), 0);
}

TEST(Retry, OfASkippedJob_PullsItsAncestorsAlong) {
  World world("a\nb <- a\nc <- b\nd <- a\n");
  world.join("w1").fail("w1", "a#1", FailureClass::kUserError);
  world.retry("c");
  world.expect_states("a offered, b blocked, c blocked, d blocked");
}

TEST(Retry, OfOneOfTwoFailedParents_LeavesTheChildSkipped) {
  World world("a\nb\nc <- a, init b\nd <- c\n");
  world.join("w1", {.slots = {16, 16}});
  world.fail("w1", "a#1", FailureClass::kUserError).fail("w1", "b#1", FailureClass::kUserError);
  world.retry("a");
  world.expect_states("a offered, b failed, c skipped, d skipped");
  EXPECT_EQ(world.explain("d"), "skipped because of b");
  world.retry("b");
  world.expect_states("a offered, b offered, c blocked, d blocked");
}

TEST(Retry, OfASubtree_KeepsWhatSucceeded) {
  World world("a\nb <- a\nc <- b\n");
  world.join("w1").succeed("w1", "a#1").fail("w1", "b#1", FailureClass::kUserError);
  world.retry("a b c");
  world.expect_states("a succeeded, b offered, c blocked");
  EXPECT_EQ(world.row("a").attempt, 1u);
}

TEST(Retry, OfWhatRunsOrIsUnknown_ChangesNothing) {
  World world("a\nb <- a\n");
  world.join("w1").forget_messages();
  world.retry("a b").step(RetryJobs{{JobId{99}}});
  world.expect_nothing_else();
  world.expect_states("a offered, b blocked");
}

TEST(Retry, OfACancelledJob_RunsItAgain) {
  World world("a\nb <- a\n");
  world.cancel("a");
  world.expect_states("a cancelled, b skipped");
  world.retry("b");
  world.expect_states("a ready, b blocked");
}

}  // namespace
}  // namespace bitrung::core
