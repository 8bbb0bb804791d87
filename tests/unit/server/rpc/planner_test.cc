#include "server/rpc/planner.h"

#include <gtest/gtest.h>

namespace bitrung::rpc {
namespace {

TEST(FirstDifference, NamesTheOptionAndBothValues) {
  std::size_t count = 0;
  EXPECT_EQ(first_difference(R"({"epochs":3,"optimizer":{"learning_rate":0.1},"seed":1})",
                             R"({"epochs":5,"optimizer":{"learning_rate":0.2},"seed":1})", &count),
            "epochs is 3 there, 5 here");
  EXPECT_EQ(count, 2u);
  EXPECT_EQ(first_difference(R"({"a":{"b":1}})", R"({"a":{}})"), "a is absent there, null here");
  EXPECT_EQ(first_difference(R"({"a":1})", R"({"a":1})", &count), "");
  EXPECT_EQ(count, 0u);
}

}  // namespace
}  // namespace bitrung::rpc
