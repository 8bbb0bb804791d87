#include <nlohmann/json.hpp>

#include "client/experiment/network.h"
#include "client/experiment/option_values.h"
#include "tests/unit/client/experiment/testing.h"

namespace bitrung::client {
namespace {

TEST(Spec, Defaults_AreAllWrittenOut) {
  EXPECT_EQ(
      graph_of("experiment: e\njobs: {a: }\n").jobs.at(0).spec_json,
      R"({"augment":["crop","flip"],"batch_size":128,"bits":{"activations":32,"weights":32},)"
      R"("dataset":"cifar10","epochs":160,"init":"scratch","kind":"train",)"
      R"("method":{"activations":"dorefa","weights":"dorefa"},"model":"resnet20","numerics":1,)"
      R"("optimizer":{"kind":"sgd","learning_rate":0.1,"momentum":0.9,"nesterov":false,)"
      R"("weight_decay":0.0001},"schedule":{"at":[0.5,0.75],"factor":0.1,"kind":"step",)"
      R"("warmup_epochs":0},"seed":20,"train_images":0,"validation":5000})");
}

TEST(Spec, TaughtSyntheticJob_HasTheOptionalParts) {
  const Graph graph = graph_of(R"(
experiment: e
defaults: {dataset: synthetic, schedule: constant, augment: [flip], epochs: 2}
jobs:
  big: {model: resnet56}
  small: {bits: w1a32, teacher: big, distill: {temperature: 3}}
)");

  EXPECT_EQ(
      graph.jobs.at(1).spec_json,
      R"({"augment":["flip"],"batch_size":128,"bits":{"activations":32,"weights":1},)"
      R"("dataset":"synthetic","distill":{"kind":"kd","temperature":3.0,"weight":0.5},"epochs":2,)"
      R"("init":"scratch","kind":"train","method":{"activations":"dorefa","weights":"dorefa"},)"
      R"("model":"resnet20","numerics":1,"optimizer":{"kind":"sgd","learning_rate":0.1,)"
      R"("momentum":0.9,"nesterov":false,"weight_decay":0.0001},)"
      R"("schedule":{"kind":"constant","warmup_epochs":0},"seed":20,)"
      R"("synthetic":{"seed":1,"test_images":2000,"train_images":8000},"train_images":0,)"
      R"("validation":5000})");
}

TEST(Spec, EverySpec_IsWhatAJsonLibraryWrites) {
  const Graph graph = graph_of(R"(
experiment: e
defaults: {dataset: synthetic, synthetic: {seed: 9007199254740991}}
jobs:
  big: {schedule: {at: [0.125, 0.3333333333333333]}}
  small:
    teacher: big
    init: teacher
    augment: []
    sweep:
      optimizer.learning_rate: [1, 1e-7, 0.30000000000000004, 123.456, 1000]
      optimizer.weight_decay: [0, 5e-4]
      schedule: [cosine, constant, {kind: step, factor: 1}]
)");

  ASSERT_EQ(graph.jobs.size(), 31U);
  for (const Job& job : graph.jobs) {
    EXPECT_EQ(nlohmann::json::parse(job.spec_json).dump(), job.spec_json);
  }
}

TEST(Spec, EqualNumbersInOtherSpelling_GiveEqualText) {
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"optimizer: {learning_rate: 1}", "optimizer: {learning_rate: 1.0}"},
      {"optimizer: {learning_rate: 0.0001}", "optimizer: {learning_rate: 1e-4}"},
      {"optimizer: {weight_decay: 0}", "optimizer: {weight_decay: -0.0}"},
      {"optimizer: {momentum: .5}", "optimizer: {momentum: 0.50}"},
      {"bits: 4", "bits: w4a4"},
      {"bits: 4", "bits: {weights: 4, activations: 4}"},
      {"bits: 4", "bits: \"4\""},
      {"method: dorefa", "method: {weights: dorefa, activations: dorefa}"},
      {"schedule: cosine", "schedule: {kind: cosine}"},
      {"augment: [crop, flip]", "augment: [flip, crop]"},
      {"timeout: 5400", "timeout: 90m"},
      {"timeout: 1.5h", "timeout: 90 m"},
      {"seed: 20", "{}"},
  };
  for (const auto& [one, other] : pairs) {
    const std::string other_map = other == "{}" ? other : "{" + other + "}";
    const Graph graph =
        graph_of("experiment: e\njobs:\n  a: {" + one + "}\n  b: " + other_map + "\n");
    EXPECT_EQ(drawn(graph), "a = b\n") << one << " and " << other;
  }
}

TEST(Spec, Reals_AreShortAndRecognizable) {
  EXPECT_EQ(real_text(1), "1.0");
  EXPECT_EQ(real_text(0.1), "0.1");
  EXPECT_EQ(real_text(1e-4), "0.0001");
  EXPECT_EQ(real_text(1e-5), "1e-05");
  EXPECT_EQ(real_text(160), "160.0");
}

TEST(Spec, WhatCannotChangeTheNumbers_IsNotInIt) {
  const Graph graph = graph_of(
      "experiment: e\njobs:\n  a: {retries: 0, timeout: 1h, priority: 9, resources: {memory: 1}}\n "
      " b:\n");
  EXPECT_EQ(drawn(graph), "a = b\n");
}

TEST(Network, MultiplyAccumulates_MatchThePublishedSizes) {
  const DatasetInfo cifar10 = dataset_info("cifar10");
  EXPECT_EQ(forward_macs("resnet8", cifar10), 12'501'632);
  EXPECT_EQ(forward_macs("resnet20", cifar10), 40'813'184);
  EXPECT_NEAR(static_cast<double>(forward_macs("resnet14", cifar10)), 26.66e6, 0.005e6);
  EXPECT_NEAR(static_cast<double>(forward_macs("resnet26", cifar10)), 54.97e6, 0.005e6);
  EXPECT_EQ(forward_macs("resnet20", dataset_info("cifar100")), 40'813'184 + 90 * 64);
}

TEST(TrainingFlops, CountsForwardBackwardAndTheTeacher) {
  const Graph graph = graph_of(R"(
experiment: e
defaults: {dataset: synthetic, synthetic: {train_images: 3000}, validation: 1000, epochs: 3}
jobs:
  big: {model: resnet20}
  small: {model: resnet8, teacher: big}
  few: {model: resnet8, train_images: 2000}
)");

  const double images = 3 * 2000;
  EXPECT_DOUBLE_EQ(training_flops(graph, 0), images * 6 * 40'813'184);
  EXPECT_DOUBLE_EQ(training_flops(graph, 1), images * (6 * 12'501'632.0 + 2 * 40'813'184.0));
  EXPECT_DOUBLE_EQ(training_flops(graph, 2), images / 2 * 6 * 12'501'632);
}

TEST(CriticalPath, CountsTheLongestChain) {
  EXPECT_EQ(critical_path_length(Graph()), 0U);
  EXPECT_EQ(critical_path_length(graph_of("experiment: e\njobs: {a: , b: {epochs: 1}}")), 1U);
  EXPECT_EQ(critical_path_length(graph_of("experiment: e\njobs: {a: {teacher: b, init: c}, b: "
                                          "{epochs: 1}, c: {epochs: 2, teacher: b}}")),
            3U);
}

}  // namespace
}  // namespace bitrung::client
