#include "tests/unit/client/experiment/testing.h"

namespace bitrung::client {
namespace {

constexpr std::string_view kLadder = R"(experiment: ladder
defaults:
  schedule: cosine
jobs:
  alone:
    sweep: {bits: [32, 4]}
  assisted:
    ladder: {bits: [32, 4]}
)";

TEST(ParseOverride, SplitsAtTheFirstEqualsSign) {
  EXPECT_EQ(*parse_override("defaults.epochs=1"), Override("defaults.epochs", "1"));
  EXPECT_EQ(*parse_override("jobs.a.teacher=b.bits=32"), Override("jobs.a.teacher", "b.bits=32"));
  EXPECT_EQ(*parse_override("defaults.augment="), Override("defaults.augment", ""));
}

TEST(ParseOverride, AnythingElse_IsRefused) {
  for (const std::string_view text : {"defaults.epochs", "=1", ".a=1", "a.=1", "a..b=1", ""}) {
    const absl::StatusOr<Override> result = parse_override(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_EQ(std::string(message(result.status())),
              "--set " + std::string(text) +
                  ": expected OPTION=VALUE, such as defaults.epochs=1 or jobs.NAME.bits=4");
  }
}

TEST(Overrides, SetAnyValueOfTheFile) {
  const Graph graph = graph_of(kLadder, {"defaults.epochs=1", "jobs.alone.sweep.bits=[4, 2]",
                                         "replicate.seed=[1,2,3]", "experiment=quick"});
  EXPECT_EQ(graph.name, "quick");
  ASSERT_EQ(graph.jobs.size(), 12U);
  EXPECT_EQ(graph.jobs[0].name, "alone.bits=4.seed=1");
  EXPECT_EQ(graph.jobs[0].epochs, 1);
  EXPECT_EQ(graph.jobs[11].name, "assisted.bits=4.seed=3");
}

TEST(Overrides, MissingMapsAreMade) {
  const Graph graph =
      graph_of("experiment: e\njobs: {a: }\n",
               {"defaults.optimizer.learning_rate=0.5", "jobs.a.resources.memory=1KiB",
                "jobs.a.sweep.optimizer.momentum=[0, 0.5]"});
  ASSERT_EQ(drawn(graph), "a.momentum=0\na.momentum=0.5\n");
  EXPECT_THAT(graph.jobs[0].spec_json, testing::HasSubstr(R"("learning_rate":0.5)"));
  EXPECT_EQ(graph.jobs[0].memory_bytes, 1024U);
}

TEST(Overrides, ShortFormOfTheSchedule_KeepsItsKind) {
  const Graph graph = graph_of(kLadder, {"defaults.schedule.warmup_epochs=5"});
  EXPECT_THAT(graph.jobs[0].spec_json,
              testing::HasSubstr(R"("schedule":{"kind":"cosine","warmup_epochs":5})"));
}

TEST(Overrides, LaterOnesWin) {
  EXPECT_EQ(graph_of(kLadder, {"defaults.epochs=1", "defaults.epochs=2"}).jobs[0].epochs, 2);
}

TEST(Overrides, WholeJobsCanBeGiven) {
  EXPECT_EQ(drawn(graph_of(kLadder, {"jobs.more={epochs: 3}", "jobs={one: {bits: 4}}"})), "one\n");
}

TEST(Overrides, RescueAFileWithAWrongValue) {
  EXPECT_EQ(graph_of("experiment: e\ndefaults: {epochs: many}\njobs: {a: }", {"defaults.epochs=3"})
                .jobs[0]
                .epochs,
            3);
}

TEST(Overrides, Errors_NameTheOverride) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"defaults.epohcs=1",
       R"(--set defaults.epohcs=1: unknown option "epohcs" in defaults; did you mean "epochs"?)"},
      {"defaults.epochs=0",
       "--set defaults.epochs=0: epochs is 0; expected an integer from 1 to 1,000,000"},
      {"defaults.epochs=",
       "--set defaults.epochs=: epochs has no value; expected an integer from 1 to 1,000,000"},
      {"epochs=1",
       R"(--set epochs=1: option "epochs" is not allowed at the top level; put it under "defaults" )"
       R"(for all jobs, or under a job)"},
      {"jobs.alnoe.epochs=1",
       R"(--set jobs.alnoe.epochs=1: the file has no job "alnoe"; did you mean "alone"?)"},
      {"jobs.x.epochs=1",
       R"(--set jobs.x.epochs=1: the file has no job "x"; it has alone and assisted)"},
      {"experiment.name=1",
       R"(--set experiment.name=1: experiment is "ladder", not a mapping; set it as a whole)"},
      {"defaults.bits=[4",
       "--set defaults.bits=[4: a list or a mapping stands where a key is expected; is a bracket "
       "or a "
       "colon missing?"},
      {"defaults.bits=&a 4",
       "--set defaults.bits=&a 4: anchors and aliases (&name, *name) are not allowed; write the "
       "value "
       "out, or move it to \"defaults\""},
      {"jobs.alone.sweep.bits=4",
       R"(--set jobs.alone.sweep.bits=4: bits in sweep of job alone is "4"; expected a list of values, )"
       R"(such as [4])"},
      {"replicate.sede=[1]",
       R"(--set replicate.sede=[1]: unknown option "sede" in replicate; did you mean "seed"?)"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(error_of(kLadder, {text}), expected);
}

TEST(Overrides, LongOnes_AreShortenedInMessages) {
  const std::string message = error_of(kLadder, {"defaults.epochs=" + std::string(10'000, '9')});
  EXPECT_LT(message.size(), 500U);
}

}  // namespace
}  // namespace bitrung::client
