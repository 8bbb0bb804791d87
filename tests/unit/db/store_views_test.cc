// The questions a researcher types into the sqlite3 shell, with the answers.
#include "tests/unit/db/db_testing.h"

namespace bitrung::db {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// bit-ladder (1):  full  ── half (succeeded, taught by full)  ── one (running, taught by half)
//                  student of an outside teacher (failed)       twin of full (cached)
// empty (2):       no job
class StoreViewsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto store = value_of(Store::open(directory_.path()));
    ASSERT_OK(store->begin());
    ASSERT_OK(store->insert_experiment(make_experiment(1)));
    ASSERT_OK(store->insert_experiment(make_experiment(2, "empty")));

    JobSpecRow full = make_job(1, 1, "full");
    full.aliases = {"rung-32", "start"};
    full.seed = 18'446'744'073'709'551'615U;
    ASSERT_OK(store->insert_job(full, succeeded(1, 92.5, 1)));
    ASSERT_OK(
        store->insert_job(student(2, "half", 16, {InputRole::kTeacher, JobId{1}, std::nullopt}),
                          succeeded(2, 92.25, 2)));
    JobStateRow running = make_state(3, JobState::kRunning);
    running.attempt = 1;
    running.started_at_ms = 1'700'000'060'000;
    ASSERT_OK(store->insert_job(student(3, "one", 1, {InputRole::kTeacher, JobId{2}, std::nullopt}),
                                running));
    JobStateRow failed = make_state(4, JobState::kFailed);
    failed.error = "loss is nan at step 17";
    failed.failure_class = FailureClass::kDiverged;
    ASSERT_OK(store->insert_job(
        student(4, "outside", 4, {InputRole::kTeacher, std::nullopt, digest_of("teacher")}),
        failed));
    JobStateRow cached = succeeded(5, 92.5, 0);
    cached.cached_from = JobId{1};
    ASSERT_OK(store->insert_job(make_job(5, 1, "twin"), cached));

    AttemptRow won = make_attempt(1, 1, AttemptState::kSucceeded);
    won.offered_at_ms = 1'700'000'000'000;
    won.started_at_ms = 1'700'000'001'000;
    won.finished_at_ms = 1'700'000'003'500;
    ASSERT_OK(store->save_attempt(won));
    ASSERT_OK(store->save_attempt(make_attempt(3, 1, AttemptState::kRunning)));
    ASSERT_OK(store->append_points(JobId{1}, 1, 1,
                                   {{"loss", 0, 2.5}, {"accuracy", 0, 10}, {"loss", 100, 0.125}}));
    ASSERT_OK(store->append_logs(JobId{1}, 1, 1, {{0, 0, 1'700'000'001'500, "epoch 1"}}));
    ASSERT_OK(store->commit());
  }

  static JobSpecRow student(std::int64_t id, const std::string& name, std::uint32_t bits,
                            const InputRow& teacher) {
    JobSpecRow spec = make_job(id, 1, name);
    spec.weight_bits = bits;
    spec.activation_bits = bits;
    spec.inputs = {teacher};
    return spec;
  }

  static JobStateRow succeeded(std::int64_t id, double accuracy, std::uint32_t attempt) {
    JobStateRow state = make_state(id, JobState::kSucceeded);
    state.attempt = attempt;
    state.result = make_result(accuracy);
    state.result->validation_accuracy = 93;
    state.result->duration_seconds = 2.5;
    state.result->images_per_second = 50'000;
    return state;
  }

  std::vector<std::string> ask(const std::string& sql) { return select(directory_.path(), sql); }

  TemporaryDirectory directory_;
};

TEST_F(StoreViewsTest, Results_AreOneRowPerJob) {
  const std::string network = digest_of("network").hex();
  EXPECT_THAT(
      ask("select * from results"),
      ElementsAre("bit-ladder|full|resnet20|cifar10|dorefa|32|32||18446744073709551615|160|"
                  "succeeded|0|92.5|93.0||2.5|"
                  "50000.0|1|" +
                      network + "||1|1",
                  "bit-ladder|half|resnet20|cifar10|dorefa|16|16|full|20|160|succeeded|0|92.25|93."
                  "0||2.5|50000.0|2|" +
                      network + "||1|2",
                  "bit-ladder|one|resnet20|cifar10|dorefa|1|1|half|20|160|running|0||||||1|||1|3",
                  "bit-ladder|outside|resnet20|cifar10|dorefa|4|4|artifact " +
                      digest_of("teacher").hex() +
                      "|20|160|failed|0||||||0||loss is nan at step 17|1|4",
                  "bit-ladder|twin|resnet20|cifar10|dorefa|32|32||20|160|succeeded|1|92.5|93.0||2."
                  "5|50000.0|0|" +
                      network + "||1|5"));
  EXPECT_THAT(ask("select name, test_accuracy from results where experiment = 'bit-ladder' and "
                  "weight_bits = 16"),
              ElementsAre("half|92.25"));
  EXPECT_THAT(ask("select name from results where artifact_sha256 is null"),
              ElementsAre("one", "outside"));
}

TEST_F(StoreViewsTest, Reports_AreReadWithArrowsAndByLayer) {
  {
    auto store = value_of(Store::open(directory_.path()));
    ASSERT_OK(store->begin());
    ASSERT_OK(store->insert_report(
        JobId{1},
        R"({"evaluation":{"images":10000,"top1":92.5,"top5":99.5,"nll":0.25,"brier":0.125,"ece":null,
            "per_class":[91,94]},
            "network":{"parameters":77360,"macs":12500000,"bit_operations":1.5e9,
                       "bytes_packed":40000,"compression":7.75},
            "layers":[{"name":"conv1","role":"first","macs":442368,
                       "weights":{"bits":32,"levels":null},"activations":null},
                      {"name":"fc","role":"last","macs":640,
                       "weights":{"bits":4,"levels":15,"sqnr_db":20.5,"saturated":0.01,"entropy":3.5},
                       "activations":{"bits":8,"levels":200,"sqnr_db":40.5,"saturated":0,"entropy":6}}]})"));
    ASSERT_OK(store->commit());
  }
  // The cached twin has the report of the job it was cached from.
  EXPECT_THAT(ask("select name, report_json ->> '$.evaluation.per_class[1]' from reports order by "
                  "job_id"),
              ElementsAre("full|94", "twin|94"));
  EXPECT_THAT(ask("select * from evaluations where name = 'full'"),
              ElementsAre("bit-ladder|full|10000|92.5|99.5|0.25|0.125||77360|12500000|"
                          "1500000000.0|40000|7.75|1|1"));
  EXPECT_THAT(ask("select * from layers where name = 'full'"),
              ElementsAre("bit-ladder|full|1|conv1|first|442368|32||||||||||1|1",
                          "bit-ladder|full|2|fc|last|640|4|15|20.5|0.01|3.5|8|200|40.5|0|6|1|1"));
}

TEST_F(StoreViewsTest, Experiments_HaveAStateAndCounts) {
  // id, name, state, jobs, waiting, running, succeeded, cached, failed, cancelled, skipped,
  // submitted, finished
  EXPECT_THAT(ask("select * from experiments"),
              ElementsAre("1|bit-ladder|active|5|0|1|3|1|1|0|0|2023-11-14 22:13:20|",
                          "2|empty|succeeded|0|0|0|0|0|0|0|0|2023-11-14 22:13:20|"));
}

TEST_F(StoreViewsTest, ExperimentState_FollowsTheJobs) {
  auto store = value_of(Store::open(directory_.path()));
  const auto state = [&] {
    return ask("select state from experiments where experiment_id = 2").at(0);
  };
  const auto add = [&](std::int64_t id, JobState job_state) {
    ASSERT_OK(store->begin());
    ASSERT_OK(
        store->insert_job(make_job(id, 2, fmt::format("job-{}", id)), make_state(id, job_state)));
    ASSERT_OK(store->commit());
  };
  add(10, JobState::kCancelled);
  EXPECT_EQ(state(), "cancelled");
  add(11, JobState::kFailed);
  EXPECT_EQ(state(), "failed");
  add(12, JobState::kCancelling);
  EXPECT_EQ(state(), "active");
}

TEST_F(StoreViewsTest, Jobs_TellWhereTheyStand) {
  EXPECT_THAT(ask("select name, state, worker, attempts, failure_class, error, aliases, "
                  "cached_from, started_at, "
                  "spec_json ->> '$.model' from jobs"),
              ElementsAre("full|succeeded|lab-1|1|||rung-32 start|||resnet20",  //
                          "half|succeeded||2||||||resnet20",                    //
                          "one|running|lab-1|1|||||2023-11-14 22:14:20|resnet20",
                          "outside|failed||0|diverged|loss is nan at step 17||||resnet20",
                          "twin|succeeded||0||||full||resnet20"));
}

TEST_F(StoreViewsTest, Attempts_HaveNamesAndTimes) {
  EXPECT_THAT(
      ask("select experiment, job, attempt, state, worker, device, offered_at, finished_at, "
          "seconds, points, "
          "log_lines from attempts"),
      ElementsAre(
          "bit-ladder|full|1|succeeded|lab-1|cpu|2023-11-14 22:13:20|2023-11-14 22:13:23|2.5|3|1",
          "bit-ladder|one|1|running|lab-1|cpu||||0|0"));
}

TEST_F(StoreViewsTest, Metrics_AreOneRowPerPoint) {
  EXPECT_THAT(
      ask("select * from metrics where experiment = 'bit-ladder' and job = 'full' and series = "
          "'loss'"),
      ElementsAre("bit-ladder|full|1|loss|0|2.5|1|1", "bit-ladder|full|1|loss|100|0.125|1|1"));
  EXPECT_THAT(ask("select series, typeof(step), typeof(value), value from metrics where series = "
                  "'accuracy'"),
              ElementsAre("accuracy|integer|real|10.0"));
  EXPECT_THAT(ask("select * from metrics where job = 'one'"), IsEmpty());
}

TEST_F(StoreViewsTest, Ladders_CompareWithTheTeacher) {
  EXPECT_THAT(ask("select job, teacher, weight_bits, teacher_weight_bits, test_accuracy, "
                  "teacher_test_accuracy, "
                  "difference from ladders"),
              ElementsAre("half|full|16|32|92.25|92.5|-0.25", "one|half|1|16||92.25|"));
}

TEST_F(StoreViewsTest, Logs_HaveNamesAndTimes) {
  EXPECT_THAT(ask("select * from logs"),
              ElementsAre("bit-ladder|full|1|1|2023-11-14 22:13:21.500|epoch 1|1|1"));
}

}  // namespace
}  // namespace bitrung::db
