// Which copy of a data set an experiment trains on.
#include <gtest/gtest.h>

#include "tests/unit/server/core/world.h"

namespace bitrung::core {
namespace {

const Machine kCopyA = {.datasets = {{"data", "copy A"}}};
const Machine kCopyB = {.datasets = {{"data", "copy B"}}};

Digest pin(const World& world, std::int64_t experiment, const std::string& dataset = "data") {
  const auto found = world.stored().pins().find({ExperimentId{experiment}, dataset});
  return found == world.stored().pins().end() ? Digest{} : found->second;
}

TEST(Pin, WorkersThatDiffer_TheFirstPlacementDecides) {
  World world;
  world.join("w1", kCopyA).join("w2", kCopyB).submit("a\nb\n");
  EXPECT_EQ(pin(world, 1), copy_digest("copy A"));
  world.expect_states("a offered, b ready");
  EXPECT_EQ(world.explain("b"), "behind 0");
  world.drain("w1", true);
  EXPECT_EQ(world.explain("b"), "w1 drains; w2 has another data");
}

TEST(Pin, OtherExperiment_MayPinAnotherCopy) {
  World world;
  world.join("w1", kCopyA).join("w2", kCopyB).submit("a\n").submit("b\n");
  EXPECT_EQ(pin(world, 1), copy_digest("copy A"));
  EXPECT_EQ(pin(world, 2), copy_digest("copy B"));
  world.expect_states("a offered, 2/b offered");
}

TEST(Pin, WorkersThatAgree_PinWithoutAFreeSlot) {
  World world("busy\n");
  world.join("w1").submit("a\n");
  EXPECT_EQ(pin(world, 2), copy_digest("copy A"));
  world.expect_states("2/a ready");
}

TEST(Pin, WorkersThatDiffer_DoNotPinWithoutAFreeSlot) {
  World world;
  world.join("w1", kCopyA).join("w2", kCopyB).submit("x1\n").submit("x2\n").submit("a\n");
  EXPECT_EQ(pin(world, 3), Digest{});
  EXPECT_FALSE(world.row("3/a").identity.has_value());
  world.succeed("w2", "2/x2#1");
  EXPECT_EQ(pin(world, 3), copy_digest("copy B"));
  world.expect_states("3/a offered");
}

TEST(Pin, DrainingWorker_HasNoSay) {
  World world;
  world.join("w1", {.slots = {}}).join("w2", kCopyB).drain("w2", true).submit("a\n");
  EXPECT_EQ(pin(world, 1), copy_digest("copy A"));
}

TEST(Pin, FirstWorkerToConnect_PinsWhatIsReady) {
  World world("a\nb <- a\n");
  EXPECT_EQ(pin(world, 1), Digest{});
  world.join("w1", {.slots = {}, .datasets = {{"data", "copy B"}}});
  EXPECT_EQ(pin(world, 1), copy_digest("copy B"));
  world.join("w2", kCopyA);
  EXPECT_EQ(world.explain("a"), "w1 has 0 of 0 bytes; w2 has another data");
}

TEST(Pin, ChangedDatasets_PinToo) {
  World world("a\n");
  world.join("w1", {.slots = {}, .datasets = {}});
  EXPECT_EQ(pin(world, 1), Digest{});
  world.change_datasets("w1", {{"data", "copy A"}});
  EXPECT_EQ(pin(world, 1), copy_digest("copy A"));
}

TEST(Pin, ExperimentWithoutAReadyJob_IsPinnedByThePlacement) {
  World world("a\n");
  world.cancel("a").join("w1");
  EXPECT_EQ(pin(world, 1), Digest{});
  world.retry("a");
  EXPECT_EQ(pin(world, 1), copy_digest("copy A"));
  world.expect_states("a offered");
}

TEST(Pin, TwoDatasets_AreEachPinnedAndIdentitiesFollow) {
  World world("a\nb dataset=other <- a\nc <- b\n");
  world.join("w1");
  EXPECT_TRUE(world.row("a").identity.has_value());
  EXPECT_FALSE(world.row("b").identity.has_value());
  EXPECT_FALSE(world.row("c").identity.has_value());
  world.succeed("w1", "a#1");
  EXPECT_EQ(world.explain("b"), "w1 lacks other");
  world.join("w2", {.datasets = {{"other", "copy O"}}});
  EXPECT_EQ(pin(world, 1, "other"), copy_digest("copy O"));
  EXPECT_TRUE(world.row("b").identity.has_value());
  EXPECT_TRUE(world.row("c").identity.has_value());
  EXPECT_EQ(world.last_offer()->dataset, copy_digest("copy O"));
}

TEST(Pin, PlacementThatRevealsAKnownResult_GivesTheSlotToTheNextJob) {
  // Copies differ, so experiment 2 is pinned only by placement; its first job then turns out to be
  // done.
  World world("a\n");
  world.join("w1", kCopyA).succeed("w1", "a#1").join("w2", kCopyB).drain("w2", true);
  world.drain("w2", false).drain("w1", true);
  world.forget_messages();
  world.drain("w1", false).submit("a\nb\n");
  world.expect_states("2/a succeeded, 2/b offered");
  world.expect("w1: offer 2/b#1");
  world.expect_nothing_else();
}

TEST(Pin, SurvivesARestart) {
  World world("a\nb\n");
  world.join("w1", kCopyA).restart();
  world.join("w2", kCopyB);
  EXPECT_EQ(world.explain("b"), "w2 has another data");
}

}  // namespace
}  // namespace bitrung::core
