#include "server/rpc/best_paths.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/server/rpc/study.h"

namespace bitrung::rpc {
namespace {

using testing::ElementsAre;

// "4: 32-4 of 2/2, 81 (2) against 32-16-4 80 (2) +1"
std::vector<std::string> lines(const v1::PathTable& table) {
  std::vector<std::string> texts;
  for (const v1::BestPath& path : table.paths()) {
    const auto accuracy = [](const v1::Summary& summary) {
      return summary.has_mean() ? fmt::format("{} ({})", summary.mean(), summary.count()) : "none";
    };
    std::string text = fmt::format(
        "{}: {} of {}/{}, {}", path.bits().weights(), path.path().empty() ? "none" : path.path(),
        path.succeeded_count(), path.candidate_count(), accuracy(path.test_accuracy()));
    if (!path.chain().empty()) {
      text += fmt::format(" against {} {}", path.chain(), accuracy(path.chain_test_accuracy()));
    }
    if (path.has_regret()) text += fmt::format(" {:+}", path.regret().difference().mean());
    texts.push_back(text);
  }
  return texts;
}

// Adds a job with a validation accuracy.
void add(Study& study, const std::string& name, std::uint32_t bits, std::uint64_t seed, double test,
         double validation) {
  study.add(name, bits, seed, test).state.result->validation_accuracy = validation;
}

TEST(BestPaths, OfPaths_AreChosenByTheMeanValidationAccuracy) {
  Study study;
  for (const std::uint64_t seed : {1, 2}) {
    const auto s = static_cast<double>(seed);
    const std::string end = fmt::format(".seed={}", seed);
    add(study, "p.path=32" + end, 32, seed, 90, 90);
    add(study, "p.path=32-16" + end, 16, seed, 85 + s, 85);
    add(study, "p.path=32-4" + end, 4, seed, 80 + s, 80);
    // Better on the test set, but that does not choose.
    add(study, "p.path=32-16-4" + end, 4, seed, 82 + s, 79 + s / 2);
  }
  v1::GetResultsResponse response;
  fill_best_paths(study.rows, response);
  ASSERT_EQ(response.path_tables_size(), 1);
  EXPECT_EQ(response.path_tables(0).entry(), "p");
  EXPECT_EQ(response.path_tables(0).chosen_by(), "validation_accuracy");
  EXPECT_THAT(lines(response.path_tables(0)),
              ElementsAre("16: 32-16 of 1/1, 86.5 (2) against 32-16 86.5 (2) +0",
                          "4: 32-4 of 2/2, 81.5 (2) against 32-16-4 83.5 (2) -2"));
  EXPECT_EQ(response.path_tables(0).paths(0).regret().no_test(), "the pairs are equal");
  EXPECT_EQ(response.path_tables(0).paths(1).regret().no_test(), "all differences are equal");
}

TEST(BestPaths, WithoutHeldOutImages_TheTestSetChooses_AndItIsSaid) {
  Study study;
  study.add("p.path=32", 32, 1, 90);
  study.add("p.path=32-16", 16, 1, std::nullopt);
  study.add("p.path=32-4", 4, 1, 80);
  study.add("p.path=32-16-4", 4, 1, std::nullopt);
  v1::GetResultsResponse response;
  fill_best_paths(study.rows, response);
  EXPECT_EQ(response.path_tables(0).chosen_by(), "test_accuracy");
  EXPECT_THAT(lines(response.path_tables(0)),
              ElementsAre("16: none of 0/1, none against 32-16 none",
                          "4: 32-4 of 1/2, 80 (1) against 32-16-4 none"));
}

TEST(BestPaths, OfASearch_FollowTheBestOfEachRungForEachSeed_AgainstTheLadder) {
  Study study;
  add(study, "ladder.bits=32.seed=1", 32, 1, 90, 90);
  study.rows.back().spec.aliases = {"s.bits=32.seed=1"};
  add(study, "ladder.bits=16.seed=1", 16, 1, 85, 85);
  study.rows.back().spec.inputs = {taught_by(1)};
  add(study, "ladder.bits=4.seed=1", 4, 1, 80, 80);
  study.rows.back().spec.inputs = {taught_by(2)};
  add(study, "s.bits=32.seed=2", 32, 2, 90, 90);
  add(study, "s.bits=16.from=32.seed=1", 16, 1, 86, 86);
  add(study, "s.bits=16.from=32.seed=2", 16, 2, 87, 87);
  // Seed 1 takes the direct way to 4 (of equals the earlier), seed 2 the one over 16.
  add(study, "s.bits=4.from=32.seed=1", 4, 1, 82, 82);
  add(study, "s.bits=4.from=16.seed=1", 4, 1, 83, 82);
  add(study, "s.bits=4.from=32.seed=2", 4, 2, 84, 81);
  add(study, "s.bits=4.from=16.seed=2", 4, 2, 85, 83);
  add(study, "s.bits=1.from=4.seed=2", 1, 2, 60, 60);
  v1::GetResultsResponse response;
  fill_best_paths(study.rows, response);
  ASSERT_EQ(response.path_tables_size(), 1);
  EXPECT_THAT(lines(response.path_tables(0)),
              ElementsAre("16: 32-16 of 1/1, 86.5 (2) against ladder 85 (1) +1",
                          "4: 32-4,32-16-4 of 2/2, 83.5 (2) against ladder 80 (1) +2",
                          "1: 32-16-4-1 of 1/1, 60 (1)"));
}

TEST(BestPaths, OfOtherEntries_AreNone) {
  Study study;
  study.add("alone.bits=4", 4, 1, 80);
  v1::GetResultsResponse response;
  fill_best_paths(study.rows, response);
  fill_best_paths({}, response);
  EXPECT_EQ(response.path_tables_size(), 0);
}

}  // namespace
}  // namespace bitrung::rpc
