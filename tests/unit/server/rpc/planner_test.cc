#include "server/rpc/planner.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/rpc/graph_request.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::rpc {
namespace {

using db::value_of;

// Canonical options of a training, of which these differ from job to job.
struct Trained {
  int bits = 4;
  std::uint32_t epochs = 10;
  double rate = 0.5;
  std::uint64_t seed = 1;
  std::string more = {};  // A last member.

  std::string spec() const {
    return fmt::format(
        R"({{"bits":{{"activations":{0},"weights":{0}}},"dataset":"cifar10","epochs":{1},"kind":"train",)"
        R"("method":{{"activations":"dorefa","weights":"dorefa"}},"model":"resnet20","numerics":1,)"
        R"("optimizer":{{"kind":"sgd","learning_rate":{2}}},"seed":{3}{4}}})",
        bits, epochs, rate, seed, more);
  }
};

class PlannerTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(store_->begin());
    ASSERT_OK(store_->insert_experiment(db::make_experiment(1, "before")));
    ASSERT_OK(store_->commit());
  }

  // A job that has succeeded and took that long.
  void record(const std::string& name, const Trained& options, double seconds) {
    db::JobSpecRow spec = db::make_job(++jobs_, 1, name);
    spec.spec_json = options.spec();
    spec.spec_sha256 = sha256(spec.spec_json);
    spec.epochs = options.epochs;
    db::JobStateRow state = db::make_state(jobs_, JobState::kSucceeded);
    state.result = db::make_result(90);
    state.result->duration_seconds = seconds;
    ASSERT_OK(store_->begin());
    ASSERT_OK(store_->insert_job(spec, state));
    ASSERT_OK(store_->commit());
  }

  v1::PlanExperimentResponse planned(const v1::PlanExperimentRequest& request) {
    const auto experiment = value_of(convert_graph(request.jobs(), request.shared_specs()));
    v1::PlanExperimentResponse response;
    EXPECT_OK(plan(*reader_, experiment, response));
    return response;
  }

  // What is said of one job of these options.
  v1::PlannedJob planned(const Trained& options) {
    v1::PlanExperimentRequest request;
    v1::JobNode& node = *request.add_jobs();
    node.set_name("job");
    node.set_devices(1);
    node.set_spec_json(options.spec());
    return planned(request).jobs(0);
  }

  db::TemporaryDirectory directory_;
  std::unique_ptr<db::Store> store_ = value_of(db::Store::open(directory_.path()));
  std::unique_ptr<db::StoreReader> reader_ = value_of(db::StoreReader::open(directory_.path()));
  std::int64_t jobs_ = 0;
};

TEST_F(PlannerTest, TheNearestJob_SaysWhatDiffers) {
  EXPECT_EQ(planned(Trained{}).reason(), "");
  record("far", {.bits = 2, .epochs = 20, .seed = 5}, 40);
  EXPECT_EQ(planned(Trained{}).reason(),
            "nearest is before/far: bits.activations is 2 there, 4 here");
  record("near", {.rate = 0.25}, 30);
  EXPECT_EQ(planned(Trained{}).reason(),
            "nearest is before/near: optimizer.learning_rate is 0.25 there, 0.5 here");
  EXPECT_EQ(planned({.rate = 0.25, .seed = 7}).reason(),
            "nearest is before/near: seed is 1 there, 7 here");
  EXPECT_EQ(planned({.rate = 0.25, .more = R"(,"train_images":500)"}).reason(),
            "nearest is before/near: train_images is absent there, 500 here");
  EXPECT_EQ(planned({.bits = 2, .epochs = 20, .seed = 6}).reason(),
            "nearest is before/far: seed is 5 there, 6 here");
  // 2 s an epoch and 3 s an epoch.
  EXPECT_EQ(planned(Trained{}).estimated_seconds(), 25);
}

TEST_F(PlannerTest, OptionsInTwoParts_AreComparedWhole) {
  record("near", {.rate = 0.25}, 30);
  v1::PlanExperimentRequest request;
  request.add_shared_specs(
      R"({"bits":{"activations":4,"weights":4},"dataset":"cifar10","epochs":10,"kind":"train",)"
      R"("method":{"activations":"dorefa","weights":"dorefa"},"model":"resnet20","numerics":1})");
  for (const char* own : {R"({"optimizer":{"kind":"sgd","learning_rate":0.25},"seed":2})",
                          R"({"optimizer":{"kind":"sgd","learning_rate":0.5},"seed":1})"}) {
    v1::JobNode& node = *request.add_jobs();
    node.set_name(fmt::format("job-{}", request.jobs_size()));
    node.set_devices(1);
    node.set_spec_json(own);
    node.set_shared_spec(1);
  }
  const v1::PlanExperimentResponse response = planned(request);
  EXPECT_EQ(response.jobs(0).reason(), "nearest is before/near: seed is 1 there, 2 here");
  EXPECT_EQ(response.jobs(1).reason(),
            "nearest is before/near: optimizer.learning_rate is 0.25 there, 0.5 here");
  EXPECT_EQ(response.jobs(1).estimated_seconds(), 30);
}

TEST(FirstDifference, NamesTheOptionAndBothValues) {
  std::size_t count = 0;
  EXPECT_EQ(first_difference(R"({"epochs":3,"optimizer":{"learning_rate":0.1},"seed":1})",
                             R"({"epochs":5,"optimizer":{"learning_rate":0.2},"seed":1})", &count),
            "epochs is 3 there, 5 here");
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(first_difference(R"({"a":{"b":1}})", R"({"a":{}})"), "a is absent there, null here");
  EXPECT_EQ(first_difference(R"({"a":1})", R"({"a":1})", &count), "");
  EXPECT_EQ(count, 0u);
}

}  // namespace
}  // namespace bitrung::rpc
