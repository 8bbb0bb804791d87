#include "server/rpc/results_table.h"

#include <cmath>
#include <optional>

#include <gtest/gtest.h>

namespace bitrung::rpc {
namespace {

db::JobRow job(const std::string& name, std::uint32_t bits, std::optional<double> accuracy,
               std::vector<std::string> aliases = {}) {
  db::JobRow row;
  row.spec.name = name;
  row.spec.aliases = std::move(aliases);
  row.spec.model = "resnet8";
  row.spec.dataset = "synthetic";
  row.spec.method = "dorefa";
  row.spec.weight_bits = bits;
  row.spec.activation_bits = bits;
  row.state.state = accuracy ? JobState::kSucceeded : JobState::kFailed;
  if (accuracy) {
    row.state.result.emplace();
    row.state.result->test_accuracy = accuracy;
  }
  return row;
}

TEST(ResultsTable, BitsDown_EntriesAcross_SeedsFolded_DifferencesPaired) {
  // alone        32: 90, 92      4: 80, 84
  // assisted     32: the same    4: 83, (the second seed failed)
  v1::GetResultsResponse response;
  fill_results_table(
      {job("alone.bits=32.seed=1", 32, 90, {"assisted.bits=32.seed=1"}),
       job("alone.bits=32.seed=2", 32, 92, {"assisted.bits=32.seed=2"}),
       job("alone.bits=4.seed=1", 4, 80), job("alone.bits=4.seed=2", 4, 84),
       job("assisted.bits=4.seed=1", 4, 83), job("assisted.bits=4.seed=2", 4, std::nullopt)},
      response);
  ASSERT_EQ(response.entries_size(), 2);
  EXPECT_EQ(response.entries(0), "alone");
  ASSERT_EQ(response.rows_size(), 2);
  EXPECT_EQ(response.rows(0).bits().weights(), 32u);
  const auto& alone32 = response.rows(0).cells(0);
  EXPECT_EQ(alone32.job_count(), 2u);
  EXPECT_DOUBLE_EQ(alone32.test_accuracy_mean(), 91);
  EXPECT_NEAR(alone32.test_accuracy_sd(), std::sqrt(2.0), 1e-12);
  EXPECT_FALSE(alone32.has_difference());
  EXPECT_DOUBLE_EQ(response.rows(0).cells(1).difference(), 0);
  const auto& assisted4 = response.rows(1).cells(1);
  EXPECT_EQ(assisted4.job_count(), 2u);
  EXPECT_EQ(assisted4.succeeded_count(), 1u);
  EXPECT_EQ(assisted4.state(), "failed");
  EXPECT_DOUBLE_EQ(assisted4.test_accuracy_mean(), 83);
  EXPECT_FALSE(assisted4.has_test_accuracy_sd());
  EXPECT_DOUBLE_EQ(assisted4.difference(), 3);  // Against seed 1 alone, not against the mean.
}

TEST(ResultsTable, EntryWithoutThisBitwidth_HasAnEmptyCell) {
  v1::GetResultsResponse response;
  fill_results_table({job("a.bits=4", 4, 80), job("b", 2, 70)}, response);
  ASSERT_EQ(response.rows_size(), 2);
  EXPECT_EQ(response.rows(0).cells(1).job_count(), 0u);
  EXPECT_EQ(response.rows(1).cells(0).job_count(), 0u);
  EXPECT_FALSE(response.rows(1).cells(1).has_difference());
}

}  // namespace
}  // namespace bitrung::rpc
