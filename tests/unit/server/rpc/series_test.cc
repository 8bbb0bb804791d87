#include "server/rpc/series.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bitrung::rpc {
namespace {

using testing::ElementsAre;
using testing::Pair;

db::SeriesRow series_of(std::uint32_t attempt,
                        std::vector<std::pair<std::int64_t, double>> points) {
  db::SeriesRow row;
  row.attempt = attempt;
  row.name = "train_loss";
  row.first_step = points.front().first;
  row.last_step = points.back().first;
  row.points = std::move(points);
  return row;
}

TEST(JoinAttempts, LaterAttempt_ReplacesWhatItTrainedAgain) {
  // Attempt 1 died after step 4; attempt 2 resumed after step 2.
  const auto joined = join_attempts(
      {series_of(1, {{1, 9}, {2, 8}, {3, 7}, {4, 6}}), series_of(2, {{3, 7.5}, {4, 6.5}, {5, 5}})});
  ASSERT_EQ(joined.size(), 1u);
  EXPECT_THAT(joined[0].points,
              ElementsAre(Pair(1, 9), Pair(2, 8), Pair(3, 7.5), Pair(4, 6.5), Pair(5, 5)));
}

TEST(FillBuckets, FewPoints_AreTheirOwnBuckets_ManyKeepTheirExtremes) {
  db::SeriesRow row = series_of(1, {{1, 5}, {2, 1}, {3, 9}, {4, 4}, {5, 2}});
  v1::Series all;
  fill_buckets(row, 10, all);
  EXPECT_EQ(all.buckets_size(), 5);
  v1::Series two;
  fill_buckets(row, 2, two);
  ASSERT_EQ(two.buckets_size(), 2);
  EXPECT_EQ(two.buckets(0).count() + two.buckets(1).count(), 5u);
  EXPECT_EQ(std::min(two.buckets(0).min(), two.buckets(1).min()), 1);
  EXPECT_EQ(std::max(two.buckets(0).max(), two.buckets(1).max()), 9);
  EXPECT_EQ(two.buckets(1).step(), 5);
  EXPECT_EQ(two.buckets(1).last(), 2);
}

}  // namespace
}  // namespace bitrung::rpc
