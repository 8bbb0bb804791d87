#include "db/points_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace bitrung::db {
namespace {

TEST(PointsText, Numbers_ComeBackExactly) {
  const std::vector<std::pair<std::int64_t, double>> points = {
      {0, 0.1},
      {1, -0.0},
      {std::numeric_limits<std::int64_t>::max(), std::numeric_limits<double>::max()},
      {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<double>::lowest()},
      {2, std::numeric_limits<double>::denorm_min()},
      {3, 1.0 / 3.0},
      {4, 2.302585092994046},
      {5, 100},
  };
  std::string text;
  for (const auto& [step, value] : points) append_point(text, step, value);
  EXPECT_TRUE(text.starts_with("[0,0.1],[1,-0],[9223372036854775807,1.7976931348623157e+308],"))
      << text;
  std::vector<std::pair<std::int64_t, double>> read;
  EXPECT_TRUE(parse_points(text, read));
  EXPECT_EQ(read, points);
}

TEST(PointsText, Nothing_IsAnEmptyList) {
  std::vector<std::pair<std::int64_t, double>> read;
  EXPECT_TRUE(parse_points("", read));
  EXPECT_TRUE(read.empty());
}

TEST(PointsText, Damage_IsNoticed) {
  for (const char* text : {"[", "[1", "[1,", "[1,2", "[1,2],", "[1,2][3,4]", "1,2", "[1,2],[x,4]",
                           "[1,nan]x", "[1.5,2]", "[1,2] ", "[1,1e999]"}) {
    std::vector<std::pair<std::int64_t, double>> read;
    EXPECT_FALSE(parse_points(text, read)) << text;
  }
}

}  // namespace
}  // namespace bitrung::db
