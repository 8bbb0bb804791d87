#include "server/rpc/spec_scan.h"

#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace bitrung::rpc {
namespace {

std::string value_of(SpecScanner& scanner, const std::string& text, std::string_view parent,
                     std::string_view key) {
  const auto* members = scanner.scan(text);
  if (members == nullptr) return "not plain";
  for (const SpecScanner::Member& member : *members) {
    if (member.parent == parent && member.key == key) return std::string(member.value);
  }
  return "absent";
}

TEST(SpecScanner, FindsMembersOfTheFirstTwoLevels) {
  SpecScanner scanner;
  const std::string text =
      R"({"a":{"b":{"seed":3},"c":4},"list":[{"seed":5},[6]],"n":null,"seed":12,"t":"x","y":true})";
  EXPECT_EQ(value_of(scanner, text, "", "seed"), "12");
  EXPECT_EQ(value_of(scanner, text, "", "t"), "\"x\"");
  EXPECT_EQ(value_of(scanner, text, "a", "c"), "4");
  EXPECT_EQ(value_of(scanner, text, "a", "b"), "");
  EXPECT_EQ(value_of(scanner, text, "b", "seed"), "absent");
  EXPECT_EQ(value_of(scanner, text, "", "c"), "absent");
}

TEST(SpecScanner, TakesOnlyWhatTheLibraryWouldWriteTheSameWay) {
  SpecScanner scanner;
  for (const char* text : {R"({})",
                           R"({"a":[],"b":{}})",
                           R"({"a":0.1,"b":1e-05,"c":-3,"d":0})",
                           R"({"a":5.0,"b":[0.5,0.75]})",
                           R"({"a":false,"b":null,"c":"with / and ~"})",
                           R"({"b":1,"a":2})",
                           R"({"a":1,"a":2})",
                           R"({"a": 1})",
                           R"({"a":1e-5})",
                           R"({"a":0.10})",
                           R"({"a":-0})",
                           R"({"a":007})",
                           R"({"a":1}x)",
                           R"({"a":1)",
                           R"([1])",
                           R"({"a":"\u0041"})",
                           R"({"a":"\n"})",
                           "{\"a\":\"\xC3\xA4\"}",
                           R"({"a":18446744073709551615})",
                           R"({"a":1.})",
                           R"({"a":1e400})",
                           R"({"a":tru})",
                           R"({"a":+1})",
                           R"({"a":})",
                           R"({"a":1,})",
                           R"({,})",
                           ""}) {
    const auto parsed = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    const bool is_plain = scanner.scan(text) != nullptr;
    // What it takes is canonical; what it leaves may be so all the same.
    if (is_plain) {
      EXPECT_TRUE(parsed.is_object()) << text;
      EXPECT_EQ(parsed.dump(), text);
    }
  }
  for (const char* text : {R"({"a":0.1,"b":1e-05,"c":-3,"d":0})", R"({"a":5.0,"b":[0.5,0.75]})"})
    EXPECT_NE(scanner.scan(text), nullptr) << text;
}

TEST(SpecScanner, DeepNesting_IsLeftToTheLongWay) {
  SpecScanner scanner;
  const std::string deep = "{\"a\":" + std::string(100'000, '[') + "1";
  EXPECT_EQ(scanner.scan(deep), nullptr);
}

}  // namespace
}  // namespace bitrung::rpc
