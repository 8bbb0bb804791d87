#include "server/rpc/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "db/base/status.h"
#include "tests/unit/server/rpc/study.h"

namespace bitrung::rpc {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Two entries of two bitwidths and two seeds; assisted is better by 1 and 3 at 4 bits.
Study ladder() {
  Study study;
  study.add("alone.bits=4.seed=1", 4, 1, 60);
  study.add("alone.bits=4.seed=2", 4, 2, 61);
  study.add("alone.bits=2.seed=1", 2, 1, 50);
  study.add("assisted.bits=4.seed=1", 4, 1, 61, distill(5)).spec.inputs = {taught_by(1)};
  study.add("assisted.bits=4.seed=2", 4, 2, 64, distill(5)).spec.inputs = {taught_by(2)};
  study.add("assisted.bits=2.seed=1", 2, 1, 55, distill(5)).spec.aliases = {"best"};
  return study;
}

std::vector<std::string> jobs_of(const Study& study, std::string_view reference) {
  const auto side = select_jobs(study.rows, "3", reference);
  if (!side.ok()) return {std::string(message(side.status()))};
  std::vector<std::string> names{side->label};
  for (std::size_t i = 0; i < side->jobs.size(); ++i)
    names.push_back(fmt::format("{} as {}", side->jobs[i].job->spec.name, side->keys[i]));
  return names;
}

TEST(SelectJobs, ByJobAliasSeedsEntryAndExperiment) {
  const Study study = ladder();
  EXPECT_THAT(jobs_of(study, "alone.bits=4.seed=2"),
              ElementsAre("3/alone.bits=4.seed=2", "alone.bits=4.seed=2 as "));
  EXPECT_THAT(jobs_of(study, "best"), ElementsAre("3/best", "assisted.bits=2.seed=1 as "));
  EXPECT_THAT(jobs_of(study, "alone.bits=4"),
              ElementsAre("3/alone.bits=4", "alone.bits=4.seed=1 as ", "alone.bits=4.seed=2 as "));
  EXPECT_THAT(jobs_of(study, "alone"),
              ElementsAre("3/alone", "alone.bits=4.seed=1 as bits=4",
                          "alone.bits=4.seed=2 as bits=4", "alone.bits=2.seed=1 as bits=2"));
  EXPECT_EQ(jobs_of(study, "").size(), 7u);  // The alias is no job of its own.
  EXPECT_EQ(jobs_of(study, "").at(1), "alone.bits=4.seed=1 as alone.bits=4");
}

TEST(SelectJobs, UnknownName_NamesTheNearest) {
  const Study study = ladder();
  EXPECT_THAT(jobs_of(study, "alon").at(0), HasSubstr("did you mean \"alone\"?"));
  EXPECT_THAT(jobs_of(study, "alone.bit").at(0),
              HasSubstr("there is no job, entry or set of seeds \"alone.bit\" in experiment 3"));
  EXPECT_THAT(jobs_of(Study(), "").at(0), HasSubstr("experiment 3 has no jobs"));
}

v1::CompareResponse compare(const Study& study, std::string_view a, std::string_view b,
                            const Reports& reports = {}) {
  v1::CompareResponse response;
  const ComparedJobs first = select_jobs(study.rows, "3", a).value();
  const ComparedJobs second = select_jobs(study.rows, "3", b).value();
  const absl::Status status = fill_comparison(first, second, reports, response);
  EXPECT_TRUE(status.ok()) << status;
  return response;
}

std::vector<std::string> options(const v1::CompareResponse& response) {
  std::vector<std::string> texts;
  for (const v1::OptionDifference& option : response.options()) {
    texts.push_back(option.name() + ":");
    for (const std::string& value : option.a()) texts.back() += " " + value;
    texts.back() += " |";
    for (const std::string& value : option.b()) texts.back() += " " + value;
  }
  return texts;
}

// "bits=4: 60.5 62.5 +2 (2)" of the test accuracy.
std::vector<std::string> accuracies(const v1::CompareResponse& response) {
  std::vector<std::string> texts;
  for (const v1::ComparedGroup& group : response.groups()) {
    const v1::NumberDifference& number = group.numbers(0);
    EXPECT_EQ(number.name(), "test_accuracy");
    texts.push_back(fmt::format("{}: {} {} {:+} ({})", group.label(), number.a().mean(),
                                number.b().mean(), number.difference().difference().mean(),
                                number.difference().difference().count()));
  }
  return texts;
}

TEST(Comparison, OfTwoJobs_IsOnePairWhateverTheirSeeds) {
  const auto response = compare(ladder(), "alone.bits=4.seed=1", "assisted.bits=2.seed=1");
  EXPECT_EQ(response.a().label(), "3/alone.bits=4.seed=1");
  EXPECT_THAT(response.b().jobs(), ElementsAre("assisted.bits=2.seed=1"));
  EXPECT_THAT(options(response),
              ElementsAre("bits.activations: 4 | 2", "bits.weights: 4 | 2", "distill.kind: | kd",
                          "distill.temperature: | 5", "distill.temperature_end: | 5",
                          "distill.weight: | 0.5"));
  EXPECT_THAT(accuracies(response), ElementsAre(": 60 55 -5 (1)"));
  EXPECT_THAT(accuracies(compare(ladder(), "alone.bits=4.seed=1", "alone.bits=4.seed=2")),
              ElementsAre(": 60 61 +1 (1)"));
  EXPECT_THAT(options(compare(ladder(), "alone.bits=4.seed=1", "alone.bits=4.seed=2")),
              ElementsAre("seed: 1 | 2"));
}

TEST(Comparison, OverSeeds_IsAPairedTest) {
  const auto response = compare(ladder(), "alone.bits=4", "assisted.bits=4");
  EXPECT_THAT(accuracies(response), ElementsAre(": 60.5 62.5 +2 (2)"));
  const v1::PairedTest& test = response.groups(0).numbers(0).difference();
  EXPECT_NEAR(test.t(), 2, 1e-12);
  EXPECT_EQ(test.pairs(1).seed(), 2u);
  EXPECT_EQ(test.pairs(1).difference(), 3);
  EXPECT_THAT(options(response), testing::Contains("teacher: | alone.bits=4"));
}

TEST(Comparison, OfEntries_IsMadeForEachName) {
  EXPECT_THAT(accuracies(compare(ladder(), "alone", "assisted")),
              ElementsAre("bits=4: 60.5 62.5 +2 (2)", "bits=2: 50 55 +5 (1)"));
  EXPECT_THAT(accuracies(compare(ladder(), "", "")),
              ElementsAre("alone.bits=4: 60.5 60.5 +0 (2)", "alone.bits=2: 50 50 +0 (1)",
                          "assisted.bits=4: 62.5 62.5 +0 (2)", "assisted.bits=2: 55 55 +0 (1)"));
}

TEST(Comparison, WhereNamesDiffer_BitsDecide) {
  Study study = ladder();
  study.add("other.epochs=9.seed=1", 4, 1, 66);
  EXPECT_THAT(accuracies(compare(study, "alone", "other")), ElementsAre("bits=4: 60.5 66 +6 (1)"));
}

TEST(Comparison, WithoutAPair_IsRefused) {
  Study study = ladder();
  study.add("other.bits=8.seed=9", 8, 9, 66);
  study.add("other.bits=8.seed=8", 8, 8, 66);
  v1::CompareResponse response;
  const absl::Status status =
      fill_comparison(select_jobs(study.rows, "3", "alone").value(),
                      select_jobs(study.rows, "3", "other").value(), {}, response);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(status)),
              HasSubstr("no job of 3/alone has a counterpart of the same seed in 3/other"));
}

TEST(Comparison, Reports_GiveMeasuresClassesAndLayers) {
  const Study study = ladder();
  const auto report = [](double nll, std::vector<double> classes, int bits, double sqnr) {
    return json{{"evaluation", {{"nll", nll}, {"top5", nullptr}, {"per_class", classes}}},
                {"network", {{"parameters", 100}, {"bytes_packed", 10 * bits}}},
                {"layers",
                 {{{"name", "conv1"}, {"weights", {{"bits", 32}}}, {"activations", nullptr}},
                  {{"name", "layer1"},
                   {"weights", {{"bits", bits}, {"levels", 1 << bits}, {"sqnr_db", sqnr}}},
                   {"activations", {{"bits", bits}, {"sqnr_db", 12}}}}}}};
  };
  const Reports reports{{JobId{1}, report(0.5, {60, 70}, 4, 20)},
                        {JobId{2}, report(0.25, {62, 74}, 4, 22)},
                        {JobId{4}, report(0.375, {66, 70}, 2, 10)},
                        {JobId{5}, json::array()}};  // Not understood: as if there were none.
  const auto response = compare(study, "alone.bits=4", "assisted.bits=4", reports);
  ASSERT_EQ(response.groups_size(), 1);
  const v1::ComparedGroup& group = response.groups(0);
  std::vector<std::string> names;
  for (const v1::NumberDifference& number : group.numbers()) names.push_back(number.name());
  EXPECT_THAT(
      names, ElementsAre("test_accuracy", "nll", "parameters", "bytes_packed", "duration_seconds"));
  const v1::NumberDifference& nll = group.numbers(1);
  EXPECT_EQ(nll.a().mean(), 0.375);
  EXPECT_EQ(nll.difference().difference().count(), 1u);  // Seed 2 of assisted has no report.
  EXPECT_EQ(nll.difference().difference().mean(), -0.125);

  ASSERT_EQ(group.classes_size(), 2);
  EXPECT_EQ(group.classes(0).a(), 61);
  EXPECT_EQ(group.classes(0).b(), 66);
  EXPECT_EQ(group.classes(1).a(), 72);

  // conv1 is the same on both sides.
  ASSERT_EQ(group.layers_size(), 2);
  EXPECT_EQ(group.layers(0).layer(), "layer1");
  EXPECT_EQ(group.layers(0).part(), "weights");
  EXPECT_EQ(group.layers(0).a().bits(), 4u);
  EXPECT_EQ(group.layers(0).a().sqnr_db(), 21);
  EXPECT_EQ(group.layers(0).b().levels(), 4u);
  EXPECT_EQ(group.layers(1).part(), "activations");
  EXPECT_FALSE(group.layers(1).a().has_levels());
}

TEST(Comparison, WithoutReports_HasNoClassesAndLayers) {
  const auto response = compare(ladder(), "alone.bits=4", "assisted.bits=4");
  EXPECT_THAT(response.groups(0).classes(), IsEmpty());
  EXPECT_THAT(response.groups(0).layers(), IsEmpty());
}

}  // namespace
}  // namespace bitrung::rpc
