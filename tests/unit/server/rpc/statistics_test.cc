#include "server/rpc/statistics.h"

#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace bitrung::rpc {
namespace {

using Pairs = std::vector<std::pair<double, double>>;

TEST(Summarize, NothingOneAndMany) {
  EXPECT_FALSE(summarize({}).has_value());
  const std::array one{61.5};
  const Summary single = summarize(one).value();
  EXPECT_EQ(single.count, 1u);
  EXPECT_EQ(single.mean, 61.5);
  EXPECT_FALSE(single.sd.has_value());
  EXPECT_FALSE(single.interval.has_value());

  // Two values: sd = |a - b| / sqrt 2, and t(0.975, 1) = tan(0.475 pi) = 12.7062...
  const std::array two{60.0, 62.0};
  const Summary pair = summarize(two).value();
  EXPECT_EQ(pair.mean, 61);
  EXPECT_NEAR(*pair.sd, std::sqrt(2.0), 1e-14);
  EXPECT_NEAR(pair.interval->high - 61, std::tan(0.475 * M_PI), 1e-10);
  EXPECT_NEAR(61 - pair.interval->low, std::tan(0.475 * M_PI), 1e-10);

  // Three values: t(0.975, 2) = sqrt(2 0.95^2 / (1 - 0.95^2)), the closed form for 2 degrees.
  const std::array three{1.0, 2.0, 3.0};
  const Summary triple = summarize(three).value();
  EXPECT_NEAR(*triple.sd, 1, 1e-14);
  const double t2 = std::sqrt(2 * 0.9025 / (1 - 0.9025));
  EXPECT_NEAR(triple.interval->high, 2 + t2 / std::sqrt(3.0), 1e-12);
}

TEST(Summarize, FarFromZero_KeepsItsDigits) {
  const std::array values{1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16};
  EXPECT_NEAR(*summarize(values)->sd, std::sqrt(30.0), 1e-9);
}

// Student's sleep data (1908, The probable error of a mean), extra hours with two drugs; the
// statistics are those that textbooks print for it.
const Pairs kSleep{{0.7, 1.9}, {-1.6, 0.8}, {-0.2, 1.1}, {-1.2, 0.1}, {-0.1, -0.1},
                   {3.4, 4.4}, {3.7, 5.5},  {0.8, 1.6},  {0.0, 4.6},  {2.0, 3.4}};

TEST(ComparePairs, StudentsSleepData) {
  const PairedTest test = compare_pairs(kSleep).value();
  EXPECT_EQ(test.difference.count, 10u);
  EXPECT_NEAR(test.difference.mean, 1.58, 1e-12);
  EXPECT_NEAR(*test.difference.sd, 1.229995, 1e-6);
  EXPECT_NEAR(test.difference.interval->low, 0.7001142, 1e-6);
  EXPECT_NEAR(test.difference.interval->high, 2.4598858, 1e-6);
  EXPECT_NEAR(*test.t, 4.062128, 1e-6);
  EXPECT_NEAR(*test.p_value, 0.00283289, 1e-7);
  EXPECT_EQ(test.no_test, NoTest::kNone);
  EXPECT_EQ(reason(test.no_test), "");
}

TEST(ComparePairs, Exchanged_TurnsTheSignOnly) {
  Pairs exchanged;
  for (const auto& [first, second] : kSleep) exchanged.emplace_back(second, first);
  const PairedTest test = compare_pairs(kSleep).value();
  const PairedTest back = compare_pairs(exchanged).value();
  EXPECT_DOUBLE_EQ(back.difference.mean, -test.difference.mean);
  EXPECT_DOUBLE_EQ(*back.t, -*test.t);
  EXPECT_DOUBLE_EQ(*back.p_value, *test.p_value);
}

TEST(ComparePairs, TwoPairs_HaveTheCauchyDistribution) {
  // One degree of freedom: p = 1 - 2 atan(|t|) / pi. Differences 1 and 3: mean 2, error 1, t = 2.
  const PairedTest test = compare_pairs(Pairs{{60, 61}, {60, 63}}).value();
  EXPECT_NEAR(*test.t, 2, 1e-12);
  EXPECT_NEAR(*test.p_value, 1 - 2 * std::atan(2.0) / M_PI, 1e-12);
}

TEST(ComparePairs, NoDifferenceInTheMean_IsNoEvidence) {
  const PairedTest test = compare_pairs(Pairs{{60, 61}, {60, 59}}).value();
  EXPECT_EQ(*test.t, 0);
  EXPECT_NEAR(*test.p_value, 1, 1e-12);
}

TEST(ComparePairs, WithoutATest_SaysWhy) {
  EXPECT_FALSE(compare_pairs({}).has_value());
  const auto expect_no_p = [](const Pairs& pairs, NoTest why, std::string_view text) {
    const PairedTest test = compare_pairs(pairs).value();
    EXPECT_FALSE(test.t.has_value());
    EXPECT_FALSE(test.p_value.has_value());
    EXPECT_EQ(test.no_test, why);
    EXPECT_EQ(reason(why), text);
  };
  expect_no_p({{60, 61}}, NoTest::kFewPairs, "fewer than 2 pairs");
  expect_no_p({{60, 60}}, NoTest::kSamePairs, "the pairs are equal");
  expect_no_p({{60, 60}, {61, 61}}, NoTest::kSamePairs, "the pairs are equal");
  // Both differ by 0.3, though not to the last bit.
  ASSERT_NE(61.2 - 60.9, 70.3 - 70.0);
  expect_no_p({{60.9, 61.2}, {70.0, 70.3}}, NoTest::kNoVariance, "all differences are equal");
}

}  // namespace
}  // namespace bitrung::rpc
