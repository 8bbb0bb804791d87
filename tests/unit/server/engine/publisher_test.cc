#include "server/engine/publisher.h"

#include <gtest/gtest.h>

namespace bitrung::engine {
namespace {

TEST(Publisher, Listener_HearsOfItsExperimentOnly_UntilTheSubscriptionEnds) {
  Publisher publisher;
  int jobs = 0;
  int progress = 0;
  auto subscription =
      publisher.subscribe(ExperimentId{1}, {.on_jobs = [&] { ++jobs; },
                                            .on_progress = [&](JobId) { ++progress; },
                                            .on_points = nullptr,
                                            .on_logs = nullptr});
  publisher.jobs_changed(ExperimentId{1});
  publisher.jobs_changed(ExperimentId{2});
  publisher.progress_changed(ExperimentId{1}, JobId{5}, Progress{});
  publisher.logs_recorded(ExperimentId{1}, JobId{5});  // Nobody asked for them.
  EXPECT_EQ(jobs, 1);
  EXPECT_EQ(progress, 1);
  subscription.reset();
  publisher.jobs_changed(ExperimentId{1});
  EXPECT_EQ(jobs, 1);
}

TEST(Publisher, Progress_IsKeptUntilForgotten) {
  Publisher publisher;
  EXPECT_FALSE(publisher.progress(JobId{5}).has_value());
  Progress progress;
  progress.epoch = 3;
  publisher.progress_changed(ExperimentId{1}, JobId{5}, progress);
  EXPECT_EQ(publisher.progress(JobId{5})->epoch, 3u);
  publisher.forget_progress(JobId{5});
  EXPECT_FALSE(publisher.progress(JobId{5}).has_value());
}

}  // namespace
}  // namespace bitrung::engine
