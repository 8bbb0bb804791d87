// Sessions, leases and draining.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/server/core/world.h"

namespace bitrung::core {
namespace {

using testing::ElementsAre;

constexpr milliseconds kLeaseAndMargin{70'000};
constexpr milliseconds kMillisecond{1};

TEST(Session, Welcome_ComesBeforeOffers) {
  World world("a\n");
  world.join("w1");
  world.expect("w1: welcome");
  world.expect("w1: offer a#1");
  world.expect_nothing_else();
}

TEST(Session, NewOneOfTheSameWorker_ReplacesTheOldAndKeepsWhatItHolds) {
  World world("a\nb\n");
  world.join("w1", {.slots = {16, 16}}).start("w1", "a#1").forget_messages();
  const SessionId old = world.session("w1");
  world.join("w1", {.slots = {16, 16}}, "a#1 b#1");
  ASSERT_EQ(world.sent().size(), 2u);
  EXPECT_EQ(world.sent()[0].session, old);
  world.expect("w1: closed");
  world.expect("w1: welcome kept a#1 b#1");
  world.expect_nothing_else();
  world.expect_states("a running, b offered");
  EXPECT_FALSE(world.core().speaks_for(old, world.key("a#1")));
  // The old stream ends later; that decides nothing.
  world.step(SessionClosed{old});
  EXPECT_TRUE(world.core().worker(World::worker_id("w1"))->connected);
}

TEST(Session, NewOneWithoutTheAttempt_LosesItAtOnce) {
  World world("a\nb <- a\n");
  world.join("w1").start("w1", "a#1").checkpoint("w1", "a#1", 4).leave("w1").forget_messages();
  world.join("w1");
  world.expect("w1: welcome");
  world.expect("w1: offer a#2");
  world.expect_nothing_else();
  EXPECT_EQ(world.attempt("a#1").state, AttemptState::kLost);
  EXPECT_EQ(world.attempt("a#1").failure_class, FailureClass::kLostWorker);
  EXPECT_EQ(world.row("a").losses, 1u);
  EXPECT_EQ(world.row("a").retries_used, 0u);
  EXPECT_EQ(world.last_offer()->resume, sha256("checkpoint 4"));
}

TEST(Session, HeldAttemptOfAnotherWorker_IsFenced) {
  World world("a\n");
  world.join("w1").forget_messages();
  world.join("w2", {}, "a#1");
  world.expect("w2: welcome fenced a#1");
  world.expect_nothing_else();
  world.expect_states("a offered");
}

TEST(Session, HeldAttemptThatIsRecorded_IsFenced) {
  // The reply to the outcome was lost with the connection; all it said is recorded.
  World world("a\n");
  world.join("w1").succeed("w1", "a#1").leave("w1").forget_messages();
  world.join("w1", {}, "a#1");
  world.expect("w1: welcome fenced a#1");
  world.expect_nothing_else();
}

TEST(Session, NewerTermSeen_IsRefusedAndChangesNothing) {
  Settings settings;
  settings.term = 5;
  World world("a\n", settings);
  world.join("w1", {}, "", 5).start("w1", "a#1").forget_messages();
  world.join("w1", {}, "", 6);
  world.expect("w1: closed");
  world.expect_nothing_else();
  world.expect_states("a running");
  EXPECT_TRUE(world.core().speaks_for(world.session("w1"), world.key("a#1")));
}

TEST(Session, Closed_KeepsTheAttemptUntilItsLeaseEnds) {
  World world("a\n");
  world.join("w1").start("w1", "a#1").leave("w1").forget_messages();
  EXPECT_EQ(world.explain("a"), "runs on absent w1 #1 for 70000 ms");
  EXPECT_FALSE(world.core().worker(World::worker_id("w1"))->connected);
  world.advance(kLeaseAndMargin - kMillisecond);
  world.expect_states("a running");
  world.join("w1", {}, "a#1");
  world.expect("w1: welcome kept a#1");
  world.advance(kLeaseAndMargin - kMillisecond);
  world.expect_states("a running");
  world.expect_nothing_else();
}

TEST(Session, FewerSlots_KeepsAttemptsOfTheOthersAndGivesNoneTwice) {
  World world("a\nb\nc\n");
  world.join("w1", {.slots = {16, 16}}).forget_messages();
  world.join("w1", {.slots = {16}}, "a#1 b#1");
  world.expect("w1: closed");
  world.expect("w1: welcome kept a#1 b#1");
  world.succeed("w1", "b#1");  // It ran in the slot that is gone.
  world.expect("w1: recorded b#1");
  world.expect_nothing_else();
  world.succeed("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect("w1: offer c#1");
  world.expect_nothing_else();
}

TEST(Lease, RunsOutExactlyAfterLeaseAndMargin) {
  World world("a\n");
  world.join("w1").start("w1", "a#1").leave("w1").join("w2").forget_messages();
  EXPECT_EQ(world.core().next_deadline(), world.now().monotonic + kLeaseAndMargin);
  world.sleep(kLeaseAndMargin - kMillisecond).step(WakeUp{});
  world.expect_nothing_else();
  world.sleep(kMillisecond).step(WakeUp{});
  world.expect("w2: offer a#2");
  world.expect_nothing_else();
  EXPECT_EQ(world.attempt("a#1").state, AttemptState::kLost);
}

TEST(Lease, IsRenewedByHeartbeatsForTheAttemptsListed) {
  World world("a\nb\n");
  world.join("w1", {.slots = {16, 16}}).forget_messages();
  world.advance(milliseconds{60'000}).heartbeat("w1", "a#1", 7);
  world.expect("w1: alive 7");
  world.advance(milliseconds{10'000});
  world.expect("w1: fence b#1");
  world.expect("w1: offer b#2");
  world.expect_nothing_else();
  world.expect_states("a offered");
  EXPECT_EQ(world.row("b").losses, 1u);
}

TEST(Lease, HeartbeatAfterItsEndButBeforeTheWakeUp_RenewsIt) {
  World world("a\n");
  world.join("w1").sleep(2 * kLeaseAndMargin).heartbeat("w1", "a#1").step(WakeUp{});
  world.expect_states("a offered");
}

TEST(Heartbeat, StaleAttempt_IsFenced) {
  World world("a\n");
  world.join("w1").fail("w1", "a#1", FailureClass::kPreempted).forget_messages();
  world.heartbeat("w1", "a#1 a#2", 3);
  world.expect("w1: fence a#1");
  world.expect("w1: alive 3");
  world.expect_nothing_else();
}

TEST(Heartbeat, OfAnotherWorkersAttempt_RenewsNothing) {
  World world("a\n");
  world.join("w1").join("w2").leave("w1").forget_messages();
  world.advance(milliseconds{60'000}).heartbeat("w2", "a#1");
  world.expect("w2: fence a#1");
  world.expect("w2: alive 1");
  world.advance(milliseconds{10'000});
  world.expect("w2: offer a#2");
  world.expect_nothing_else();
}

TEST(Heartbeat, OfAnUnknownSession_IsNotAnswered) {
  World world("a\n");
  world.step(Heartbeat{SessionId{5}, 1, {}});
  world.step(SessionClosed{SessionId{5}});
  world.step(DatasetsChanged{SessionId{5}, {}});
  world.step(SetDraining{"nobody", true});
  world.expect_nothing_else();
}

TEST(Deadline, WithoutLeasesAndRetries_IsNone) {
  World world("a\n");
  EXPECT_FALSE(world.core().next_deadline().has_value());
  world.join("w1");
  EXPECT_TRUE(world.core().next_deadline().has_value());
  world.succeed("w1", "a#1");
  EXPECT_FALSE(world.core().next_deadline().has_value());
}

TEST(Draining, Worker_FinishesWhatItHasAndGetsNothingNew) {
  World world("a\nb\n");
  world.join("w1").start("w1", "a#1").forget_messages();
  world.drain("w1", true);
  EXPECT_EQ(world.explain("b"), "w1 drains");
  world.succeed("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect_nothing_else();
  world.drain("w1", false);
  world.expect("w1: offer b#1");
  world.expect_nothing_else();
}

TEST(Draining, SurvivesReconnectAndRestart) {
  World world("a\n");
  world.join("w1", {.datasets = {}}).drain("w1", true).leave("w1").join("w1").forget_messages();
  world.expect_nothing_else();
  EXPECT_EQ(world.explain("a"), "w1 drains");
  world.restart().join("w1");
  world.expect("w1: welcome");
  world.expect_nothing_else();
  world.drain("w1", false);
  world.expect("w1: offer a#1");
  world.expect_nothing_else();
}

TEST(Stopping, Worker_GetsBackNothingItGaveBack_UntilItsNextSession) {
  World world("a\nb\n");
  world.join("w1").start("w1", "a#1").forget_messages();
  world.stopping("w1").fail("w1", "a#1", FailureClass::kPreempted);
  world.expect("w1: recorded a#1");
  world.expect_nothing_else();
  EXPECT_EQ(world.explain("a"), "w1 stops");
  world.leave("w1").join("w1");
  world.expect("w1: welcome");
  world.expect("w1: offer a#2");
  world.expect_nothing_else();
}

TEST(Datasets, Change_MakesJobsPlaceable) {
  World world("a\n");
  world.join("w1", {.datasets = {}});
  EXPECT_EQ(world.explain("a"), "w1 lacks data");
  world.forget_messages();
  world.change_datasets("w1", {{"data", "copy A"}});
  world.expect("w1: offer a#1");
  world.expect_nothing_else();
}

TEST(Workers, AreGivenWhatTheirAttemptsReadAndNothingElse) {
  World world("teacher\nstudent artifact=outside <- init teacher\n");
  const auto is_given = [&world](const std::string& worker, const Digest& artifact) {
    return world.core().is_given(World::worker_id(worker), artifact);
  };
  world.join("w1").start("w1", "teacher#1").succeed("w1", "teacher#1");
  const Digest taught = artifact_of(world.job("teacher"), 1);
  EXPECT_TRUE(is_given("w1", taught));
  EXPECT_TRUE(is_given("w1", sha256("outside")));
  world.join("w2");
  EXPECT_FALSE(is_given("w2", taught));
  EXPECT_FALSE(is_given("nobody", taught));

  const Digest state = sha256("checkpoint 4");
  EXPECT_FALSE(is_given("w1", state));
  world.start("w1", "student#1").checkpoint("w1", "student#1", 4);
  EXPECT_TRUE(is_given("w1", state));
  // A lease that ran out takes it away; the next attempt's worker has it.
  world.leave("w1").advance(kLeaseAndMargin + kMillisecond);
  EXPECT_FALSE(is_given("w1", state));
  EXPECT_TRUE(is_given("w2", state));
  world.start("w2", "student#2").succeed("w2", "student#2");
  EXPECT_FALSE(is_given("w2", taught));
}

TEST(Workers, AreListedByNameWithWhatTheyHold) {
  World world("a\n");
  world.join("w2").join("w1");
  const std::vector<WorkerInfo> workers = world.core().workers();
  ASSERT_EQ(workers.size(), 2u);
  EXPECT_EQ(workers[0].name, "w1");
  EXPECT_THAT(workers[0].attempts, ElementsAre());
  EXPECT_THAT(workers[1].attempts, ElementsAre(world.key("a#1")));
  EXPECT_EQ(workers[1].datasets.front().name, "data");
  EXPECT_EQ(workers[1].slots.front().device, "cuda:0");
  EXPECT_EQ(workers[1].last_seen_ms, world.now().wall_ms);
  EXPECT_FALSE(world.core().worker("nobody").has_value());
}

}  // namespace
}  // namespace bitrung::core
