#include "server/core/costs.h"

#include <algorithm>
#include <cmath>

namespace bitrung::core {
namespace {

constexpr double kAttosecond = 1e-18;
// A microsecond per operation; a million such measurements still fit 64 bits. No device is slower.
constexpr double kAttosecondsPerFlopMax = 1e12;
// A teraflop per second: the scale is arbitrary while nothing is measured, only ratios of
// operations count.
constexpr double kSecondsPerFlopUnmeasured = 1e-12;

}  // namespace

bool CostModel::measure(std::uint32_t cost_class, double seconds, double flops) {
  const double ratio = seconds / flops / kAttosecond;
  if (!std::isfinite(seconds) || seconds <= 0 || !(flops > 0) || !std::isfinite(ratio)) {
    return false;
  }
  const auto attoseconds =
      static_cast<std::int64_t>(std::llround(std::clamp(ratio, 1.0, kAttosecondsPerFlopMax)));
  if (cost_class >= classes_.size()) {
    classes_.resize(cost_class + 1);
  }
  Mean& mean = classes_[cost_class];
  for (Mean* each : {&mean, &all_}) {
    each->attoseconds_per_flop_sum += attoseconds;
    ++each->count;
  }
  return mean.count == 1;
}

bool CostModel::is_measured(std::uint32_t cost_class) const {
  return cost_class < classes_.size() && classes_[cost_class].count > 0;
}

double CostModel::seconds_per_flop(std::uint32_t cost_class) const {
  const Mean* mean = is_measured(cost_class) ? &classes_[cost_class] : &all_;
  if (mean->count == 0) {
    return kSecondsPerFlopUnmeasured;
  }
  return static_cast<double>(mean->attoseconds_per_flop_sum) / static_cast<double>(mean->count) *
         kAttosecond;
}

}  // namespace bitrung::core
