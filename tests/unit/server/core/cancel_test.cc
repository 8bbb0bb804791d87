#include <gtest/gtest.h>

#include "tests/unit/server/core/world.h"

namespace bitrung::core {
namespace {

constexpr milliseconds kLeaseAndMargin{70'000};

TEST(Cancel, BlockedAndReadyJobs_EndAtOnceAndSkipWhatDependsOnThem) {
  World world("a\nb <- a\nc <- b\nd <- c\n");
  world.cancel("b");
  world.expect_states("a ready, b cancelled, c skipped, d skipped");
  EXPECT_EQ(world.explain("d"), "skipped because of b");
  world.cancel("a");
  world.expect_states("a cancelled");
  EXPECT_EQ(world.explain("a"), "ended");
  EXPECT_GT(world.stored().finished_at_ms(ExperimentId{1}), 0);
  world.expect_nothing_else();
}

TEST(Cancel, NamedJobsThatDependOnEachOther_AreAllCancelled) {
  World world("a\nb <- a\nc <- b\n");
  world.cancel("a b");
  world.expect_states("a cancelled, b cancelled, c skipped");
}

TEST(Cancel, OfferedOrRunningJob_IsStoppedFirst) {
  for (const bool started : {false, true}) {
    World world("a\nb <- a\nc\n");
    world.join("w1");
    if (started) world.start("w1", "a#1");
    world.forget_messages();
    world.cancel("a");
    world.expect("w1: cancel a#1");
    world.expect_nothing_else();
    world.expect_states("a cancelling, b skipped, c ready");
    EXPECT_EQ(world.explain("a"), "runs on w1 #1 for 70000 ms");
    EXPECT_EQ(world.explain("b"), "skipped because of a");
    world.cancel("a").start("w1", "a#1");  // Neither says anything new.
    world.expect_nothing_else();
    world.stopped("w1", "a#1");
    world.expect("w1: recorded a#1");
    world.expect("w1: offer c#1");
    world.expect_nothing_else();
    world.expect_states("a cancelled");
    EXPECT_EQ(world.attempt("a#1").state, AttemptState::kCancelled);
    EXPECT_GT(world.row("a").finished_at_ms, 0);
  }
}

TEST(Cancel, WhatNeedsAJobThatIsBeingStopped_IsTriedAgainOnlyAfterThat) {
  World world("a\nb <- a\nc <- b\n");
  world.join("w1").start("w1", "a#1").cancel("a");
  world.retry("c");
  world.expect_states("a cancelling, b skipped, c skipped");
  EXPECT_EQ(world.explain("b"), "skipped because of a");
  world.stopped("w1", "a#1");
  world.retry("c");
  world.expect_states("a offered, b blocked, c blocked");
}

TEST(Cancel, SuccessThatCrossesIt_IsRecordedAsCancelled) {
  World world("a\nb <- a\n");
  world.join("w1").start("w1", "a#1").cancel("a").forget_messages();
  world.succeed("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect_nothing_else();
  world.expect_states("a cancelled, b skipped");
  EXPECT_EQ(world.attempt("a#1").state, AttemptState::kCancelled);
  EXPECT_FALSE(world.row("a").result.has_value());
  world.succeed("w1", "a#1");
  world.expect("w1: fence a#1");
}

TEST(Cancel, FailureThatCrossesIt_IsRecordedAsCancelled) {
  for (const FailureClass failure :
       {FailureClass::kUserError, FailureClass::kTimeout, FailureClass::kPreempted}) {
    World world("a retries=5\n");
    world.join("w1").start("w1", "a#1").cancel("a").forget_messages();
    world.fail("w1", "a#1", failure);
    world.expect("w1: recorded a#1");
    world.expect_nothing_else();
    world.expect_states("a cancelled");
    EXPECT_EQ(world.attempt("a#1").failure_class, failure);
  }
}

TEST(Cancel, WorkerAway_IsToldWhenItComesBack) {
  World world("a\n");
  world.join("w1").start("w1", "a#1").leave("w1").forget_messages();
  world.cancel("a");
  world.expect_nothing_else();
  world.expect_states("a cancelling");
  world.join("w1", {}, "a#1");
  world.expect("w1: welcome kept a#1");
  world.expect("w1: cancel a#1");
  world.expect_nothing_else();
}

TEST(Cancel, WorkerThatStaysAway_IsSettledByTheLease) {
  World world("a\n");
  world.join("w1").start("w1", "a#1").leave("w1").cancel("a").advance(kLeaseAndMargin);
  world.expect_states("a cancelled");
  EXPECT_EQ(world.attempt("a#1").state, AttemptState::kLost);
}

TEST(Cancel, WorkerBackWithoutTheAttempt_SettlesIt) {
  World world("a\n");
  world.join("w1").leave("w1").cancel("a").join("w1");
  world.expect_states("a cancelled");
}

TEST(Cancel, WhileWaitingForARetry_EndsTheWait) {
  World world("a retries=1\n");
  world.join("w1").fail("w1", "a#1", FailureClass::kTimeout).cancel("a");
  world.expect_states("a cancelled");
  EXPECT_FALSE(world.core().next_deadline().has_value());
}

TEST(Cancel, OfWhatHasEndedOrIsUnknown_ChangesNothing) {
  World world("a priority=1\nb\nc <- b\n");
  world.join("w1").succeed("w1", "a#1").fail("w1", "b#1", FailureClass::kUserError);
  world.forget_messages();
  world.cancel("a b c").step(CancelJobs{{JobId{99}}});
  world.expect_states("a succeeded, b failed, c skipped");
  world.expect_nothing_else();
}

}  // namespace
}  // namespace bitrung::core
