#include "server/core/identity.h"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <string>

#include "server/core/costs.h"
#include "tests/unit/server/core/world.h"

namespace bitrung::core {
namespace {

TEST(Identity, Text_IsTheDocumentedOne) {
  const Digest spec = sha256("spec");
  const Digest data = sha256("data");
  const Digest teacher = sha256("teacher");
  const Digest init = sha256("init");
  const std::array inputs = {IdentityInput{InputRole::kTeacher, teacher},
                             IdentityInput{InputRole::kInit, init}};
  std::string text = "bitrung identity 1\n";
  text += std::string(spec.raw()) + std::string(data.raw());
  text += '\0' + std::string(teacher.raw());
  text += '\1' + std::string(init.raw());
  EXPECT_EQ(identity_of(spec, data, inputs), sha256(text));
}

TEST(Identity, SeveralTeachers_CountInTheirOrder) {
  const Digest a = sha256("a");
  const Digest b = sha256("b");
  const std::array one = {IdentityInput{InputRole::kTeacher, a},
                          IdentityInput{InputRole::kTeacher, b}};
  const std::array other = {IdentityInput{InputRole::kTeacher, b},
                            IdentityInput{InputRole::kTeacher, a}};
  EXPECT_NE(identity_of(a, a, one), identity_of(a, a, other));

  World world(
      "a\nb\nx spec=s <- init b, a, b\ny spec=s <- b, a, init b\nz spec=s <- a, b, init b\n");
  world.join("w1");
  EXPECT_NE(world.row("x").identity, world.row("y").identity);
  EXPECT_EQ(world.row("x").identity, world.row("z").identity);
  const Digest data = copy_digest("copy A");
  const std::array inputs = {IdentityInput{InputRole::kTeacher, identity_of(a, data, {})},
                             IdentityInput{InputRole::kTeacher, identity_of(b, data, {})},
                             IdentityInput{InputRole::kInit, identity_of(b, data, {})}};
  EXPECT_EQ(world.row("x").identity, identity_of(sha256("s"), data, inputs));
}

TEST(Identity, EveryIngredient_ChangesIt) {
  const Digest a = sha256("a");
  const Digest b = sha256("b");
  const std::array teacher = {IdentityInput{InputRole::kTeacher, a}};
  const std::array init = {IdentityInput{InputRole::kInit, a}};
  const std::array other = {IdentityInput{InputRole::kTeacher, b}};
  const std::set<Digest> all = {identity_of(a, a, {}),   identity_of(b, a, {}),
                                identity_of(a, b, {}),   identity_of(a, a, teacher),
                                identity_of(a, a, init), identity_of(a, a, other)};
  EXPECT_EQ(all.size(), 6u);
}

TEST(Identity, OfAJob_IsComputedFromItsParentsAndItsPin) {
  World world("teacher\nstudent artifact=outside <- init teacher\n");
  EXPECT_FALSE(world.row("teacher").identity.has_value());
  world.join("w1");
  const Digest data = copy_digest("copy A");
  const Digest teacher = identity_of(sha256("teacher"), data, {});
  const std::array inputs = {IdentityInput{InputRole::kTeacher, sha256("outside")},
                             IdentityInput{InputRole::kInit, teacher}};
  EXPECT_EQ(world.row("teacher").identity, teacher);
  EXPECT_EQ(world.row("student").identity, identity_of(sha256("student"), data, inputs));
}

TEST(Costs, UnmeasuredClass_TakesTheMeanOfAllAndBeforeThatAConstant) {
  CostModel costs;
  EXPECT_GT(costs.seconds_per_flop(3), 0);
  EXPECT_TRUE(costs.measure(0, 2.0, 1e12));
  EXPECT_TRUE(costs.measure(1, 4.0, 1e12));
  EXPECT_FALSE(costs.measure(1, 4.0, 1e12));
  EXPECT_DOUBLE_EQ(costs.seconds_per_flop(0), 2e-12);
  EXPECT_DOUBLE_EQ(costs.seconds_per_flop(1), 4e-12);
  EXPECT_NEAR(costs.seconds_per_flop(7), 10e-12 / 3, 1e-17);
}

TEST(Costs, MeasurementsInAnyOrder_GiveTheSameMeans) {
  CostModel forward;
  CostModel backward;
  for (int i = 1; i <= 1000; ++i) {
    forward.measure(0, 0.1 * i, 1e12);
    backward.measure(0, 0.1 * (1001 - i), 1e12);
  }
  EXPECT_EQ(forward.seconds_per_flop(0), backward.seconds_per_flop(0));
}

TEST(Costs, ValuesThatSayNothing_AreIgnored) {
  CostModel costs;
  EXPECT_FALSE(costs.measure(0, 0, 1e12));
  EXPECT_FALSE(costs.measure(0, -1, 1e12));
  EXPECT_FALSE(costs.measure(0, 1, 0));
  EXPECT_FALSE(costs.measure(0, std::numeric_limits<double>::quiet_NaN(), 1e12));
  EXPECT_FALSE(costs.measure(0, std::numeric_limits<double>::infinity(), 1e12));
  EXPECT_FALSE(costs.has_measurements());
}

}  // namespace
}  // namespace bitrung::core
