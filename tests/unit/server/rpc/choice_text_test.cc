// What people are told of teachers that are chosen, of cores and of what was computed with: by
// `explain`, by `plan`, in tables.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/rpc/convert.h"
#include "server/rpc/explain_text.h"
#include "server/rpc/planner.h"
#include "server/rpc/report.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::rpc {
namespace {

using testing::ElementsAre;

db::JobSpecRow student_of(std::vector<db::InputRow> inputs) {
  db::JobSpecRow spec = db::make_job(4, 1, "student");
  spec.inputs = std::move(inputs);
  return spec;
}

constexpr auto kNone = std::nullopt;

TEST(TeacherText, NamesWhatIsKnown) {
  const std::vector<std::string> names = {"a", "b", "c", "d"};
  db::JobRow row;
  row.spec = student_of({{InputRole::kTeacher, JobId{1}, kNone},
                         {InputRole::kTeacher, JobId{2}, kNone},
                         {InputRole::kInit, JobId{3}, kNone}});
  EXPECT_EQ(teacher_text(row, names), "a, b");

  row.spec = student_of({{InputRole::kTeacher, JobId{1}, kNone, 1},
                         {InputRole::kTeacher, JobId{2}, kNone, 1},
                         {InputRole::kTeacher, JobId{3}, kNone},
                         {InputRole::kInit, JobId{1}, kNone}});
  EXPECT_EQ(teacher_text(row, names), "best of a, b, c");
  row.state.chosen = {1};
  EXPECT_EQ(teacher_text(row, names), "b, c");

  row.spec = student_of({{InputRole::kSource, JobId{1}, kNone}});
  row.state.chosen.clear();
  EXPECT_EQ(teacher_text(row, names), "");

  std::vector<db::InputRow> many;
  std::vector<std::string> many_names;
  for (int i = 0; i < 30; ++i) {
    many.push_back({InputRole::kTeacher, JobId{i + 1}, kNone, 1});
    many_names.push_back(fmt::format("j{}", i));
  }
  row.spec = student_of(many);
  EXPECT_EQ(teacher_text(row, many_names), "best of j0, j1, j2, j3 and 26 more");
}

class ChoiceTextTest : public testing::Test {
 protected:
  void SetUp() override {
    auto store = db::value_of(db::Store::open(directory_.path()));
    ASSERT_OK(store->begin());
    ASSERT_OK(store->insert_experiment(db::make_experiment(1)));
    for (const std::int64_t id : {1, 2}) {
      db::JobStateRow state = db::make_state(id, JobState::kSucceeded);
      state.result = db::make_result(90);
      state.result->validation_accuracy = 60 + static_cast<double>(id);
      ASSERT_OK(store->insert_job(db::make_job(id, 1, fmt::format("t{}", id)), state));
    }
    ASSERT_OK(store->insert_job(db::make_job(3, 1, "t3"), db::make_state(3, JobState::kRunning)));
    ASSERT_OK(store->insert_job(student_of({{InputRole::kTeacher, JobId{1}, kNone, 1},
                                            {InputRole::kTeacher, JobId{2}, kNone, 1}}),
                                db::make_state(4)));
    ASSERT_OK(store->commit());
    reader_ = db::value_of(db::StoreReader::open(directory_.path()));
  }

  std::vector<std::string> explained(const db::JobRow& job,
                                     const std::vector<core::Reason>& reasons) {
    return db::value_of(explain_text(*reader_, job, reasons));
  }

  db::TemporaryDirectory directory_;
  std::unique_ptr<db::StoreReader> reader_;
};

TEST_F(ChoiceTextTest, Explain_SaysForWhatItWaitsAndWhatWasTaken) {
  db::JobRow job = db::value_of(reader_->job(JobId{4}));
  EXPECT_THAT(explained(job, {core::WaitsForCandidates{3, 2, JobId{3}, JobState::kRunning}}),
              ElementsAre("waits for 2 of 3 candidates for its teacher, the first is t3, which is "
                          "running"));
  EXPECT_THAT(explained(job, {core::WaitsForCandidates{2, 1, JobId{3}, JobState::kReady}}),
              ElementsAre("waits for 1 of 2 candidates for its teacher: t3, which is ready"));
  job.state.chosen = {1};
  EXPECT_THAT(explained(job, {core::QueuedBehind{0}}),
              ElementsAre("it is the next to get a slot",
                          "its teacher is t2, the best of 2 candidates with 62.00 % on the "
                          "validation images"));
}

TEST_F(ChoiceTextTest, Explain_SaysWhoHasTheCoresAndWhy) {
  const db::JobRow job = db::value_of(reader_->job(JobId{4}));
  EXPECT_THAT(
      explained(job,
                {core::QueuedBehind{0}, core::CoresTaken{"w", 4, {{JobId{1}, 3}, {JobId{2}, 1}}}}),
      ElementsAre("it is the next to get a slot", "worker w shares 4 cores: t1 has 3, t2 has 1"));
  const auto running = [&](std::uint32_t threads, std::uint32_t shared_cores) {
    core::IsRunning reason;
    reason.worker = "w";
    reason.attempt = 1;
    reason.width = {threads, shared_cores};
    return explained(job, {reason}).at(0);
  };
  EXPECT_EQ(running(4, 4),
            "attempt 1 runs on worker w with all its 4 cores: no other job waited for them");
  EXPECT_EQ(running(1, 4),
            "attempt 1 runs on worker w with 1 of its 4 cores: those that were free were divided "
            "among the jobs that waited");
  EXPECT_EQ(running(1, 1), "attempt 1 runs on worker w");
  EXPECT_EQ(running(8, 0), "attempt 1 runs on worker w");  // Its slot has as many for good.
}

TEST(ComputationText, SaysBackendThreadsAndReason) {
  EXPECT_EQ(computation_text(R"({"backend":"fused avx2","backend_reason":null,"threads":2})"),
            "computed by fused avx2 on 2 threads");
  EXPECT_EQ(computation_text(R"({"backend":"eager","backend_reason":"it is new","threads":1})"),
            "computed by eager on 1 thread, not by the fused loops: it is new");
  EXPECT_EQ(computation_text(R"({"backend":"eager"})"), "computed by eager");  // Of an older one.
  EXPECT_EQ(computation_text(R"({"backend":7})"), "");
  EXPECT_EQ(computation_text("not JSON"), "");
}

TEST_F(ChoiceTextTest, Plan_DoesNotGuessTheTeacher) {
  engine::NewExperiment experiment;
  for (const std::int64_t id : {1, 2, 4}) {
    db::JobSpecRow row = db::value_of(reader_->job(JobId{id})).spec;
    core::NewJob node;
    node.spec = row.spec_sha256;
    node.dataset = row.dataset;
    for (std::uint32_t i = 0; i < row.inputs.size(); ++i) {
      row.inputs[i].parent = JobId{i};
      node.inputs.push_back({InputRole::kTeacher, i, std::nullopt, 1});
    }
    experiment.rows.push_back(row);
    experiment.nodes.push_back(node);
  }
  v1::PlanExperimentResponse response;
  ASSERT_OK(plan(*reader_, experiment, response));
  EXPECT_FALSE(response.jobs(2).cached());
  EXPECT_EQ(response.jobs(2).reason(),
            "not known yet: its teacher will be the best of 2 candidates");
}

}  // namespace
}  // namespace bitrung::rpc
