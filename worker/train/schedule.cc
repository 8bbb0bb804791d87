#include "worker/train/schedule.h"

#include <cmath>
#include <numbers>

#include "db/base/check.h"

namespace bitrung::train {

namespace {

double unscaled_rate(const Schedule& schedule, double base, std::int64_t epoch,
                     std::int64_t epochs) {
  switch (schedule.kind) {
    case ScheduleKind::kConstant:
      return base;
    case ScheduleKind::kStep: {
      double rate = base;
      for (const double fraction : schedule.at) {
        // The small addend keeps 0.29 * 100 = 28.999999999999996 from ending at 28.
        const double boundary = std::floor(fraction * static_cast<double>(epochs) + 1e-9);
        if (static_cast<double>(epoch) >= boundary) {
          rate *= schedule.factor;
        }
      }
      return rate;
    }
    case ScheduleKind::kCosine:
      return 0.5 * base *
             (1.0 + std::cos(std::numbers::pi * static_cast<double>(epoch) /
                             static_cast<double>(epochs)));
  }
  BITRUNG_CHECK(!"a schedule without a rule");
}

}  // namespace

double learning_rate_at(const Schedule& schedule, double base, std::int64_t epoch,
                        std::int64_t epochs) {
  BITRUNG_CHECK(epoch >= 0 && epoch < epochs);
  double rate = unscaled_rate(schedule, base, epoch, epochs);
  if (epoch < schedule.warmup_epochs) {
    rate *= static_cast<double>(epoch + 1) / static_cast<double>(schedule.warmup_epochs + 1);
  }
  return rate;
}

}  // namespace bitrung::train
