// What can be said of a few repeated measurements: mean, spread, confidence, and whether two kinds
// of training differ. Pure, any thread.
//
// Everything rests on Student's t distribution: the measurements of different seeds are taken as
// independent and normal with an unknown variance.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

namespace bitrung::rpc {

struct Interval {
  double low = 0;
  double high = 0;
};

// Of at least one value.
struct Summary {
  std::size_t count = 0;
  double mean = 0;
  std::optional<double> sd;  // Of the sample, over count - 1; from two values on.
  std::optional<Interval>
      interval;  // 95 % for the mean: mean +- t(0.975, count - 1) sd / sqrt(count).
};
// Nothing for no values.
std::optional<Summary> summarize(std::span<const double> values);

// Why a paired test has no p value.
enum class NoTest {
  kNone,        // It has one.
  kFewPairs,    // Below two.
  kSamePairs,   // Every pair is of two equal numbers.
  kNoVariance,  // All differences are equal: the t statistic would be infinite.
};
// "fewer than 2 pairs", "the pairs are equal", "all differences are equal"; empty for kNone.
std::string_view reason(NoTest why);

// Two-sided paired t test of "the mean difference is zero".
struct PairedTest {
  Summary difference;       // Second minus first, per pair.
  std::optional<double> t;  // With count - 1 degrees of freedom.
  std::optional<double> p_value;
  NoTest no_test = NoTest::kNone;
};
// Nothing for no pairs. Differences whose spread is no more than rounding count as equal.
std::optional<PairedTest> compare_pairs(std::span<const std::pair<double, double>> pairs);

}  // namespace bitrung::rpc
