// Which ready job gets which slot.
#include <gtest/gtest.h>

#include "tests/unit/server/core/world.h"

namespace bitrung::core {
namespace {

TEST(Order, LongestChain_ComesFirst) {
  // a ladder of three rungs among single jobs: its first rung must not wait behind them.
  World world(
      "alone1 flops=10\n"
      "alone2 flops=10\n"
      "rung32 flops=10\n"
      "rung16 flops=10 <- rung32\n"
      "rung8 flops=10 <- rung16\n");
  world.join("w1");
  world.expect("w1: welcome");
  for (const std::string job : {"rung32", "rung16", "alone1", "alone2", "rung8"}) {
    // rung8 has no descendants: it is as urgent as the single jobs, which have lower numbers.
    world.expect("w1: offer " + job + "#1");
    world.expect_nothing_else();
    world.succeed("w1", job + "#1");
    world.expect("w1: recorded " + job + "#1");
  }
  world.expect_nothing_else();
}

TEST(Order, ChainOfFewLongJobs_ComesBeforeOneOfManyShortOnes) {
  World world(
      "a1 flops=1\n"
      "a2 flops=1 <- a1\n"
      "a3 flops=1 <- a2\n"
      "b1 flops=1\n"
      "b2 flops=9 <- b1\n");
  world.join("w1");
  world.expect_states("b1 offered, a1 ready");
}

TEST(Order, Priority_ComesBeforeTheChain) {
  World world("a flops=100\nb flops=1 priority=1\nc flops=1000 priority=-1\n");
  world.join("w1");
  world.expect_states("b offered");
  EXPECT_EQ(world.explain("a"), "behind 0");
  EXPECT_EQ(world.explain("c"), "behind 1");
  world.succeed("w1", "b#1");
  world.expect_states("a offered, c ready");
}

TEST(Order, EqualJobsOfTwoExperiments_GoByNumber) {
  World world("a flops=5\n");
  world.submit("b flops=5\n");
  world.join("w1");
  world.expect_states("a offered, 2/b ready");
}

TEST(Order, UnknownOperations_CountAsTheMeanOfTheKnown) {
  World world("big flops=30\nsmall flops=10\nunknown\n");  // 20
  world.join("w1").succeed("w1", "big#1");
  world.expect_states("unknown offered, small ready");
}

TEST(Order, FirstMeasurementOfAClass_ChangesTheOrderOfWhatWaits) {
  // As many operations, but jobs of class `slow` turn out to take a hundred times as long.
  World world(
      "probe flops=10 class=slow\n"
      "quick1 flops=9 class=quick\n"
      "slow1 flops=5 class=slow\n"
      "quick2 flops=8 class=quick\n");
  world.set_durations_vary();
  world.join("w1").succeed("w1", "probe#1", 10e-10);
  world.expect_states("quick1 offered");  // One class alone says nothing about the other.
  world.succeed("w1", "quick1#1", 9e-12);
  world.expect_states("slow1 offered, quick2 ready");
}

TEST(Order, TwoWorkers_ShareALadder) {
  // teacher -> two students at once; each worker takes one.
  World world("teacher\nstudent1 <- teacher\nstudent2 <- teacher\n");
  world.join("w1").join("w2");
  world.expect("w1: welcome");
  world.expect("w1: offer teacher#1");
  world.expect("w2: welcome");
  world.expect_nothing_else();
  world.succeed("w1", "teacher#1");
  world.expect("w1: recorded teacher#1");
  world.expect("w1: offer student1#1");  // w1 has the teacher already.
  world.expect("w2: offer student2#1");
  world.expect_nothing_else();
}

TEST(Placement, WorkerThatTrainedTheTeacher_IsPreferred) {
  World world("teacher\nstudent <- teacher\n");
  world.join("w2");  // Comes last by name.
  world.join("w1", {.slots = {16, 16}});
  world.start("w2", "teacher#1").forget_messages();
  world.succeed("w2", "teacher#1");
  world.expect("w2: recorded teacher#1");
  world.expect("w2: offer student#1");
}

TEST(Placement, WorkerWithTheResumeState_IsPreferred) {
  World world("a\n");
  world.join("w2").start("w2", "a#1").checkpoint("w2", "a#1", 1);
  world.join("w1", {.slots = {16, 16}}).forget_messages();
  world.fail("w2", "a#1", FailureClass::kPreempted);
  world.expect("w2: recorded a#1");
  world.expect("w2: offer a#2");
}

TEST(Placement, WorkerWithMostFreeSlots_IsPreferredThenTheName) {
  World world;
  world.join("w1", {.slots = {16}}).join("w3", {.slots = {16, 16}}).join("w2", {.slots = {16, 16}});
  world.forget_messages();
  world.submit("a\nb\nc\nd\ne\nf\n");
  world.expect("w2: offer a#1");
  world.expect("w3: offer b#1");
  world.expect("w1: offer c#1");
  world.expect("w2: offer d#1");
  world.expect("w3: offer e#1");
  world.expect_nothing_else();
  EXPECT_EQ(world.explain("1/f"), "behind 0");
}

TEST(Placement, SlotThatFitsMostClosely_IsTaken) {
  World world("small memory=8\nlarge memory=32\n");
  world.join("w1", {.slots = {40, 10}});
  EXPECT_EQ(world.attempt("small#1").slot, 1u);
  EXPECT_EQ(world.attempt("large#1").slot, 0u);
}

TEST(Placement, JobThatFitsNowhere_DoesNotHoldUpOthers) {
  World world("huge memory=99 priority=9\na\nother numerics=2 priority=9\nnodata dataset=x\n");
  world.join("w1");
  world.expect_states("a offered, huge ready, other ready, nodata ready");
  EXPECT_EQ(world.explain("huge"), "w1 has 16 of 99 bytes");
  EXPECT_EQ(world.explain("other"), "w1 has other numerics");
  EXPECT_EQ(world.explain("nodata"), "w1 lacks x");
  world.join("w2", {.slots = {}});
  EXPECT_EQ(world.explain("huge"), "w1 has 16 of 99 bytes; w2 has 0 of 99 bytes");
  world.join("w3", {.slots = {99}, .datasets = {{"x", "1"}}, .numerics = 2});
  EXPECT_EQ(world.explain("huge"), "w1 has 16 of 99 bytes; w2 has 0 of 99 bytes; w3 lacks data");
}

// Two cores that the slots share.
const Machine kTwoCores = {.slots = {16, 16}, .shares_cores = true};
const Machine kFourCores = {.slots = {16, 16, 16, 16}, .shares_cores = true};

TEST(SharedCores, LoneJob_GetsAllOfThem) {
  World world("a\n");
  world.join("w1", kTwoCores);
  world.expect("w1: welcome");
  world.expect("w1: offer a#1 with 2");
  world.expect_nothing_else();
  EXPECT_EQ(world.attempt("a#1").threads, 2u);
  EXPECT_EQ(world.explain("a"), "offered to w1 #1 with 2 of 2");
  // What comes later waits for it, and has all of them when it ends.
  world.submit("b\n");
  EXPECT_EQ(world.explain("2/b"), "behind 0; w1 of 2: a 2");
  world.succeed("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect("w1: offer 2/b#1 with 2");
  world.expect_nothing_else();
}

TEST(SharedCores, AsManyJobsAsCores_GetOneEach_AndTheLastOneAll) {
  World world("a\nb\nc\n");
  world.join("w1", kTwoCores);
  world.expect("w1: welcome");
  world.expect("w1: offer a#1 with 1");
  world.expect("w1: offer b#1 with 1");
  world.expect_nothing_else();
  EXPECT_EQ(world.explain("c"), "behind 0; w1 of 2: a 1 b 1");
  world.succeed("w1", "b#1");  // One core is free.
  world.expect("w1: recorded b#1");
  world.expect("w1: offer c#1 with 1");
  world.succeed("w1", "a#1").succeed("w1", "c#1").forget_messages();
  world.submit("d\n");
  world.expect("w1: offer 2/d#1 with 2");
  world.expect_nothing_else();
}

TEST(SharedCores, FewerJobsThanCores_DivideThem_TheFirstGetsTheLargerPart) {
  World world("a flops=3\nb flops=2\nc flops=1\n");
  world.join("w1", kFourCores);
  world.expect("w1: welcome");
  world.expect("w1: offer a#1 with 2");
  world.expect("w1: offer b#1 with 1");
  world.expect("w1: offer c#1 with 1");
  world.expect_nothing_else();
}

TEST(SharedCores, ALadder_IsNarrowWhileOthersWait_AndWideAtItsEnd) {
  World world(
      "rung32 flops=10\n"
      "rung16 flops=10 <- rung32\n"
      "rung8 flops=10 <- rung16\n"
      "alone flops=10\n");
  world.join("w1", kTwoCores);
  world.expect("w1: welcome");
  world.expect("w1: offer rung32#1 with 1");
  world.expect("w1: offer alone#1 with 1");
  world.succeed("w1", "rung32#1");
  world.expect("w1: recorded rung32#1");
  world.expect("w1: offer rung16#1 with 1");  // `alone` has the other core.
  world.succeed("w1", "alone#1");
  world.expect("w1: recorded alone#1");
  world.expect_nothing_else();
  world.succeed("w1", "rung16#1");
  world.expect("w1: recorded rung16#1");
  world.expect("w1: offer rung8#1 with 2");
  world.expect_nothing_else();
}

TEST(SharedCores, EqualJobs_CountOnce) {
  World world("a spec=same\n");
  world.submit("b spec=same\n");
  world.join("w1", kTwoCores);
  world.expect("w1: welcome");
  world.expect("w1: offer a#1 with 2");
  world.expect_nothing_else();
}

TEST(SharedCores, JobsThatFitNowhere_DoNotCount) {
  World world("a\nhuge memory=99\nother dataset=none\n");
  world.join("w1", kTwoCores);
  world.expect("w1: welcome");
  world.expect("w1: offer a#1 with 2");
  world.expect_nothing_else();
}

TEST(SharedCores, SeveralWorkers_ShareTheJobs) {
  World world;
  world.join("w1", kTwoCores).join("w2", kTwoCores).forget_messages();
  world.submit("a\nb\n");
  world.expect("w1: offer a#1 with 2");
  world.expect("w2: offer b#1 with 2");
  world.expect_nothing_else();
  world.succeed("w1", "a#1").succeed("w2", "b#1").forget_messages();
  world.submit("c\nd\ne\n");
  world.expect("w1: offer 2/c#1 with 2");
  world.expect("w2: offer 2/d#1 with 1");
  world.expect("w2: offer 2/e#1 with 1");
  world.expect_nothing_else();
}

TEST(SharedCores, MemoryIsShared_AsWell) {
  // Each slot names the 16 bytes of the host; two jobs of 12 do not fit side by side.
  World world("a memory=12\nb memory=12\nsmall memory=4\n");
  world.join("w1", kTwoCores);
  world.expect("w1: welcome");
  world.expect("w1: offer a#1 with 1");
  world.expect("w1: offer small#1 with 1");
  world.expect_nothing_else();
  world.succeed("w1", "small#1");
  world.expect("w1: recorded small#1");
  world.expect_nothing_else();
  world.succeed("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect("w1: offer b#1 with 2");
}

TEST(SharedCores, WorkerThatComesBack_KeepsWhatItsAttemptsHave) {
  World world("a\nb\n");
  world.join("w1", kTwoCores).start("w1", "a#1").start("w1", "b#1");
  world.submit("c\n").forget_messages();
  world.restart();
  world.join("w1", kTwoCores, "a#1 b#1");
  world.expect("w1: welcome kept a#1 b#1");
  world.expect_nothing_else();
  EXPECT_EQ(world.core().worker(World::worker_id("w1"))->free_cores, 0u);
  // With fewer cores than its attempts have, nothing is free until enough of them have ended.
  world.leave("w1");
  world.join("w1", {.slots = {16}, .shares_cores = true}, "a#1 b#1");
  world.expect("w1: welcome kept a#1 b#1");
  world.succeed("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect("w1: offer 2/c#1 with 1");
  world.expect_nothing_else();
}

TEST(Placement, QueuedBehind_CountsOnlyJobsThatWantTheSameSlots) {
  World world("busy\nnarrow dataset=other priority=5\nfirst\nsecond\n");
  world.join("w1");
  EXPECT_EQ(world.explain("second"), "behind 1");
  EXPECT_EQ(world.explain("narrow"), "w1 lacks other");
}

}  // namespace
}  // namespace bitrung::core
