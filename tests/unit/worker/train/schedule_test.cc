#include "worker/train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace bitrung::train {
namespace {

Schedule step_schedule() {
  return {ScheduleKind::kStep, {0.5, 0.75}, 0.1, 0};
}

TEST(Schedule, Constant_StaysAtTheBase) {
  EXPECT_EQ(learning_rate_at({ScheduleKind::kConstant, {}, 0.1, 0}, 0.1, 0, 7), 0.1);
  EXPECT_EQ(learning_rate_at({ScheduleKind::kConstant, {}, 0.1, 0}, 0.1, 6, 7), 0.1);
}

TEST(Schedule, Step_FallsAtHalfAndThreeQuarters) {
  EXPECT_DOUBLE_EQ(learning_rate_at(step_schedule(), 0.1, 79, 160), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate_at(step_schedule(), 0.1, 80, 160), 0.01);
  EXPECT_DOUBLE_EQ(learning_rate_at(step_schedule(), 0.1, 119, 160), 0.01);
  EXPECT_DOUBLE_EQ(learning_rate_at(step_schedule(), 0.1, 120, 160), 0.001);
}

TEST(Schedule, Step_OfAnOddNumberOfEpochs_RoundsDown) {
  // floor(0.5 * 5) = 2, floor(0.75 * 5) = 3.
  EXPECT_DOUBLE_EQ(learning_rate_at(step_schedule(), 1.0, 1, 5), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(step_schedule(), 1.0, 2, 5), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate_at(step_schedule(), 1.0, 3, 5), 0.01);
}

TEST(Schedule, Step_AtAFractionWithoutExactDouble_FallsWhereWritten) {
  const Schedule schedule{ScheduleKind::kStep, {0.29}, 0.1, 0};  // 0.29 * 100 = 28.999999999999996
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 1.0, 28, 100), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 1.0, 29, 100), 0.1);
}

TEST(Schedule, Cosine_IsHalfACosine) {
  const Schedule schedule{ScheduleKind::kCosine, {}, 0.1, 0};
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 0.1, 0, 5), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 0.1, 1, 5),
                   0.05 * (1 + std::cos(std::numbers::pi / 5)));
  EXPECT_NEAR(learning_rate_at(schedule, 0.1, 4, 5), 0.009549150281252633, 1e-15);
}

TEST(Schedule, Warmup_RisesLinearlyToTheFullRate) {
  const Schedule schedule{ScheduleKind::kConstant, {}, 0.1, 3};
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 0.4, 0, 10), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 0.4, 2, 10), 0.3);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 0.4, 3, 10), 0.4);
}

}  // namespace
}  // namespace bitrung::train
