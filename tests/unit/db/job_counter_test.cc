#include "db/job_counter.h"

#include <map>

#include <gtest/gtest.h>

#include "db/store.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::db {
namespace {

using Count = JobCounter::Count;

TEST(JobCounter, FollowsEveryChange) {
  JobCounter counter;
  counter.insert(JobId{5}, ExperimentId{1}, JobState::kReady, false);
  counter.insert(JobId{6}, ExperimentId{1}, JobState::kReady, false);
  counter.insert(JobId{9'000'000'000}, ExperimentId{2}, JobState::kSucceeded, true);
  counter.update(JobId{6}, JobState::kSucceeded, true);
  counter.update(JobId{9'000'000'000}, JobState::kSucceeded, true);
  EXPECT_EQ(counter.count(ExperimentId{1}, JobState::kReady), (Count{1, 0}));
  EXPECT_EQ(counter.count(ExperimentId{1}, JobState::kSucceeded), (Count{1, 1}));
  EXPECT_EQ(counter.count(ExperimentId{2}, JobState::kSucceeded), (Count{1, 1}));
  EXPECT_EQ(counter.count(ExperimentId{3}, JobState::kReady), Count{});
  EXPECT_TRUE(counter.contains(JobId{6}));
  EXPECT_FALSE(counter.contains(JobId{7}));

  std::map<std::pair<std::int64_t, JobState>, Count> changes;
  const auto note = [&](ExperimentId id, JobState state, const Count& count) {
    changes[{number(id), state}] = count;
  };
  counter.take_changes(note);
  EXPECT_EQ(changes.size(), 3U);
  changes.clear();
  counter.update(JobId{5}, JobState::kReady, false);
  counter.take_changes(note);
  EXPECT_TRUE(changes.empty());
  counter.update(JobId{5}, JobState::kOffered, false);
  counter.take_changes(note);
  EXPECT_EQ((changes[{1, JobState::kReady}]), Count{});
  EXPECT_EQ((changes[{1, JobState::kOffered}]), (Count{1, 0}));
}

TEST(JobCounts, AreRightAfterChangesAndARestart) {
  const TemporaryDirectory directory;
  const auto check = [&] {
    const auto reader = value_of(StoreReader::open(directory.path()));
    const ExperimentCounts counts = value_of(reader->counts(ExperimentId{1}));
    EXPECT_EQ(counts.jobs, 2U);
    EXPECT_EQ(counts.jobs_by_state, (std::vector<std::pair<JobState, std::uint32_t>>{
                                        {JobState::kReady, 1}, {JobState::kOffered, 1}}));
  };
  {
    const auto store = value_of(Store::open(directory.path()));
    ASSERT_TRUE(store->begin().ok());
    ASSERT_TRUE(store->insert_experiment(make_experiment(1, "study")).ok());
    ASSERT_TRUE(store->insert_job(make_job(1, 1, "a"), make_state(1, JobState::kReady)).ok());
    ASSERT_TRUE(store->insert_job(make_job(2, 1, "b"), make_state(2, JobState::kReady)).ok());
    ASSERT_TRUE(store->commit().ok());
    ASSERT_TRUE(store->begin().ok());
    ASSERT_TRUE(store->update_job(make_state(2, JobState::kOffered)).ok());
    ASSERT_TRUE(store->commit().ok());
    check();
  }
  value_of(Store::open(directory.path()));
  check();
}

}  // namespace
}  // namespace bitrung::db
