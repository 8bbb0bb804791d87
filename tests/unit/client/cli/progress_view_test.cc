#include "client/cli/progress_view.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "client/cli/experiment_view.h"
#include "tests/unit/client/cli/golden.h"
#include "tests/unit/client/cli/sample.h"

namespace bitrung::cli {
namespace {

ExperimentView sample_view() {
  ExperimentView view;
  v1::WatchExperimentResponse message;
  for (const v1::Job& job : sample_jobs()) *message.add_jobs() = job;
  *message.mutable_experiment() = sample_experiment();
  message.set_cursor(40);
  view.apply(message);
  return view;
}

std::string lines_at(const ExperimentView& view, std::size_t width, std::size_t height,
                     const Style& style) {
  const Terminal terminal{.interactive = true, .width = width, .height = height, .style = style};
  std::string text;
  for (const std::string& line : progress_lines(view, 62, terminal)) text += line + "\n";
  return text;
}

TEST(ProgressView, SeveralWidths) {
  const ExperimentView view = sample_view();
  for (const std::size_t width : {120U, 80U, 60U, 40U, 20U}) {
    const std::string text = lines_at(view, width, 24, kPlainStyle);
    EXPECT_TRUE(matches_golden(fmt::format("progress_{}.txt", width), text));
  }
  EXPECT_TRUE(matches_golden("progress_100.ansi", lines_at(view, 100, 24, kFullStyle)));
}

TEST(ProgressView, NoLineIsWiderThanTheTerminal) {
  const ExperimentView view = sample_view();
  for (std::size_t width = 1; width <= 140; ++width) {
    const Terminal terminal{.interactive = true,
                            .width = width,
                            .height = 24,
                            .style = {.colour = false, .unicode = true}};
    for (const std::string& line : progress_lines(view, 3723, terminal)) {
      EXPECT_LE(display_width(line), width) << line;
    }
  }
}

TEST(ProgressView, MoreJobsThanLines_CountsWhatIsHidden) {
  ExperimentView view = sample_view();
  v1::WatchExperimentResponse message;
  for (int i = 0; i < 100; ++i) {
    *message.add_jobs() = make_job(100 + i, fmt::format("many.seed={}", i), 4,
                                   i < 50 ? v1::JOB_STATE_SUCCEEDED : v1::JOB_STATE_READY);
  }
  view.apply(message);
  for (std::size_t height = 1; height <= 120; ++height) {
    const Terminal terminal{
        .interactive = true, .width = 80, .height = height, .style = kPlainStyle};
    EXPECT_LT(progress_lines(view, 62, terminal).size(), std::max<std::size_t>(height, 3));
  }
  EXPECT_TRUE(matches_golden("progress_collapsed.txt", lines_at(view, 80, 8, kPlainStyle)));
}

TEST(ProgressView, PlainLinesPerChange) {
  std::string text;
  for (const v1::Job& job : sample_jobs()) text += change_line(job) + "\n";
  v1::Job again = make_job(1, "again", 4, v1::JOB_STATE_READY);
  again.set_error("attempt 1: lost worker");
  text += change_line(again) + "\n";
  text += change_line(make_job(1, "stopped", 4, v1::JOB_STATE_CANCELLED)) + "\n";
  EXPECT_TRUE(matches_golden("changes.txt", text));
  EXPECT_EQ(change_line(make_job(1, "x", 4, v1::JOB_STATE_OFFERED)), "");
}

TEST(ProgressView, ChangesOnAPipe) {
  std::string tsv = change_tsv_header();
  std::string json;
  for (const v1::Job& job : sample_jobs()) {
    tsv += change_tsv(job, kNowMs);
    json += change_json(job, kNowMs);
  }
  EXPECT_TRUE(matches_golden("watch.tsv", tsv));
  EXPECT_TRUE(matches_golden("watch.json", json));
}

TEST(ExperimentView, TellsNewsOnce) {
  ExperimentView view;
  v1::WatchExperimentResponse message;
  *message.add_jobs() = make_job(2, "b", 4, v1::JOB_STATE_BLOCKED);
  *message.add_jobs() = make_job(1, "a", 4, v1::JOB_STATE_RUNNING);
  message.set_cursor(7);
  std::vector<v1::Job> news = view.apply(message);
  ASSERT_EQ(news.size(), 1U);  // A blocked job is no news.
  EXPECT_EQ(news[0].name(), "a");
  EXPECT_EQ(view.cursor(), 7);
  EXPECT_TRUE(view.apply(message).empty());  // Told again after a broken stream.

  message.mutable_jobs(1)->set_state(v1::JOB_STATE_SUCCEEDED);
  message.mutable_jobs(0)->set_state(v1::JOB_STATE_READY);
  news = view.apply(message);
  ASSERT_EQ(news.size(), 2U);
  EXPECT_EQ(news[0].name(), "a");  // In submit order.
}

TEST(ExperimentView, ProgressOnlyMessage_ChangesNothingElse) {
  ExperimentView view = sample_view();
  v1::WatchExperimentResponse message;
  message.set_progress_only(true);
  message.set_cursor(99);
  v1::Job& job = *message.add_jobs();
  job.set_job_id(13);
  job.mutable_progress()->set_epoch(4);
  message.add_jobs()->set_job_id(777);  // Unknown: ignored.
  EXPECT_TRUE(view.apply(message).empty());
  EXPECT_EQ(view.jobs().at(13).progress().epoch(), 4U);
  EXPECT_EQ(view.jobs().at(13).name(), "assisted.bits=4");
  EXPECT_EQ(view.cursor(), 40);
  EXPECT_EQ(view.jobs().size(), 5U);
}

TEST(ExperimentView, RemainingTime_IsTheLongestChainOrTheWholeWork) {
  ExperimentView view;
  v1::WatchExperimentResponse message;
  v1::Job& done = *message.add_jobs();
  done = make_job(1, "t", 32, v1::JOB_STATE_SUCCEEDED);
  done.mutable_result()->set_duration_seconds(50);  // 10 s per epoch.
  v1::Job& running = *message.add_jobs();
  running = make_job(2, "a", 4, v1::JOB_STATE_RUNNING);
  running.mutable_progress()->set_step(50);
  running.mutable_progress()->set_steps(100);
  running.mutable_progress()->set_eta_seconds(25);
  v1::Job& next = *message.add_jobs();
  next = make_job(3, "b", 2, v1::JOB_STATE_BLOCKED);
  next.add_parents("a");
  v1::Job& last = *message.add_jobs();
  last = make_job(4, "c", 1, v1::JOB_STATE_BLOCKED);
  last.add_parents("b");
  view.apply(message);
  // One job at a time: 25 + 50 + 50, which is the chain as well.
  ASSERT_TRUE(view.remaining_seconds().has_value());
  EXPECT_NEAR(*view.remaining_seconds(), 125, 0.1);

  // Three unrelated ready jobs: the whole work counts, one at a time.
  v1::WatchExperimentResponse more;
  for (int i = 0; i < 3; ++i) {
    *more.add_jobs() = make_job(10 + i, fmt::format("r{}", i), 4, v1::JOB_STATE_READY);
  }
  view.apply(more);
  EXPECT_NEAR(*view.remaining_seconds(), 275, 0.1);

  // Two at once: half of the work, still more than the chain.
  more.mutable_jobs(0)->set_state(v1::JOB_STATE_RUNNING);
  view.apply(more);
  EXPECT_NEAR(*view.remaining_seconds(), 137.5, 0.1);
}

TEST(ExperimentView, RemainingTime_IsUnknownBeforeThereIsAPace) {
  ExperimentView view;
  v1::WatchExperimentResponse message;
  *message.add_jobs() = make_job(1, "a", 4, v1::JOB_STATE_READY);
  view.apply(message);
  EXPECT_EQ(view.remaining_seconds(), std::nullopt);
}

TEST(ExperimentView, RemainingTime_SurvivesACycle) {
  ExperimentView view;
  v1::WatchExperimentResponse message;
  v1::Job& done = *message.add_jobs();
  done = make_job(1, "t", 32, v1::JOB_STATE_SUCCEEDED);
  done.mutable_result()->set_duration_seconds(50);
  *message.add_jobs() = make_job(2, "a", 4, v1::JOB_STATE_BLOCKED);
  message.mutable_jobs(1)->add_parents("b");
  *message.add_jobs() = make_job(3, "b", 4, v1::JOB_STATE_BLOCKED);
  message.mutable_jobs(2)->add_parents("a");
  view.apply(message);
  EXPECT_TRUE(view.remaining_seconds().has_value());
}

}  // namespace
}  // namespace bitrung::cli
