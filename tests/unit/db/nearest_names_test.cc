#include "db/nearest_names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bitrung::db {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(NearestNames, TypingErrors_AreFoundNearestFirst) {
  const std::vector<std::string> known = {"bit-ladder", "bit-ladders", "resnet20", "alone"};
  EXPECT_THAT(nearest_names("bit-lader", known), ElementsAre("bit-ladder", "bit-ladders"));
  EXPECT_THAT(nearest_names("bti-ladder", known), ElementsAre("bit-ladder", "bit-ladders"));
  EXPECT_THAT(nearest_names("Resnet20", known), ElementsAre("resnet20"));
  EXPECT_THAT(nearest_names("aloen", known), ElementsAre("alone"));
  EXPECT_THAT(nearest_names("bit-ladderr", known), ElementsAre("bit-ladder", "bit-ladders"));
  EXPECT_THAT(nearest_names("quantize", known), IsEmpty());
  EXPECT_THAT(nearest_names("", known), IsEmpty());
  EXPECT_THAT(nearest_names("x", {}), IsEmpty());
}

TEST(NearestNames, ManyAreNear_ThreeAreNamed) {
  const std::vector<std::string> known = {"job.seed=1", "job.seed=2", "job.seed=3", "job.seed=4",
                                          "job.seed=1"};
  EXPECT_THAT(nearest_names("job.seed=9", known),
              ElementsAre("job.seed=1", "job.seed=2", "job.seed=3"));
}

TEST(NearestNames, Distance_AgreesWithTheDefinition) {
  // Every pair of short words over two letters: one typing error apart exactly if one edit leads
  // from one to the other.
  std::vector<std::string> words = {""};
  for (std::size_t i = 0; i < words.size() && words[i].size() < 4; ++i) {
    words.push_back(words[i] + "a");
    words.push_back(words[i] + "b");
  }
  const auto one_edit = [](const std::string& from, const std::string& to) {
    if (from == to) return true;
    for (std::size_t i = 0; i <= from.size(); ++i) {
      for (const char c : {'a', 'b'}) {
        std::string inserted = from;
        if (inserted.insert(i, 1, c) == to) return true;
        if (i == from.size()) continue;
        std::string changed = from;
        changed[i] = c;
        if (changed == to) return true;
      }
      if (i == from.size()) continue;
      std::string removed = from;
      if (removed.erase(i, 1) == to) return true;
      if (i + 1 == from.size()) continue;
      std::string exchanged = from;
      std::swap(exchanged[i], exchanged[i + 1]);
      if (exchanged == to) return true;
    }
    return false;
  };
  for (const std::string& from : words) {
    for (const std::string& to : words) {
      EXPECT_EQ(!nearest_names(from, {to}).empty(), one_edit(from, to))
          << '"' << from << "\" \"" << to << '"';
    }
  }
}

TEST(DidYouMean, Sentence_ListsTheNames) {
  EXPECT_EQ(did_you_mean("bit-lader", {"bit-ladder"}), "did you mean \"bit-ladder\"? ");
  EXPECT_EQ(did_you_mean("job-9", {"job-1", "job-2", "job-3"}),
            "did you mean \"job-1\", \"job-2\" or \"job-3\"? ");
  EXPECT_EQ(did_you_mean("x", {"quantize"}), "");
}

}  // namespace
}  // namespace bitrung::db
