#include <nlohmann/json.hpp>

#include "client/experiment/network.h"
#include "client/experiment/spec_text.h"
#include "tests/unit/client/experiment/testing.h"

namespace bitrung::client {
namespace {

TEST(Spec, Defaults_AreAllWrittenOut) {
  EXPECT_EQ(
      graph_of("experiment: e\njobs: {a: }\n").jobs.at(0).spec_json,
      R"({"augment":["crop","flip"],"backend":"auto","batch_size":128,)"
      R"("bits":{"activations":32,"first":32,"gradients":32,"last":32,"layers":[],"shortcut":32,)"
      R"("weights":32},"dataset":"cifar10","epochs":160,"init":"scratch","kind":"train",)"
      R"("method":{"activations":"dorefa","weights":"dorefa"},"model":"resnet20","numerics":5,)"
      R"("optimizer":{"kind":"sgd","learning_rate":0.1,"momentum":0.9,"nesterov":false,)"
      R"("weight_decay":0.0001},"schedule":{"at":[0.5,0.75],"factor":0.1,"kind":"step",)"
      R"("warmup_epochs":0},"seed":20,"shortcut":"block","train_images":0,"validation":5000})");
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
      R"({"augment":["flip"],"backend":"auto","batch_size":128,)"
      R"("bits":{"activations":32,"first":32,"gradients":32,"last":32,"layers":[],"shortcut":32,)"
      R"("weights":1},"dataset":"synthetic",)"
      R"("distill":{"attention":0.0,"hint":0.0,"kind":"kd","schedule":"constant","self_study":0.0,)"
      R"("similarity":0.0,"temperature":3.0,"temperature_end":3.0,"weight":0.5,"weight_end":0.5},)"
      R"("epochs":2,)"
      R"("init":"scratch","kind":"train","method":{"activations":"dorefa","weights":"dorefa"},)"
      R"("model":"resnet20","numerics":5,"optimizer":{"kind":"sgd","learning_rate":0.1,)"
      R"("momentum":0.9,"nesterov":false,"weight_decay":0.0001},)"
      R"("schedule":{"kind":"constant","warmup_epochs":0},"seed":20,"shortcut":"block",)"
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

TEST(Spec, MethodOptions_AreThoseOfTheMethodsInUse) {
  const auto method_of = [](const std::string& method) {
    const Graph graph = graph_of("experiment: e\njobs: {a: {method: " + method + "}}\n");
    return nlohmann::json::parse(graph.jobs.at(0).spec_json).at("method").dump();
  };
  EXPECT_EQ(method_of("pact"),
            R"({"activations":"pact","clip_decay":0.0001,"clip_init":8.0,"weights":"pact"})");
  EXPECT_EQ(method_of("{weights: sawb, activations: pact, clip_init: 6}"),
            R"({"activations":"pact","clip_decay":0.0001,"clip_init":6.0,"weights":"sawb"})");
  EXPECT_EQ(method_of("{weights: linear, activations: linear, range: asymmetric}"),
            R"({"activations":"linear","ema_decay":0.999,"granularity":"tensor",)"
            R"("range":"asymmetric","weights":"linear"})");
  EXPECT_EQ(method_of("{weights: lsq, activations: affine, scale: learned, granularity: channel}"),
            R"({"activations":"affine","ema_decay":0.999,"granularity":"channel",)"
            R"("scale":"learned","weights":"lsq"})");
  EXPECT_EQ(method_of("xnor"), R"({"activations":"xnor","weights":"xnor"})");
}

TEST(Spec, DefaultsForOtherMethods_AreLeftOut) {
  const Graph graph = graph_of(R"(
experiment: e
defaults: {method: {range: asymmetric, clip_init: 4}, bits: {gradients: 6}}
jobs:
  a: {bits: 4, sweep: {method: [dorefa, linear, pact, dorefa-paper]}}
)");
  const auto spec_of = [&graph](std::string_view name) {
    return nlohmann::json::parse(job_named(graph, name).spec_json);
  };
  EXPECT_EQ(spec_of("a.method=dorefa").at("method").size(), 2U);
  EXPECT_EQ(spec_of("a.method=linear").at("method").at("range"), "asymmetric");
  EXPECT_EQ(spec_of("a.method=pact").at("method").at("clip_init"), 4.0);
  EXPECT_EQ(spec_of("a.method=pact").at("bits").at("gradients"), 32);
  EXPECT_EQ(spec_of("a.method=dorefa-paper").at("bits").at("gradients"), 6);
}

TEST(Spec, BitsOfLayers_StandInFileOrder) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  a:
    model: resnet8
    bits: {weights: 4, activations: 8, first: 8, shortcut: 7, last: 6,
           layers: {"layer3.*": 2, "layer1.0.conv1": w1a4}}
)");
  EXPECT_THAT(
      graph.jobs.at(0).spec_json,
      testing::HasSubstr(
          R"("bits":{"activations":8,"first":8,"gradients":32,"last":6,)"
          R"("layers":[["layer3.*",2,2],["layer1.0.conv1",1,4]],"shortcut":7,"weights":4})"));
  EXPECT_EQ(nlohmann::json::parse(graph.jobs[0].spec_json).dump(), graph.jobs[0].spec_json);
}

TEST(Spec, ShortBits_KeepFirstAndLast) {
  const Graph graph = graph_of(R"(
experiment: e
defaults: {bits: {first: 8, last: 8}}
jobs:
  a: {bits: {shortcut: 8}, ladder: {bits: [32, w2a4]}}
)");
  EXPECT_THAT(job_named(graph, "a.bits=w2a4").spec_json,
              testing::HasSubstr(R"("bits":{"activations":4,"first":8,"gradients":32,"last":8,)"
                                 R"("layers":[],"shortcut":8,"weights":2})"));
}

TEST(Spec, Shortcut_FollowsTheMethodInUse) {
  const auto shortcut_of = [](const std::string& options) {
    const Graph graph = graph_of("experiment: e\njobs: {a: {" + options + "}}\n");
    return nlohmann::json::parse(graph.jobs.at(0).spec_json).at("shortcut").get<std::string>();
  };
  EXPECT_EQ(shortcut_of("method: react, bits: 1"), "convolution");
  EXPECT_EQ(shortcut_of("method: react, bits: 32"), "block");
  EXPECT_EQ(shortcut_of("method: {weights: dorefa, activations: react}, bits: w1a32"), "block");
  EXPECT_EQ(shortcut_of("method: {weights: dorefa, activations: react}, bits: w32a1"),
            "convolution");
  EXPECT_EQ(shortcut_of("method: react, bits: {layers: {\"layer1.*\": w1a32}}"), "convolution");
  EXPECT_EQ(shortcut_of("method: react, bits: 1, shortcut: block"), "block");
  EXPECT_EQ(shortcut_of("method: dorefa, bits: 1, shortcut: convolution"), "convolution");
  EXPECT_EQ(shortcut_of("method: react, bits: 1, model: resnet56-bottleneck"), "block");
  EXPECT_EQ(shortcut_of("method: react, bits: 1, model: plane4"), "block");
}

TEST(Spec, Distillation_WritesWhatItsKindHas) {
  const auto distill_of = [](const std::string& distill) {
    const Graph graph = graph_of(
        "experiment: e\njobs: {big: {model: resnet56}, a: {teacher: big, "
        "distill: {" +
        distill + "}}}\n");
    return nlohmann::json::parse(graph.jobs.at(1).spec_json).at("distill").dump();
  };
  EXPECT_EQ(distill_of("kind: dkd, temperature: 4, beta: 2"),
            R"({"alpha":1.0,"attention":0.0,"beta":2.0,"hint":0.0,"kind":"dkd",)"
            R"("schedule":"constant","self_study":0.0,"similarity":0.0,"temperature":4.0,)"
            R"("temperature_end":4.0,"weight":0.5,"weight_end":0.5})");
  EXPECT_EQ(distill_of("temperature: 4, temperature_end: 1, self_study: 0.25, attention: 100"),
            R"({"attention":100.0,"hint":0.0,"kind":"kd","schedule":"linear","self_study":0.25,)"
            R"("similarity":0.0,"temperature":4.0,"temperature_end":1.0,"weight":0.5,)"
            R"("weight_end":0.5})");
  EXPECT_EQ(distill_of("weight: 0.9, weight_end: 0, schedule: cosine"),
            R"({"attention":0.0,"hint":0.0,"kind":"kd","schedule":"cosine","self_study":0.0,)"
            R"("similarity":0.0,"temperature":1.0,"temperature_end":1.0,"weight":0.9,)"
            R"("weight_end":0.0})");
  EXPECT_EQ(distill_of("weight_end: start, schedule: cosine"), distill_of("weight: 0.5"));
}

TEST(Spec, Quantize_TakesTheNetworkOfItsSource) {
  const Graph graph = graph_of(R"(
experiment: e
defaults: {method: react, epochs: 3}
jobs:
  small: {quantize: big, bits: 4, sweep: {calibration.clip: [minmax, sd, percentile]}}
  big: {model: resnet56, bits: 1}
)");
  EXPECT_EQ(graph.jobs.at(0).spec_json,
            R"({"bits":{"activations":4,"first":32,"gradients":32,"last":32,"layers":[],)"
            R"("shortcut":32,"weights":4},)"
            R"("calibration":{"batch_norm":0,"batch_size":128,"batches":10,"clip":"minmax"},)"
            R"("dataset":"cifar10","kind":"quantize",)"
            R"("method":{"activations":"linear","ema_decay":0.999,"granularity":"tensor",)"
            R"("range":"symmetric","weights":"linear"},"model":"resnet56","numerics":5,"seed":20,)"
            R"("shortcut":"convolution","train_images":0,"validation":5000})");
  EXPECT_THAT(graph.jobs.at(1).spec_json, testing::HasSubstr(R"("clip":"sd","sd":3.0})"));
  EXPECT_THAT(graph.jobs.at(2).spec_json,
              testing::HasSubstr(R"("clip":"percentile","percentile":99.9})"));
  EXPECT_EQ(drawn(graph),
            "small.clip=minmax <- source big\n"
            "small.clip=sd <- source big\n"
            "small.clip=percentile <- source big\n"
            "big\n");
  EXPECT_EQ(graph.jobs[0].kind, JobKind::kQuantize);
  EXPECT_EQ(graph.jobs[0].method, "linear");
  EXPECT_EQ(graph.jobs[0].epochs, 0);
}

TEST(Spec, Evaluate_HasTheBitsAndMethodsOfItsSource) {
  const Graph graph = graph_of(R"(
experiment: e
replicate: {seed: [20, 31]}
jobs:
  look: {evaluate: small}
  small: {quantize: big, bits: w8a4}
  big: {model: resnet8}
)");
  EXPECT_EQ(drawn(graph),
            "look.seed=20 <- source small.seed=20\n"
            "look.seed=31 <- source small.seed=31\n"
            "small.seed=20 <- source big.seed=20\n"
            "small.seed=31 <- source big.seed=31\n"
            "big.seed=20\n"
            "big.seed=31\n");
  EXPECT_EQ(graph.jobs.at(1).spec_json,
            R"({"bits":{"activations":4,"first":32,"gradients":32,"last":32,"layers":[],)"
            R"("shortcut":32,"weights":8},"dataset":"cifar10","kind":"evaluate",)"
            R"("method":{"activations":"linear","ema_decay":0.999,"granularity":"tensor",)"
            R"("range":"symmetric","weights":"linear"},"model":"resnet8","numerics":5,"seed":31,)"
            R"("shortcut":"block","train_images":0,"validation":5000})");
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
  late: {model: resnet8, teacher: [big, few], distill: {self_study: 0.25}}
  small8: {quantize: small, bits: 8, calibration: {batches: 3, batch_size: 50, batch_norm: 2}}
  look: {evaluate: small8}
)");

  const double images = 3 * 2000;
  EXPECT_DOUBLE_EQ(training_flops(graph, 0), images * 6 * 40'813'184);
  EXPECT_DOUBLE_EQ(training_flops(graph, 1), images * (6 * 12'501'632.0 + 2 * 40'813'184.0));
  EXPECT_DOUBLE_EQ(training_flops(graph, 2), images / 2 * 6 * 12'501'632);
  EXPECT_DOUBLE_EQ(training_flops(graph, 3),
                   images * (6 * 12'501'632.0 + 2 * 0.75 * (40'813'184.0 + 12'501'632.0)));
  // Nothing is learned: one way forward for the images of calibration, validation and test.
  EXPECT_DOUBLE_EQ(training_flops(graph, 4), 2 * 12'501'632.0 * (1000 + 2000 + 5 * 50));
  EXPECT_DOUBLE_EQ(training_flops(graph, 5), 2 * 12'501'632.0 * (1000 + 2000));
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
