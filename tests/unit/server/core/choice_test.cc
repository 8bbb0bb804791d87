// Teachers that are chosen: the best of several jobs, once all of them have ended.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "server/core/identity.h"
#include "tests/unit/server/core/world.h"

namespace bitrung::core {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

const Machine kWide = {.slots = {16, 16, 16, 16, 16}};

// a, b and c run side by side; the best one teaches s, and s teaches t.
constexpr std::string_view kThree = "a\nb\nc\ns <- best a b c\nt <- s\n";

std::vector<std::uint32_t> chosen(const World& world, std::string_view job) {
  return world.row(job).chosen;
}

TEST(Choice, WaitsForAllCandidates_AndTakesTheBest) {
  World world(kThree);
  world.join("w1", kWide).forget_messages();
  EXPECT_EQ(world.explain("s"), "waits for 3 of 3 candidates, a (offered)");

  world.succeed_with("w1", "b#1", 70).forget_messages();
  EXPECT_EQ(world.explain("s"), "waits for 2 of 3 candidates, a (offered)");
  world.succeed_with("w1", "a#1", 60).forget_messages();
  EXPECT_EQ(world.explain("s"), "waits for 1 of 3 candidates, c (offered)");
  EXPECT_THAT(chosen(world, "s"), IsEmpty());
  EXPECT_FALSE(world.row("s").identity.has_value());

  world.succeed_with("w1", "c#1", 65);
  world.expect("w1: recorded c#1");
  world.expect("w1: offer s#1");
  world.expect_nothing_else();
  EXPECT_THAT(chosen(world, "s"), ElementsAre(1));
  EXPECT_THAT(world.last_offer()->inputs,
              ElementsAre(std::pair(InputRole::kTeacher, artifact_of(world.job("b"), 1))));
}

// All orders in which three candidates can end, each with success or failure.
TEST(Choice, EveryOrderOfEnding_GivesTheSameTeacher) {
  const std::array<std::string, 3> names = {"a", "b", "c"};
  const std::array<double, 3> accuracies = {70, 80, 80};  // Of equals the earlier.
  for (unsigned failing = 0; failing < 8; ++failing) {
    std::array<std::size_t, 3> order = {0, 1, 2};
    do {
      World world(kThree);
      world.join("w1", kWide);
      for (const std::size_t i : order) {
        world.expect_states("s blocked, t blocked");
        if ((failing >> i & 1U) != 0) {
          world.fail("w1", names[i] + "#1", FailureClass::kDiverged);
        } else {
          world.succeed_with("w1", names[i] + "#1", accuracies[i]);
        }
      }
      if (failing == 7) {
        world.expect_states("s skipped, t skipped");
        EXPECT_THAT(chosen(world, "s"), IsEmpty());
        EXPECT_EQ(world.explain("t"), "skipped because of a");
        continue;
      }
      world.expect_states("s offered, t blocked");
      const bool has_b = (failing >> 1 & 1U) == 0;
      const bool has_c = (failing >> 2 & 1U) == 0;
      EXPECT_THAT(chosen(world, "s"), ElementsAre(has_b ? 1 : has_c ? 2 : 0)) << failing;
    } while (std::ranges::next_permutation(order).found);
  }
}

TEST(Choice, WithoutValidation_TakesTheFirst) {
  World world(kThree);
  world.join("w1", kWide);
  world.succeed_with("w1", "c#1", std::nullopt);
  world.succeed_with("w1", "b#1", std::nullopt);
  world.succeed_with("w1", "a#1", std::nullopt);
  EXPECT_THAT(chosen(world, "s"), ElementsAre(0));

  World one(kThree);
  one.join("w1", kWide);
  one.succeed_with("w1", "a#1", std::nullopt).succeed_with("w1", "b#1", std::nullopt);
  one.succeed_with("w1", "c#1", 0);
  EXPECT_THAT(chosen(one, "s"), ElementsAre(2));
}

TEST(Choice, Identity_IsThatOfTheJobWithTheChosenTeacher) {
  World world("a\nb\ns spec=x <- best a b\n");
  world.submit("b\nu spec=x <- b\n");
  world.join("w1", kWide);
  world.succeed_with("w1", "a#1", 10).succeed_with("w1", "b#1", 20);
  EXPECT_EQ(world.row("s").identity, world.row("2/u").identity);
  // One of the two equal jobs runs, the other takes its result.
  world.expect_states("s offered, 2/u ready");
  world.succeed_with("w1", "s#1", 30);
  world.expect_states("s succeeded, 2/u succeeded");
  EXPECT_EQ(world.row("2/u").cached_from, world.job("s"));
}

TEST(Choice, ChosenAfterAnEqualJobSucceeded_IsCached) {
  World world("b\nu spec=x <- b\n");
  world.join("w1", kWide);
  world.succeed_with("w1", "b#1", 20).succeed_with("w1", "u#1", 30);
  world.submit("a\nb\ns spec=x <- best a b\nt <- s\n").forget_messages();
  world.succeed_with("w1", "2/a#1", 10);
  world.expect_states("2/s succeeded, 2/t offered");
  EXPECT_EQ(world.row("2/s").cached_from, world.job("u"));
  EXPECT_THAT(chosen(world, "2/s"), ElementsAre(1));
}

TEST(Choice, BesideOtherInputs_WaitsForThemToo) {
  World world("a\nb\nc\ns <- best a b, init c\n");
  world.join("w1", kWide);
  world.succeed_with("w1", "a#1", 10).succeed_with("w1", "b#1", 5);
  world.expect_states("s blocked");
  EXPECT_EQ(world.explain("s"), "waits for c (offered)");
  EXPECT_TRUE(world.row("s").identity.has_value());
  world.succeed_with("w1", "c#1", 1);
  world.expect_states("s offered");
  EXPECT_THAT(world.last_offer()->inputs,
              ElementsAre(std::pair(InputRole::kTeacher, artifact_of(world.job("a"), 1)),
                          std::pair(InputRole::kInit, artifact_of(world.job("c"), 1))));

  World lost("a\nb\nc\ns <- best a b, init c\n");
  lost.join("w1", kWide).fail("w1", "c#1", FailureClass::kDiverged);
  lost.expect_states("s skipped");
  EXPECT_EQ(lost.explain("s"), "skipped because of c");
}

TEST(Choice, OneJobInTwoRoles_IsCountedOnce) {
  World world("a\nb\ns <- best a b, init a\n");
  world.join("w1", kWide);
  world.succeed_with("w1", "a#1", 10);
  EXPECT_EQ(world.explain("s"), "waits for 1 of 2 candidates, b (offered)");
  world.succeed_with("w1", "b#1", 20);
  world.expect_states("s offered");
  EXPECT_EQ(world.last_offer()->inputs.size(), 2U);
}

TEST(Choice, Restart_KeepsTheChoice) {
  World world(kThree);
  world.join("w1", kWide);
  world.succeed_with("w1", "a#1", 60).succeed_with("w1", "b#1", 70);
  world.restart().join("w1", kWide, "c#1");
  EXPECT_EQ(world.explain("s"), "waits for 1 of 3 candidates, c (offered)");
  world.fail("w1", "c#1", FailureClass::kDiverged);
  EXPECT_THAT(chosen(world, "s"), ElementsAre(1));
  world.restart().join("w1", kWide, "s#1");
  world.expect_states("s offered");
  EXPECT_THAT(chosen(world, "s"), ElementsAre(1));

  // A better candidate that comes later changes nothing any more.
  world.retry("c").succeed_with("w1", "c#2", 99);
  world.restart().join("w1", kWide, "s#1").succeed_with("w1", "s#1", 50);
  EXPECT_THAT(chosen(world, "s"), ElementsAre(1));
  world.expect_states("c succeeded, s succeeded, t offered");
}

TEST(Choice, CancelOfACandidate_LeavesTheOthers) {
  World world(kThree);
  world.join("w1", {.slots = {16, 16}});
  world.expect_states("a offered, b offered, c ready");
  world.cancel("b c");
  world.expect_states("b cancelling, c cancelled, s blocked");
  world.succeed_with("w1", "a#1", 60);
  // However the attempt at b ends, b will not have succeeded.
  world.expect_states("b cancelling, s offered");
  EXPECT_THAT(chosen(world, "s"), ElementsAre(0));
  world.stopped("w1", "b#1");
  world.expect_states("b cancelled, s offered, t blocked");
}

TEST(Choice, CancelOfAllCandidates_SkipsTheJob) {
  World world(kThree);
  world.cancel("a b");
  world.expect_states("s blocked");
  world.cancel("c");
  world.expect_states("s skipped, t skipped");
}

TEST(Choice, CancelOfTheJob_IsNoMatterOfItsCandidates) {
  World world(kThree);
  world.join("w1", kWide).cancel("s");
  world.expect_states("a offered, s cancelled, t skipped");
  world.succeed_with("w1", "a#1", 1).succeed_with("w1", "b#1", 2).succeed_with("w1", "c#1", 3);
  world.expect_states("s cancelled");
  world.retry("t");
  world.expect_states("s offered, t blocked");
  EXPECT_THAT(chosen(world, "s"), ElementsAre(2));
}

TEST(Choice, RetryOfACandidate_RevivesWhatWasSkipped) {
  World world(kThree);
  world.join("w1", kWide);
  for (const char* job : {"a#1", "b#1", "c#1"}) world.fail("w1", job, FailureClass::kDiverged);
  world.expect_states("s skipped, t skipped");
  world.retry("b");
  world.expect_states("a failed, b offered, c failed, s blocked, t blocked");
  world.succeed_with("w1", "b#2", 1);
  world.expect_states("s offered");
  EXPECT_THAT(chosen(world, "s"), ElementsAre(1));
}

TEST(Choice, RetryOfTheJob_RevivesCandidatesOnlyIfNoneIsLeft) {
  World world(kThree);
  world.join("w1", kWide).fail("w1", "a#1", FailureClass::kDiverged).cancel("s");
  world.retry("s");
  world.expect_states("a failed, b offered, c offered, s blocked, t blocked");

  world.fail("w1", "b#1", FailureClass::kDiverged).fail("w1", "c#1", FailureClass::kDiverged);
  world.expect_states("s skipped, t skipped");
  world.retry("t");
  world.expect_states("a offered, b offered, c offered, s blocked, t blocked");
}

TEST(Choice, RetryBeforeTheChoice_IsWaitedFor) {
  World world(kThree);
  world.join("w1", kWide);
  world.fail("w1", "a#1", FailureClass::kDiverged).succeed_with("w1", "b#1", 50);
  world.retry("a").succeed_with("w1", "c#1", 40);
  EXPECT_EQ(world.explain("s"), "waits for 1 of 3 candidates, a (offered)");
  world.succeed_with("w1", "a#2", 60);
  EXPECT_THAT(chosen(world, "s"), ElementsAre(0));
}

TEST(Choice, ALossThatIsTriedAgain_DecidesNothing) {
  World world(kThree);
  world.join("w1", kWide);
  world.succeed_with("w1", "b#1", 50).succeed_with("w1", "c#1", 40);
  world.fail("w1", "a#1", FailureClass::kPreempted);
  world.expect_states("a offered, s blocked");
  world.succeed_with("w1", "a#2", 45);
  EXPECT_THAT(chosen(world, "s"), ElementsAre(1));
}

TEST(Choice, CachedCandidates_DecideAtOnce) {
  World world("a\nb\n");
  world.join("w1", kWide).succeed_with("w1", "a#1", 10).succeed_with("w1", "b#1", 20);
  world.submit("a\nb\ns <- best a b\nu <- best a b, s\n");
  world.expect_states("2/a succeeded, 2/b succeeded, 2/s offered, 2/u blocked");
  EXPECT_THAT(chosen(world, "2/s"), ElementsAre(1));
  EXPECT_THAT(chosen(world, "2/u"), ElementsAre(1));
}

TEST(Choice, TwoChoicesOfOneJob_AreMadeApart) {
  World world("a\nb\nc\nd\ns <- best a b, best c d\n");
  world.join("w1", kWide).succeed_with("w1", "a#1", 1).succeed_with("w1", "b#1", 2);
  EXPECT_THAT(chosen(world, "s"), ElementsAre(1));
  EXPECT_FALSE(world.row("s").identity.has_value());
  EXPECT_EQ(world.explain("s"), "waits for 2 of 2 candidates, c (offered)");
  world.succeed_with("w1", "c#1", 4).fail("w1", "d#1", FailureClass::kDiverged);
  EXPECT_THAT(chosen(world, "s"), ElementsAre(1, 2));
  world.expect_states("s offered");
}

TEST(Source, IsAnInputOfItsOwnRole) {
  World world("a\nq <- source a\n");
  world.join("w1", kWide).succeed("w1", "a#1");
  EXPECT_THAT(world.last_offer()->inputs,
              ElementsAre(std::pair(InputRole::kSource, artifact_of(world.job("a"), 1))));
  const std::array inputs = {IdentityInput{InputRole::kSource, *world.row("a").identity}};
  EXPECT_EQ(world.row("q").identity, identity_of(sha256("q"), copy_digest("copy A"), inputs));
}

}  // namespace
}  // namespace bitrung::core
