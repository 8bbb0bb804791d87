#include <algorithm>
#include <ctime>

#include "tests/unit/client/experiment/testing.h"

namespace bitrung::client {
namespace {

TEST(Expand, AloneAndAssisted_ElevenOfTwelveJobsRemain) {
  const Graph graph = graph_of(R"(
experiment: bit-ladder
jobs:
  alone:
    sweep: {bits: [32, 16, 8, 4, 2, 1]}
  assisted:
    ladder: {bits: [32, 16, 8, 4, 2, 1]}
    distill: {temperature: 5, weight: 0.5}
)");

  EXPECT_EQ(graph.name, "bit-ladder");
  EXPECT_EQ(drawn(graph),
            "alone.bits=32 = assisted.bits=32\n"
            "alone.bits=16\n"
            "alone.bits=8\n"
            "alone.bits=4\n"
            "alone.bits=2\n"
            "alone.bits=1\n"
            "assisted.bits=16 <- teacher alone.bits=32\n"
            "assisted.bits=8 <- teacher assisted.bits=16\n"
            "assisted.bits=4 <- teacher assisted.bits=8\n"
            "assisted.bits=2 <- teacher assisted.bits=4\n"
            "assisted.bits=1 <- teacher assisted.bits=2\n");
  EXPECT_EQ(critical_path_length(graph), 6U);
}

TEST(Expand, ParentsAfterChildren_KeepTheOrderOfTheFile) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  student: {bits: 4, teacher: big}
  big: {model: resnet56}
)");

  EXPECT_EQ(drawn(graph),
            "student <- teacher big\n"
            "big\n");
}

TEST(Expand, AllWaysDownFromThirtyTwoBits_AreThirtyTwoTrainings) {
  // Every subset of {16, 8, 4, 2, 1} is a ladder from 32 bits down. Equal beginnings are equal
  // work, so a training is left for each subset, the empty one included: 32 instead of 112.
  std::string text = "experiment: paths\njobs:\n";
  std::size_t names = 0;
  const std::vector<int> rungs = {16, 8, 4, 2, 1};
  for (unsigned subset = 0; subset < 32; ++subset) {
    std::string bits = "32";
    ++names;
    for (std::size_t i = 0; i < rungs.size(); ++i) {
      if ((subset >> i & 1U) == 0) continue;
      bits += ", " + std::to_string(rungs[i]);
      ++names;
    }
    text += "  path" + std::to_string(subset) + ": {ladder: {bits: [" + bits + "]}}\n";
  }
  EXPECT_EQ(names, 112U);
  EXPECT_EQ(graph_of(text).jobs.size(), 32U);
}

TEST(Expand, Paths_AreEveryWayDownWithSharedBeginnings) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  ways: {paths: {bits: [32, 8, w2a4]}, init: teacher}
  alone: {sweep: {bits: [32, w2a4]}}
)");

  EXPECT_EQ(drawn(graph),
            "ways.path=32 = alone.bits=32\n"
            "ways.path=32-8 <- teacher ways.path=32\n"
            "ways.path=32-8-w2a4 <- teacher ways.path=32-8\n"
            "ways.path=32-w2a4 <- teacher ways.path=32\n"
            "alone.bits=w2a4\n");
  EXPECT_EQ(graph.jobs[3].weight_bits, 2);
  EXPECT_THAT(graph.jobs[3].spec_json, testing::HasSubstr(R"("init":"teacher")"));
}

TEST(Expand, PathsOfSixRungs_AreThirtyTwoTrainings) {
  const std::string six = "{bits: [32, 16, 8, 4, 2, 1]}";
  const Graph graph = graph_of("experiment: e\njobs:\n  ways: {paths: " + six +
                               "}\n  assisted: " + "{ladder: " + six + "}\n");
  ASSERT_EQ(graph.jobs.size(), 32U);
  EXPECT_EQ(critical_path_length(graph), 6U);
  EXPECT_EQ(job_named(graph, "assisted.bits=1").name, "ways.path=32-16-8-4-2-1");
  std::size_t edges = 0;
  for (const Job& job : graph.jobs) edges += job.inputs.size();
  EXPECT_EQ(edges, 31U);
  EXPECT_EQ(
      graph_of("experiment: e\nreplicate: {seed: [1, 2, 3]}\njobs: {ways: {paths: " + six + "}}\n")
          .jobs.size(),
      96U);
}

TEST(Expand, BestPath_HasAJobForEveryPairOfRungs) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  best: {paths: {bits: [32, 8, 4, 2]}, search: best-path}
)");

  EXPECT_EQ(drawn(graph),
            "best.bits=32\n"
            "best.bits=8.from=32 <- teacher best.bits=32\n"
            "best.bits=4.from=32 <- teacher best.bits=32\n"
            "best.bits=4.from=8 <- teacher best.bits=8.from=32\n"
            "best.bits=2.from=32 <- teacher best.bits=32\n"
            "best.bits=2.from=8 <- teacher best.bits=8.from=32\n"
            "best.bits=2.from=4 <- teacher best of best.bits=4.from=32, best.bits=4.from=8\n");
  EXPECT_EQ(critical_path_length(graph), 4U);
}

TEST(Expand, BestPathOfSixRungs_SharesItsUnchosenEdgesWithThePaths) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  best: {paths: {bits: [32, 16, 8, 4, 2, 1]}, search: best-path}
)");
  EXPECT_EQ(graph.jobs.size(), 16U);
  const Graph both = graph_of(R"(
experiment: e
replicate: {seed: [1, 2]}
jobs:
  best: {paths: {bits: [32, 16, 8, 4]}, search: best-path}
  ways: {paths: {bits: [32, 16, 8, 4]}}
  student: {bits: 1, teacher: best.bits=8.from=16}
)");
  // Without a choice above it: the root, 16 from 32, and 8 and 4 from the one teacher at 32 and 16.
  EXPECT_EQ(both.jobs.size(), 2 * (7 + 8 - 6 + 1U));
  EXPECT_EQ(job_named(both, "ways.path=32-16-8.seed=2").name, "best.bits=8.from=16.seed=2");
  EXPECT_EQ(both.jobs.at(job_named(both, "student.seed=2").inputs.at(0).jobs.at(0)).name,
            "best.bits=8.from=16.seed=2");
}

TEST(Expand, SeveralTeachers_KeepTheirOrder) {
  const Graph graph = graph_of(R"(
experiment: e
replicate: {seed: [1, 2]}
jobs:
  big: {model: resnet56}
  bigger: {model: resnet110}
  a: {bits: 4, teacher: [big, bigger.seed=1]}
  b: {bits: 4, teacher: [bigger.seed=1, big]}
  c: {bits: 4, sweep: {teacher: [[big, bigger], big]}}
)");

  EXPECT_EQ(drawn(graph),
            "big.seed=1\n"
            "big.seed=2\n"
            "bigger.seed=1\n"
            "bigger.seed=2\n"
            "a.seed=1 = c.teacher=big-bigger.seed=1 <- teacher big.seed=1, teacher bigger.seed=1\n"
            "a.seed=2 <- teacher big.seed=2, teacher bigger.seed=1\n"
            "b.seed=1 <- teacher bigger.seed=1, teacher big.seed=1\n"
            "b.seed=2 <- teacher bigger.seed=1, teacher big.seed=2\n"
            "c.teacher=big-bigger.seed=2 <- teacher big.seed=2, teacher bigger.seed=2\n"
            "c.teacher=big.seed=1 <- teacher big.seed=1\n"
            "c.teacher=big.seed=2 <- teacher big.seed=2\n");
}

TEST(Expand, Models_AreReadByTheirGrammar) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  a: {sweep: {model: [resnet20x2, resnet56-bottleneck, resnet20x2-bottleneck, plane4x2, plane10]}}
)");
  EXPECT_EQ(drawn(graph),
            "a.model=resnet20x2\n"
            "a.model=resnet56-bottleneck\n"
            "a.model=resnet20x2-bottleneck\n"
            "a.model=plane4x2\n"
            "a.model=plane10\n");
  EXPECT_EQ(graph.jobs[1].model, "resnet56-bottleneck");
}

TEST(Expand, Replicate_MultipliesEveryEntryAndKeepsSeedsTogether) {
  const Graph graph = graph_of(R"(
experiment: e
replicate: {seed: [20, 31]}
jobs:
  alone: {bits: 32}
  assisted:
    ladder: {bits: [32, 4]}
)");

  EXPECT_EQ(drawn(graph),
            "alone.seed=20 = assisted.bits=32.seed=20\n"
            "alone.seed=31 = assisted.bits=32.seed=31\n"
            "assisted.bits=4.seed=20 <- teacher alone.seed=20\n"
            "assisted.bits=4.seed=31 <- teacher alone.seed=31\n");
  EXPECT_EQ(job_named(graph, "assisted.bits=32.seed=31").seed, 31U);
}

TEST(Expand, SweepOverTwoOptions_IsTheirProductInFileOrder) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  grid:
    sweep:
      bits.weights: [2, 1]
      optimizer.learning_rate: [0.1, 0.05]
)");

  EXPECT_EQ(drawn(graph),
            "grid.weights=2.learning_rate=0.1\n"
            "grid.weights=2.learning_rate=0.05\n"
            "grid.weights=1.learning_rate=0.1\n"
            "grid.weights=1.learning_rate=0.05\n");
  const Job& last = graph.jobs.back();
  EXPECT_EQ(last.weight_bits, 1);
  EXPECT_EQ(last.activation_bits, 32);
  EXPECT_THAT(last.spec_json, testing::HasSubstr(R"("learning_rate":0.05,)"));
}

TEST(Expand, LadderWithSweep_HasOneLadderPerValue) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  a:
    sweep: {epochs: [1, 2]}
    ladder: {bits: [8, 4]}
)");

  EXPECT_EQ(drawn(graph),
            "a.epochs=1.bits=8\n"
            "a.epochs=1.bits=4 <- teacher a.epochs=1.bits=8\n"
            "a.epochs=2.bits=8\n"
            "a.epochs=2.bits=4 <- teacher a.epochs=2.bits=8\n");
}

TEST(Expand, LadderBeforeSweep_NamesFollowTheFile) {
  const Graph graph =
      graph_of("experiment: e\njobs: {a: {ladder: {bits: [8, 4]}, sweep: {epochs: [1]}}}");

  EXPECT_EQ(drawn(graph),
            "a.bits=8.epochs=1\n"
            "a.bits=4.epochs=1 <- teacher a.bits=8.epochs=1\n");
}

TEST(Expand, LadderSweepingDistillation_SharesTheUntaughtRung) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  a:
    sweep: {distill.temperature: [1, 2.5]}
    ladder: {bits: [32, 4]}
)");

  EXPECT_EQ(drawn(graph),
            "a.temperature=1.bits=32 = a.temperature=2.5.bits=32\n"
            "a.temperature=1.bits=4 <- teacher a.temperature=1.bits=32\n"
            "a.temperature=2.5.bits=4 <- teacher a.temperature=1.bits=32\n");
}

TEST(Expand, LadderWithTeacher_FirstRungIsTaughtToo) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  big: {model: resnet56}
  a: {teacher: big, ladder: {bits: [8, 4]}}
)");

  EXPECT_EQ(drawn(graph),
            "big\n"
            "a.bits=8 <- teacher big\n"
            "a.bits=4 <- teacher a.bits=8\n");
}

TEST(Expand, BitsOfWeightsAndActivations_HaveShortNames) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  a:
    sweep: {bits: [w1a32, 4, w8a8, {weights: 2}, {weights: 2, activations: 3}]}
)");

  EXPECT_EQ(drawn(graph), "a.bits=w1a32\na.bits=4\na.bits=8\na.bits=w2a32\na.bits=w2a3\n");
  EXPECT_EQ(graph.jobs[0].weight_bits, 1);
  EXPECT_EQ(graph.jobs[0].activation_bits, 32);
}

TEST(Expand, OptionsWithTheSameLastPart_AreNamedInFull) {
  const Graph graph = graph_of(R"(
experiment: e
replicate: {seed: [20]}
defaults: {dataset: synthetic}
jobs:
  a: {sweep: {optimizer.kind: [sgd], schedule.kind: [step], synthetic.seed: [1]}}
)");

  EXPECT_EQ(drawn(graph), "a.optimizer.kind=sgd.schedule.kind=step.synthetic.seed=1.seed=20\n");
}

TEST(Expand, ValuesThatLookAlikeInNames_StayApart) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  one: {}
  student:
    bits: 4
    sweep:
      schedule: [step, cosine, {kind: step, at: [0.5]}, {kind: step, at: [0.25, 0.5]}]
      augment: [[crop, flip], [crop], []]
)");

  EXPECT_EQ(graph.jobs.size(), 13U);
  EXPECT_EQ(graph.jobs[1].name, "student.schedule=step.augment=crop-flip");
  EXPECT_EQ(graph.jobs[6].name, "student.schedule=cosine.augment=none");
  EXPECT_EQ(graph.jobs[7].name, "student.schedule=kind-step-at-0.5.augment=crop-flip");
  EXPECT_EQ(graph.jobs[12].name, "student.schedule=kind-step-at-0.25-0.5.augment=none");
}

TEST(Expand, LabelsThatCollide_AreNumbered) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  x: {sweep: {epochs: [1]}}
  x-epochs-1: {epochs: 2}
  student: {bits: 4, sweep: {teacher: [x.epochs=1, x-epochs-1, none]}}
)");

  EXPECT_EQ(drawn(graph),
            "x.epochs=1\n"
            "x-epochs-1\n"
            "student.teacher=x.epochs-1 <- teacher x.epochs=1\n"
            "student.teacher=x-epochs-1 <- teacher x-epochs-1\n"
            "student.teacher=none\n");
}

TEST(Expand, OneTeacherUnderTwoNames_IsOneTraining) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  b: {sweep: {epochs: [1], seed: [2]}}
  student: {bits: 4, sweep: {teacher: [b.epochs=1.seed=2, b.epochs=1, b.seed=2]}}
)");

  EXPECT_EQ(
      drawn(graph),
      "b.epochs=1.seed=2\n"
      "student.teacher=b.epochs-1.seed-2 = student.teacher=b.epochs-1 = student.teacher=b.seed-2 "
      "<- teacher b.epochs=1.seed=2\n");
}

TEST(Expand, PartialMaps_KeepTheRest) {
  const Graph graph = graph_of(R"(
experiment: e
defaults:
  optimizer: {momentum: 0.8, nesterov: true}
  schedule: {kind: step, at: [0.3], factor: 0.2, warmup_epochs: 3}
jobs:
  a: {optimizer: {learning_rate: 0.05}, schedule: {factor: 0.5}}
  b: {schedule: {kind: cosine}}
  c: {schedule: {kind: step}}
  d: {sweep: {optimizer: [{learning_rate: 0.2}]}}
)");

  EXPECT_THAT(job_named(graph, "a").spec_json,
              testing::HasSubstr(R"("optimizer":{"kind":"sgd","learning_rate":0.05,"momentum":0.8,)"
                                 R"("nesterov":true,"weight_decay":0.0001},"schedule":{"at":[0.3],)"
                                 R"("factor":0.5,"kind":"step","warmup_epochs":3})"));
  // Another kind starts from its own defaults, the same kind keeps what was set.
  EXPECT_THAT(job_named(graph, "b").spec_json,
              testing::HasSubstr(R"("schedule":{"kind":"cosine","warmup_epochs":0})"));
  EXPECT_THAT(job_named(graph, "c").spec_json,
              testing::HasSubstr(
                  R"("schedule":{"at":[0.3],"factor":0.2,"kind":"step","warmup_epochs":3})"));
  EXPECT_THAT(job_named(graph, "d.optimizer=learning_rate-0.2").spec_json,
              testing::HasSubstr(R"("learning_rate":0.2,"momentum":0.8)"));
}

TEST(Expand, DistillInDefaults_AppliesToTaughtJobsOnly) {
  const Graph graph = graph_of(R"(
experiment: e
defaults: {distill: {temperature: 2}, init: teacher}
jobs:
  big: {}
  small: {bits: 4, teacher: big}
)");

  EXPECT_THAT(graph.jobs[0].spec_json, testing::Not(testing::HasSubstr("distill")));
  EXPECT_THAT(graph.jobs[0].spec_json, testing::HasSubstr(R"("init":"scratch")"));
  EXPECT_THAT(graph.jobs[1].spec_json,
              testing::HasSubstr(R"("temperature":2.0,"temperature_end":2.0)"));
  EXPECT_THAT(graph.jobs[1].spec_json, testing::HasSubstr(R"("init":"teacher")"));
}

TEST(Expand, TeacherInDefaults_CanBeTakenBack) {
  const Graph graph = graph_of(R"(
experiment: e
defaults: {teacher: big}
jobs:
  big: {teacher: none}
  small: {bits: 4}
)");

  EXPECT_EQ(drawn(graph), "big\nsmall <- teacher big\n");
}

TEST(Expand, TeacherByEntry_HasTheStudentsOwnParts) {
  const Graph graph = graph_of(R"(
experiment: e
replicate: {seed: [20, 31]}
jobs:
  alone: {sweep: {bits: [32, 4], epochs: [1, 2]}}
  same: {model: resnet8, teacher: alone.epochs=2, sweep: {bits: [4, 32]}}
)");

  EXPECT_EQ(drawn(graph),
            "alone.bits=32.epochs=1.seed=20\n"
            "alone.bits=32.epochs=1.seed=31\n"
            "alone.bits=32.epochs=2.seed=20\n"
            "alone.bits=32.epochs=2.seed=31\n"
            "alone.bits=4.epochs=1.seed=20\n"
            "alone.bits=4.epochs=1.seed=31\n"
            "alone.bits=4.epochs=2.seed=20\n"
            "alone.bits=4.epochs=2.seed=31\n"
            "same.bits=4.seed=20 <- teacher alone.bits=4.epochs=2.seed=20\n"
            "same.bits=4.seed=31 <- teacher alone.bits=4.epochs=2.seed=31\n"
            "same.bits=32.seed=20 <- teacher alone.bits=32.epochs=2.seed=20\n"
            "same.bits=32.seed=31 <- teacher alone.bits=32.epochs=2.seed=31\n");
}

TEST(Expand, TeacherByFullName_MayCrossSeeds) {
  const Graph graph = graph_of(R"(
experiment: e
replicate: {seed: [20, 31]}
jobs:
  alone: {sweep: {optimizer.learning_rate: [0.1, 0.15]}}
  student: {bits: 4, teacher: alone.learning_rate=0.1.seed=20}
)");

  EXPECT_EQ(job_named(graph, "student.seed=31").inputs.at(0).jobs, std::vector<std::size_t>{0});
}

TEST(Expand, InitFromJob_IsAnInputOfItsOwn) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  big: {model: resnet56}
  start: {bits: 32}
  student: {bits: 4, teacher: big, init: start}
)");

  EXPECT_EQ(drawn(graph), "big\nstart\nstudent <- teacher big, init start\n");
  EXPECT_THAT(graph.jobs[2].spec_json, testing::HasSubstr(R"("init":"job")"));
}

TEST(Expand, MergedJobs_TakeTheMostDemandingSettings) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  a: {retries: 1, timeout: 90m, priority: -5, resources: {memory: 8GiB}}
  b: {retries: 7, timeout: 2h, priority: 3, resources: {memory: 512MB}}
  c: {epochs: 3, timeout: 30}
  d: {epochs: 3, timeout: 0}
)");

  ASSERT_EQ(drawn(graph), "a = b\nc = d\n");
  EXPECT_EQ(graph.jobs[0].retries, 7U);
  EXPECT_EQ(graph.jobs[0].timeout_seconds, 7200.0);
  EXPECT_EQ(graph.jobs[0].priority, 3);
  EXPECT_EQ(graph.jobs[0].devices, 1U);
  EXPECT_EQ(graph.jobs[0].memory_bytes, 8ULL << 30);
  EXPECT_EQ(graph.jobs[1].timeout_seconds, 0.0);
}

TEST(Expand, JobsWithDifferentTeachers_StayApart) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  big: {model: resnet56}
  bigger: {model: resnet110}
  same: {model: resnet56}
  a: {bits: 4, teacher: big}
  b: {bits: 4, teacher: bigger}
  c: {bits: 4, teacher: same}
)");

  EXPECT_EQ(drawn(graph), "big = same\nbigger\na = c <- teacher big\nb <- teacher bigger\n");
}

TEST(Expand, HeadlineOptions_AreThoseOfTheSpec) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  a: {model: resnet8, dataset: cifar100, bits: w2a4, seed: 7, epochs: 9, method: {weights: dorefa}}
)");

  const Job& job = graph.jobs.at(0);
  EXPECT_EQ(job.model, "resnet8");
  EXPECT_EQ(job.dataset, "cifar100");
  EXPECT_EQ(job.method, "dorefa");
  EXPECT_EQ(job.weight_bits, 2);
  EXPECT_EQ(job.activation_bits, 4);
  EXPECT_EQ(job.seed, 7U);
  EXPECT_EQ(job.epochs, 9);
}

TEST(Expand, SourceYaml_IsTheTextBeforeOverrides) {
  const std::string text = "experiment: e\njobs: {a: }\n";
  EXPECT_EQ(graph_of(text, {"experiment=f"}).source_yaml, text);
}

// Processor time, because other programs of the machine are no concern of this test.
double seconds_of(const std::string& text, std::size_t jobs_expected) {
  const std::clock_t start = std::clock();
  EXPECT_EQ(graph_of(text).jobs.size(), jobs_expected);
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
constexpr double kSecondsMax = 60;
#else
constexpr double kSecondsMax = 2;
#endif

std::string numbers(int first, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += (i == 0 ? "" : ", ") + std::to_string(first + i);
  return text;
}

TEST(Expand, HundredThousandJobsOfASweep_AreAcceptedQuickly) {
  EXPECT_LT(seconds_of("experiment: e\nreplicate: {seed: [" + numbers(0, 1000) + "]}\n" +
                           "jobs: {a: {sweep: {epochs: [" + numbers(1, 100) + "]}}}\n",
                       100'000),
            kSecondsMax);
}

TEST(Expand, HundredThousandEntriesInAChain_AreAcceptedQuickly) {
  std::string text = "experiment: e\njobs:\n  j0:\n";
  for (int i = 1; i < 100'000; ++i) {
    text += "  j" + std::to_string(i) + ": {teacher: j" + std::to_string(i - 1) + "}\n";
  }
  // It takes a second; what must not happen is a minute, should a walk over the chain become
  // quadratic.
  EXPECT_LT(seconds_of(text, 100'000), 5 * kSecondsMax);
}

}  // namespace
}  // namespace bitrung::client
