#include "server/rpc/statistics.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <boost/math/distributions/students_t.hpp>

namespace bitrung::rpc {
namespace {

constexpr double kConfidence = 0.95;
// Far above the rounding of a subtraction (2e-16 of its operands), far below any step of an
// accuracy.
constexpr double kRounding = 1e-12;

boost::math::students_t distribution(std::size_t count) {
  return boost::math::students_t(static_cast<double>(count - 1));
}

}  // namespace

std::optional<Summary> summarize(std::span<const double> values) {
  if (values.empty()) return std::nullopt;
  const auto count = static_cast<double>(values.size());
  Summary summary{values.size(), 0, std::nullopt, std::nullopt};
  double sum = 0;
  for (const double value : values) sum += value;
  summary.mean = sum / count;
  if (values.size() < 2) return summary;
  double squares = 0;
  for (const double value : values) squares += (value - summary.mean) * (value - summary.mean);
  summary.sd = std::sqrt(squares / (count - 1));
  const double t = boost::math::quantile(
      boost::math::complement(distribution(values.size()), (1 - kConfidence) / 2));
  const double half = t * *summary.sd / std::sqrt(count);
  summary.interval = Interval{summary.mean - half, summary.mean + half};
  return summary;
}

std::string_view reason(NoTest why) {
  switch (why) {
    case NoTest::kNone:
      return "";
    case NoTest::kFewPairs:
      return "fewer than 2 pairs";
    case NoTest::kSamePairs:
      return "the pairs are equal";
    case NoTest::kNoVariance:
      return "all differences are equal";
  }
  return "";
}

std::optional<PairedTest> compare_pairs(std::span<const std::pair<double, double>> pairs) {
  std::vector<double> differences;
  differences.reserve(pairs.size());
  double scale = 0;
  bool equal = true;
  for (const auto& [first, second] : pairs) {
    differences.push_back(second - first);
    scale = std::max({scale, std::abs(first), std::abs(second)});
    equal &= first == second;
  }
  const std::optional<Summary> summary = summarize(differences);
  if (!summary) return std::nullopt;
  PairedTest test{*summary, std::nullopt, std::nullopt, NoTest::kNone};
  if (equal) {
    test.no_test = NoTest::kSamePairs;
  } else if (!summary->sd) {
    test.no_test = NoTest::kFewPairs;
  } else if (*summary->sd <= kRounding * scale) {
    test.no_test = NoTest::kNoVariance;
  } else {
    const double error = *summary->sd / std::sqrt(static_cast<double>(summary->count));
    test.t = summary->mean / error;
    test.p_value = 2 * boost::math::cdf(boost::math::complement(distribution(summary->count),
                                                                std::abs(*test.t)));
  }
  return test;
}

}  // namespace bitrung::rpc
