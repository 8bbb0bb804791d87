#include "db/base/shared_spec.h"

#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/db/base/join_spec.h"

namespace bitrung {
namespace {

using testing::ElementsAre;

std::optional<std::vector<std::string>> texts_of(std::string_view object) {
  std::vector<SpecMember> members;
  if (!read_members(object, members)) return std::nullopt;
  std::vector<std::string> texts;
  for (const SpecMember& member : members) texts.emplace_back(member.text);
  return texts;
}

TEST(SharedSpec, MembersOfTheTopLevel_AreFoundWhateverTheirValuesHold) {
  EXPECT_THAT(texts_of("{}"), testing::Optional(ElementsAre()));
  EXPECT_THAT(texts_of(R"({"a":1,"b":{"c":[1,{"d":2}],"e":"}"},"f":"\"],{","g":null,"h":[]})"),
              testing::Optional(ElementsAre(R"("a":1)", R"("b":{"c":[1,{"d":2}],"e":"}"})",
                                            R"("f":"\"],{")", R"("g":null)", R"("h":[])")));
  EXPECT_THAT(texts_of("{\"a\\\\\":1,\"\xc3\xa9\":2}"),
              testing::Optional(ElementsAre(R"("a\\":1)", "\"\xc3\xa9\":2")));
}

TEST(SharedSpec, WhatIsNoCanonicalObject_HasNoMembers) {
  for (const char* text : {"",
                           "{",
                           "}",
                           "[]",
                           "1",
                           "\"a\"",
                           R"({"a")",
                           R"({"a":)",
                           R"({"a":})",
                           R"({"a":1)",
                           R"({"a":1,})",
                           R"({,"a":1})",
                           R"({"a":1}x)",
                           R"({"a":1}})",
                           R"({ "a":1})",
                           R"({"a" :1})",
                           R"({"a":1, "b":2})",
                           R"({"b":1,"a":2})",
                           R"({"a":1,"a":2})",
                           R"({a:1})",
                           R"({"a":[1})",
                           R"({"a":"x})",
                           R"({"a\)",
                           R"({"a":"\)",
                           R"({"a":{"b":1})",
                           "{\"a\":1,"}) {
    EXPECT_EQ(texts_of(text), std::nullopt) << text;
  }
}

TEST(SharedSpec, WhatIsLikely_ChangesNothing) {
  const auto with = [](std::string_view object, const std::vector<std::string>& likely) {
    std::vector<SpecMember> members;
    std::vector<std::string> texts;
    if (!read_members(object, members, likely)) return std::vector<std::string>{"none"};
    for (const SpecMember& member : members) texts.emplace_back(member.text);
    return texts;
  };
  const std::string a = R"("a":[1,2])";
  const std::string b = R"("b":1)";
  const std::string c = R"("c":"x")";
  EXPECT_THAT(with(R"({"a":[1,2],"b":1,"c":"x"})", {a, b, c}), ElementsAre(a, b, c));
  // Longer numbers begin like shorter ones, other values and keys stand in between, some are
  // missing.
  EXPECT_THAT(with(R"({"a":[1,2],"b":12,"c":"x"})", {a, b, c}), ElementsAre(a, R"("b":12)", c));
  EXPECT_THAT(with(R"({"a":[1,2,3],"b":1})", {a, b}), ElementsAre(R"("a":[1,2,3])", b));
  EXPECT_THAT(with(R"({"b":1,"c":"x"})", {a, b, c}), ElementsAre(b, c));
  EXPECT_THAT(with(R"({"a":[1,2],"b":1})", {a}), ElementsAre(a, b));
  EXPECT_THAT(with(R"({"b":1,"a":[1,2]})", {b, a}), ElementsAre("none"));
  EXPECT_THAT(with(R"({"a":[1,2])", {a}), ElementsAre("none"));
  EXPECT_THAT(with(R"({"a":[1,2]}})", {a}), ElementsAre("none"));
}

TEST(SharedSpec, Joined_HasTheMembersOfBothByKey) {
  const auto joined = [](std::string_view shared, std::string_view own) {
    return join_spec(shared, own).value_or("not joined");
  };
  EXPECT_EQ(joined(R"({"a":1,"c":{"x":1}})", R"({"b":[2,3],"d":4})"),
            R"({"a":1,"b":[2,3],"c":{"x":1},"d":4})");
  EXPECT_EQ(joined(R"({"b":1})", R"({"a":2})"), R"({"a":2,"b":1})");
  EXPECT_EQ(joined("{}", R"({"a":2})"), R"({"a":2})");
  EXPECT_EQ(joined(R"({"a":2})", "{}"), R"({"a":2})");
  EXPECT_EQ(joined("{}", "{}"), "{}");
  // Longer keys after their beginnings, as std::string orders them.
  EXPECT_EQ(joined(R"({"bits":1})", R"({"bits2":2})"), R"({"bits":1,"bits2":2})");

  EXPECT_EQ(joined(R"({"a":1})", R"({"a":1})"), "not joined");
  EXPECT_EQ(joined(R"({"a":1)", "{}"), "not joined");
  EXPECT_EQ(joined("{}", "null"), "not joined");
}

}  // namespace
}  // namespace bitrung
