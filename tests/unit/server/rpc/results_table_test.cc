#include "server/rpc/results_table.h"

#include <cmath>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "db/base/status.h"
#include "tests/unit/server/rpc/study.h"

namespace bitrung::rpc {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

v1::GetResultsResponse table_of(const Study& study, const ResultsQuery& query = {},
                                const Evaluations& evaluations = {}) {
  v1::GetResultsResponse response;
  const absl::Status status = fill_results_table(study.rows, evaluations, query, response);
  EXPECT_TRUE(status.ok()) << status;
  return response;
}

// "4 5: alone 61.0 (2) | assisted 62.0 (2) +1.00": bits, options, then per cell the mean and
// number.
std::vector<std::string> lines(const v1::GetResultsResponse& response) {
  std::vector<std::string> texts;
  for (const v1::ResultsRow& row : response.rows()) {
    std::string text = row.has_bits() ? fmt::format("{}", row.bits().weights()) : "-";
    for (const v1::OptionValue& option : row.options())
      text += fmt::format(" {}", option.value().empty() ? "-" : option.value());
    text += ":";
    for (const v1::ResultsCell& cell : row.cells()) {
      text += fmt::format(" {}", cell.entry());
      if (cell.job_count() == 0) continue;
      text += cell.summary().has_mean() ? fmt::format(" {}", cell.summary().mean()) : " none";
      text += fmt::format(" ({}/{})", cell.summary().count(), cell.job_count());
      if (cell.has_against_first())
        text += fmt::format(" {:+}", cell.against_first().difference().mean());
    }
    texts.push_back(text);
  }
  return texts;
}

TEST(ResultsTable, BitsDown_EntriesAcross_SeedsFolded_DifferencesPaired) {
  Study study;
  study.add("alone.bits=32.seed=1", 32, 1, 90).spec.aliases = {"assisted.bits=32.seed=1"};
  study.add("alone.bits=32.seed=2", 32, 2, 92).spec.aliases = {"assisted.bits=32.seed=2"};
  study.add("alone.bits=4.seed=2", 4, 2, 84);
  study.add("alone.bits=4.seed=1", 4, 1, 80);
  study.add("assisted.bits=4.seed=1", 4, 1, 83, distill(5));
  study.add("assisted.bits=4.seed=2", 4, 2, std::nullopt, distill(5));
  const auto response = table_of(study);
  EXPECT_THAT(response.entries(), ElementsAre("alone", "assisted"));
  EXPECT_EQ(response.metric(), "top1");
  EXPECT_EQ(response.options_size(), 0);
  EXPECT_FALSE(response.grouped_on_request());
  EXPECT_THAT(lines(response), ElementsAre("32: alone 91 (2/2) assisted 91 (2/2) +0",
                                           "4: alone 82 (2/2) assisted 83 (1/2) +3"));

  const v1::ResultsRow& top = response.rows(0);
  EXPECT_EQ(top.model(), "resnet8");
  EXPECT_EQ(top.method(), "dorefa");
  const v1::Summary& alone = top.cells(0).summary();
  EXPECT_NEAR(alone.sd(), std::sqrt(2.0), 1e-12);
  EXPECT_NEAR(alone.high() - 91, std::tan(0.475 * M_PI), 1e-9);
  EXPECT_FALSE(top.cells(0).has_against_first());
  EXPECT_EQ(top.cells(1).against_first().no_test(), "the pairs are equal");

  const v1::ResultsCell& assisted = response.rows(1).cells(1);
  EXPECT_EQ(assisted.succeeded_count(), 1u);
  EXPECT_EQ(assisted.state(), "failed");
  EXPECT_FALSE(assisted.summary().has_sd());
  // Against seed 1 alone, not against the mean.
  EXPECT_EQ(assisted.against_first().no_test(), "fewer than 2 pairs");
  ASSERT_EQ(assisted.against_first().pairs_size(), 1);
  EXPECT_EQ(assisted.against_first().pairs(0).seed(), 1u);
  // Raw values by seed; one without a value says where it stands.
  ASSERT_EQ(assisted.values_size(), 2);
  EXPECT_EQ(assisted.values(0).value(), 83);
  EXPECT_FALSE(assisted.values(1).has_value());
  EXPECT_EQ(assisted.values(1).state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(response.rows(1).cells(0).values(0).seed(), 1u);
  EXPECT_EQ(response.rows(1).cells(0).values(0).job(), "alone.bits=4.seed=1");
}

TEST(ResultsTable, PairedTest_IsTakenOverSeeds) {
  Study study;
  // Differences 1 and 3: t = 2 with one degree of freedom.
  study.add("alone.seed=1", 4, 1, 60);
  study.add("alone.seed=2", 4, 2, 65);
  study.add("assisted.seed=1", 4, 1, 61);
  study.add("assisted.seed=2", 4, 2, 68);
  study.add("assisted.seed=3", 4, 3, 99);  // Nothing to pair it with.
  const auto response = table_of(study);
  const v1::PairedTest& test = response.rows(0).cells(1).against_first();
  EXPECT_EQ(test.difference().count(), 2u);
  EXPECT_NEAR(test.difference().sd(), std::sqrt(2.0), 1e-12);
  EXPECT_NEAR(test.t(), 2, 1e-12);
  EXPECT_NEAR(test.p_value(), 1 - 2 * std::atan(2.0) / M_PI, 1e-12);
  EXPECT_EQ(test.no_test(), "");
}

TEST(ResultsTable, EntryWithoutThisBitwidth_HasAnEmptyCell) {
  Study study;
  study.add("a.bits=4", 4, 1, 80);
  study.add("b", 2, 1, 70);
  EXPECT_THAT(lines(table_of(study)), ElementsAre("4: a 80 (1/1) b", "2: a b 70 (1/1)"));
}

TEST(ResultsTable, AnOptionThatDiffers_SplitsTheLine_AndAloneStandsInEach) {
  // A sweep over the temperature must not be averaged with the seeds.
  Study study;
  for (const std::uint64_t seed : {1, 2}) {
    const auto s = static_cast<double>(seed);
    study.add(fmt::format("alone.bits=4.seed={}", seed), 4, seed, 60 + s);
    study.add(fmt::format("assisted.bits=4.temperature=10.seed={}", seed), 4, seed, 63 + s,
              distill(10));
    study.add(fmt::format("assisted.bits=4.temperature=5.seed={}", seed), 4, seed, 62 + s,
              distill(5));
    study.add(fmt::format("alone.bits=2.seed={}", seed), 2, seed, 50 + s);
  }
  const auto response = table_of(study);
  EXPECT_THAT(response.options(), ElementsAre("distill.temperature"));
  EXPECT_THAT(lines(response), ElementsAre("4 5: alone 61.5 (2/2) assisted 63.5 (2/2) +2",
                                           "4 10: alone 61.5 (2/2) assisted 64.5 (2/2) +3",
                                           "2 -: alone 51.5 (2/2) assisted"));
}

TEST(ResultsTable, AnOptionOfTheFirstEntry_MustAgreeWithinAPair) {
  // What alone was trained with at rate 0.01 says nothing about assistance at rate 0.1.
  Study study;
  const auto rate = [](double value) { return fmt::format(R"(,"rate":{})", value); };
  study.add("alone.bits=4", 4, 1, 60, rate(0.1));
  study.add("assisted.rate=0.1", 4, 1, 61, rate(0.1));
  study.add("assisted.rate=0.01", 4, 1, 65, rate(0.01));
  EXPECT_THAT(lines(table_of(study)), ElementsAre("4 0.01: alone assisted 65 (1/1)",
                                                  "4 0.1: alone 60 (1/1) assisted 61 (1/1) +1"));
}

TEST(ResultsTable, Paths_AreLinesOfTheirOwn) {
  Study study;
  study.add("paths.path=32", 32, 1, 90);
  study.add("paths.path=32-16", 16, 1, 85).spec.inputs = {taught_by(1)};
  study.add("paths.path=32-4", 4, 1, 80, distill(1)).spec.inputs = {taught_by(1)};
  study.add("paths.path=32-16-4", 4, 1, 81, distill(1)).spec.inputs = {taught_by(2)};
  study.add("alone.bits=4", 4, 1, 79);
  const auto response = table_of(study);
  EXPECT_THAT(response.options(), ElementsAre("path"));
  EXPECT_THAT(lines(response),
              ElementsAre("32 32: paths 90 (1/1) alone", "16 32-16: paths 85 (1/1) alone",
                          "4 32-16-4: paths 81 (1/1) alone 79 (1/1)",
                          "4 32-4: paths 80 (1/1) alone 79 (1/1)"));
}

TEST(ResultsTable, GroupBy_JoinsWhatIsNotNamed_AndSaysSo) {
  Study study;
  study.add("alone.bits=4", 4, 1, 80);
  study.add("alone.bits=2", 2, 1, 70);
  study.add("assisted.bits=4", 4, 1, 82, distill(5));
  study.add("assisted.bits=2", 2, 1, 76, distill(5));
  const auto response = table_of(study, {.group_by = {"distill.temperature"}, .metric = {}});
  EXPECT_TRUE(response.grouped_on_request());
  EXPECT_THAT(response.options(), ElementsAre("distill.temperature"));
  EXPECT_THAT(response.joined_options(), ElementsAre("bits"));
  // Pairs are still those of equal bits: 2 and 6.
  EXPECT_THAT(lines(response),
              ElementsAre("- -: alone 75 (2/2) assisted", "- 5: alone assisted 79 (2/2) +4"));
  EXPECT_EQ(response.rows(0).model(), "");

  const auto by_bits =
      table_of(study, {.group_by = {"bits", "seed", "bits"}, .metric = Metric::kTop1});
  EXPECT_THAT(by_bits.options(), ElementsAre("bits", "seed"));
  EXPECT_EQ(by_bits.joined_options_size(), 0);
  EXPECT_THAT(lines(by_bits), ElementsAre("4 4 1: alone 80 (1/1) assisted 82 (1/1) +2",
                                          "2 2 1: alone 70 (1/1) assisted 76 (1/1) +6"));
}

TEST(ResultsTable, GroupByAnUnknownOption_IsRefused) {
  Study study;
  study.add("alone.bits=4", 4, 1, 80, distill(5));
  v1::GetResultsResponse response;
  const absl::Status status =
      fill_results_table(study.rows, {}, {.group_by = {"temperature"}, .metric = {}}, response);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(message(status)), HasSubstr("did you mean distill.temperature?"));
  // An experiment without jobs has no options at all.
  EXPECT_TRUE(fill_results_table({}, {}, {.group_by = {"x"}, .metric = {}}, response).ok());
}

TEST(ResultsTable, OtherMetrics_ComeFromReports) {
  Study study;
  study.add("alone.seed=1", 4, 1, 80).state.result->validation_accuracy = 78;
  study.add("alone.seed=2", 4, 2, 82);
  db::EvaluationRow evaluation;
  evaluation.job = JobId{1};
  evaluation.top5 = 99;
  evaluation.nll = 0.5;
  evaluation.brier = 0.25;
  evaluation.ece = 0.125;
  const Evaluations evaluations{{JobId{1}, evaluation}};
  const auto mean = [&](std::string_view metric) {
    const auto response =
        table_of(study, {.group_by = {}, .metric = parse_metric(metric).value()}, evaluations);
    EXPECT_EQ(response.metric(), metric);
    EXPECT_EQ(response.rows(0).cells(0).summary().count(), metric == "top1" ? 2u : 1u);
    return response.rows(0).cells(0).summary().mean();
  };
  EXPECT_EQ(mean("top1"), 81);
  EXPECT_EQ(mean("top5"), 99);
  EXPECT_EQ(mean("nll"), 0.5);
  EXPECT_EQ(mean("brier"), 0.25);
  EXPECT_EQ(mean("ece"), 0.125);
  EXPECT_EQ(mean("validation"), 78);
  EXPECT_EQ(parse_metric("").value(), Metric::kTop1);
  const absl::Status status = parse_metric("accuracy").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(message(status)),
              HasSubstr("there are top1, top5, nll, brier, ece, validation"));
}

TEST(ResultsTable, ManyJobs_TakeLinearTime) {
  // Entries of one line each would be compared with each other if lines were not found by key.
  Study study;
  for (std::uint64_t seed = 0; seed < 2'000; ++seed) {
    for (const int temperature : {0, 1, 2, 3, 4}) {
      const auto value = static_cast<double>(seed % 7 + seed % 3);
      study.add(fmt::format("a.t={}.seed={}", temperature, seed), 4, seed, value,
                distill(temperature));
      study.add(fmt::format("b.t={}.seed={}", temperature, seed), 4, seed, value + 1,
                distill(temperature));
    }
  }
  const auto response = table_of(study);
  ASSERT_EQ(response.rows_size(), 5);
  EXPECT_EQ(response.rows(4).cells(1).against_first().difference().count(), 2'000u);
  EXPECT_EQ(response.rows(4).cells(1).against_first().difference().mean(), 1);
}

}  // namespace
}  // namespace bitrung::rpc
