// Equal jobs: one trains, the others take its result.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/server/core/world.h"

namespace bitrung::core {
namespace {

using testing::ElementsAre;
using testing::Pair;

constexpr milliseconds kLeaseAndMargin{70'000};

TEST(Cached, WholeExperimentAgain_IsDoneAtOnceWithoutAFreeSlot) {
  World world("a\nb <- a\n");
  world.join("w1").succeed("w1", "a#1").succeed("w1", "b#1");
  world.submit("busy\n");
  world.expect_states("2/busy offered");
  world.forget_messages();
  world.submit("a\nb <- a\n");
  world.expect_nothing_else();
  world.expect_states("3/a succeeded, 3/b succeeded");
  EXPECT_EQ(world.explain("3/b"), "cached from b");
  EXPECT_EQ(world.row("3/b").result, world.row("b").result);
  EXPECT_EQ(world.row("3/b").attempt, 0u);
  EXPECT_EQ(world.row("3/b").identity, world.row("b").identity);
  EXPECT_EQ(world.stored().finished_at_ms(ExperimentId{3}), world.now().wall_ms);
}

TEST(Cached, AgainAndAgain_PointsToTheJobThatRan) {
  World world("a\n");
  world.join("w1").succeed("w1", "a#1").submit("a\n").submit("a\n");
  EXPECT_EQ(world.explain("2/a"), "cached from a");
  EXPECT_EQ(world.explain("3/a"), "cached from a");
  world.restart().join("w1").submit("a\n");
  EXPECT_EQ(world.explain("4/a"), "cached from a");
}

TEST(Cached, Parent_GivesItsChildTheOriginalsArtifact) {
  World world("a\n");
  world.join("w1").succeed("w1", "a#1").submit("a\nnew <- a\n");
  EXPECT_THAT(world.last_offer()->inputs,
              ElementsAre(Pair(InputRole::kTeacher, artifact_of(world.job("a"), 1))));
  world.expect_states("2/a succeeded, 2/new offered");
}

TEST(Cached, OtherSpecOrOtherTeacher_IsTrained) {
  World world("a\nb <- a\n");
  world.join("w1", {.slots = {16, 16}}).succeed("w1", "a#1").succeed("w1", "b#1");
  world.submit("a spec=other\nb <- a\n");
  world.expect_states("2/a offered, 2/b blocked");
}

TEST(Cached, EqualJobAtWork_IsWaitedFor) {
  World world("a\nb <- a\n");
  world.join("w1", {.slots = {16, 16}}).submit("a\nc <- a\n");
  world.expect_states("a offered, 2/a ready, 2/c blocked");
  EXPECT_EQ(world.explain("2/a"), "waits for equal a");
  world.start("w1", "a#1").forget_messages();
  world.succeed("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect("w1: offer b#1");
  world.expect("w1: offer 2/c#1");
  world.expect_nothing_else();
  EXPECT_EQ(world.explain("2/a"), "cached from a");
}

TEST(Cached, EqualJobInTheSameExperiment_IsTrainedOnce) {
  World world("a spec=same\nb spec=same\n");
  world.join("w1", {.slots = {16, 16}});
  world.expect_states("a offered, b ready");
  world.succeed("w1", "a#1");
  EXPECT_EQ(world.explain("b"), "cached from a");
}

TEST(Cached, EqualJobThatFails_LetsTheNextOneTry) {
  World world("a\n");
  world.join("w1").submit("a\n").submit("a\n").forget_messages();
  world.fail("w1", "a#1", FailureClass::kUserError);
  world.expect("w1: recorded a#1");
  world.expect("w1: offer 2/a#1");
  world.expect_nothing_else();
  EXPECT_EQ(world.explain("3/a"), "waits for equal 2/a");
  world.succeed("w1", "2/a#1");
  world.expect_states("a failed, 2/a succeeded, 3/a succeeded");
  world.retry("a");
  EXPECT_EQ(world.explain("a"), "cached from 2/a");
  EXPECT_EQ(world.row("a").error, "");
}

TEST(Cached, EqualJobThatIsBeingCancelled_IsWaitedForUntilItHasEnded) {
  World world("a\n");
  world.join("w1", {.slots = {16, 16}}).submit("a\n").cancel("a").forget_messages();
  EXPECT_EQ(world.explain("2/a"), "waits for equal a");
  world.stopped("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect("w1: offer 2/a#1");
  world.expect_nothing_else();
}

TEST(Cached, EqualJobWhoseWorkerIsLost_GoesOnInOrder) {
  World world("a\n");
  world.join("w1").submit("a\n").leave("w1").advance(kLeaseAndMargin);
  world.expect_states("a ready, 2/a ready");
  world.join("w2");
  world.expect_states("a offered, 2/a ready");
  world.succeed("w2", "a#2");
  world.expect_states("2/a succeeded");
}

TEST(Cached, EqualJobThatWaitsForARetry_DoesNotHoldUpTheOther) {
  World world("a retries=1\n");
  world.join("w1").submit("a\n").fail("w1", "a#1", FailureClass::kTimeout);
  world.expect_states("a ready, 2/a offered");
  EXPECT_EQ(world.explain("a"), "waits 1000 ms for retry 1/1");
  world.succeed("w1", "2/a#1");
  EXPECT_EQ(world.explain("a"), "cached from 2/a");
  EXPECT_FALSE(world.core().next_deadline().has_value());
}

TEST(Cached, BlockedJob_TakesTheResultThoughItsParentComesLater) {
  World world("a\nb <- a\n");
  world.join("w1").succeed("w1", "a#1").succeed("w1", "b#1");
  world.submit("c <- b\nb <- a\na\n");
  world.expect_states("2/a succeeded, 2/b succeeded, 2/c offered");
}

TEST(Cached, CancelledEqualJob_StaysCancelledUntilRetried) {
  World world("a\n");
  world.join("w1").submit("a\n").cancel("2/a").succeed("w1", "a#1");
  world.expect_states("2/a cancelled");
  world.retry("2/a");
  EXPECT_EQ(world.explain("2/a"), "cached from a");
}

TEST(Cached, JobCachedWhileSkippedDescendantsWait_MovesThemOn) {
  World world("a\n");
  world.join("w1").fail("w1", "a#1", FailureClass::kUserError);
  world.submit("a\nb <- a\n").fail("w1", "2/a#1", FailureClass::kUserError);
  world.expect_states("a failed, 2/a failed, 2/b skipped");
  world.retry("a").succeed("w1", "a#2").retry("2/b");
  world.expect_states("2/a succeeded, 2/b offered");
}

}  // namespace
}  // namespace bitrung::core
