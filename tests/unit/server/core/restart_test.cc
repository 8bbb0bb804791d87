// A new core from the stored rows goes on where the old one was. World checks after every step that
// the rows say the same; here is what a restart adds: fresh leases, no sessions.
#include <gtest/gtest.h>

#include "tests/unit/server/core/world.h"

namespace bitrung::core {
namespace {

constexpr milliseconds kLeaseAndMargin{70'000};

TEST(Restart, RunningAttempt_IsKeptWhenItsWorkerComesBack) {
  World world("a\nb <- a\n");
  world.join("w1").start("w1", "a#1").advance(milliseconds{30'000}).forget_messages();
  world.restart();
  EXPECT_EQ(world.explain("a"), "runs on absent w1 #1 for 70000 ms");
  EXPECT_EQ(world.core().next_deadline(), world.now().monotonic + kLeaseAndMargin);
  world.join("w2", {});
  world.expect("w2: welcome");
  world.expect_nothing_else();
  world.join("w1", {}, "a#1");
  world.expect("w1: welcome kept a#1");
  world.succeed("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect("w1: offer b#1");
  world.expect_nothing_else();
}

TEST(Restart, WorkerThatStaysAway_LosesTheAttemptAfterAFullLease) {
  World world("a\n");
  world.join("w1").start("w1", "a#1").restart().join("w2").forget_messages();
  world.advance(kLeaseAndMargin - milliseconds{1});
  world.expect_nothing_else();
  world.advance(milliseconds{1});
  world.expect("w2: offer a#2");
}

TEST(Restart, SuccessReportedAgain_IsAnswered) {
  World world("a\n");
  world.join("w1").succeed("w1", "a#1").restart().join("w1").forget_messages();
  world.succeed("w1", "a#1");
  world.expect("w1: recorded a#1");
  world.expect_nothing_else();
}

TEST(Restart, StaleAttempt_IsStillFenced) {
  World world("a\n");
  world.join("w1").fail("w1", "a#1", FailureClass::kPreempted).restart();
  world.join("w1", {}, "a#1 a#2").forget_messages();
  world.succeed("w1", "a#1");
  world.expect("w1: fence a#1");
  world.expect_states("a offered");
}

TEST(Restart, Cancelling_GoesOn) {
  World world("a\nb <- a\n");
  world.join("w1").start("w1", "a#1").cancel("a").restart().forget_messages();
  world.join("w1", {}, "a#1");
  world.expect("w1: welcome kept a#1");
  world.expect("w1: cancel a#1");
  world.expect_nothing_else();
  world.restart().advance(kLeaseAndMargin);
  world.expect_states("a cancelled, b skipped");
}

TEST(Restart, RetryDelay_BeginsAnew) {
  World world("a retries=3\n");
  world.join("w1").fail("w1", "a#1", FailureClass::kTimeout).advance(milliseconds{900});
  world.restart();
  EXPECT_EQ(world.explain("a"), "waits 1000 ms for retry 1/3");
  world.join("w1").advance(milliseconds{999});
  world.expect_states("a ready");
  world.advance(milliseconds{1});
  world.expect_states("a offered");
}

TEST(Restart, Numbers_AreNeverUsedAgain) {
  World world("a\nb\n");
  world.restart().submit("c\n");
  EXPECT_EQ(world.job("2/c"), JobId{3});
  EXPECT_EQ(world.core().experiment_of(JobId{3}), ExperimentId{2});
}

TEST(Restart, EqualJobs_StillWaitForEachOther) {
  World world("a\n");
  world.join("w1", {.slots = {16, 16}}).submit("a\n").restart();
  EXPECT_EQ(world.explain("2/a"), "waits for equal a");
  world.join("w1", {.slots = {16, 16}}, "a#1").succeed("w1", "a#1");
  EXPECT_EQ(world.explain("2/a"), "cached from a");
}

TEST(Restart, Measurements_StillOrderJobs) {
  World world(
      "probe flops=10 class=slow priority=1\nquick0 flops=10 class=quick priority=1\n"
      "quick1 flops=9 class=quick\nslow1 flops=5 class=slow\n");
  world.set_durations_vary();
  world.join("w1").succeed("w1", "probe#1", 1e-9).succeed("w1", "quick0#1", 1e-11);
  world.expect_states("slow1 offered, quick1 ready");
  world.leave("w1").advance(kLeaseAndMargin).restart().join("w1");
  world.expect_states("slow1 offered, quick1 ready");
}

TEST(Restart, GapBetweenExperiments_IsNoJob) {
  db::Snapshot snapshot;
  for (const std::int64_t id : {5, 9}) {
    db::Snapshot::Job& job = snapshot.jobs.emplace_back();
    job.spec.id = job.state.id = JobId{id};
    job.spec.experiment = ExperimentId{id};
    job.spec.dataset = "data";
    job.state.state = JobState::kReady;
  }
  snapshot.next_job_id = 12;
  snapshot.next_experiment_id = 12;
  Core core({}, snapshot, {});
  EXPECT_TRUE(core.started().empty());
  EXPECT_FALSE(core.contains(JobId{4}));
  EXPECT_TRUE(core.contains(JobId{5}));
  EXPECT_FALSE(core.contains(JobId{7}));
  EXPECT_TRUE(core.contains(JobId{9}));
  EXPECT_FALSE(core.contains(JobId{10}));
  const Effects effects = core.step(Submit{{NewJob{}}}, {});
  EXPECT_EQ(std::get<AddExperiment>(effects.front()).first_job, JobId{12});
}

TEST(Restart, WhatTheRowsLeftUndone_IsDoneAndReported) {
  // b could start, d cannot any more: a store that was repaired by hand.
  db::Snapshot snapshot;
  const auto add = [&](std::int64_t id, JobState state, std::optional<std::int64_t> parent) {
    db::Snapshot::Job& job = snapshot.jobs.emplace_back();
    job.spec.id = job.state.id = JobId{id};
    job.spec.experiment = ExperimentId{1};
    if (parent.has_value()) {
      job.spec.inputs.push_back({InputRole::kTeacher, JobId{*parent}, std::nullopt});
    }
    job.state.state = state;
    if (state == JobState::kSucceeded) job.state.result.emplace();
  };
  add(1, JobState::kSucceeded, std::nullopt);
  add(2, JobState::kBlocked, 1);
  add(3, JobState::kFailed, std::nullopt);
  add(4, JobState::kBlocked, 3);
  snapshot.next_job_id = 5;
  Core core({}, snapshot, {});
  const Effects effects = core.started();
  EXPECT_EQ(effects.size(), 2u);
  EXPECT_EQ(core.row(JobId{2}).state, JobState::kReady);
  EXPECT_EQ(core.row(JobId{4}).state, JobState::kSkipped);
  EXPECT_TRUE(core.started().empty());
}

}  // namespace
}  // namespace bitrung::core
