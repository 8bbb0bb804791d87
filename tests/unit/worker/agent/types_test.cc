#include "worker/agent/types.h"

#include <gtest/gtest.h>

namespace bitrung::agent {
namespace {

TEST(AttemptKey, TextOfAKey_IsReadBack) {
  const AttemptKey key{JobId{12}, AttemptNumber{3}};
  EXPECT_EQ(to_string(key), "12-3");
  EXPECT_EQ(parse_attempt_key("12-3"), key);
}

TEST(AttemptKey, OtherText_IsNoKey) {
  for (const char* text :
       {"", "12", "12-", "-3", "12-0", "0-1", "12-3x", "a-b", "12-3-4", "../1-1", "-1-1"}) {
    EXPECT_EQ(parse_attempt_key(text), std::nullopt) << text;
  }
}

TEST(Text, InvalidBytes_BecomeReplacementCharacters) {
  EXPECT_EQ(to_utf8("plain, ü, €, 𝄞"), "plain, ü, €, 𝄞");
  EXPECT_EQ(to_utf8("a\xFF"
                    "b"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(to_utf8("\xC3"), "\xEF\xBF\xBD");                                  // Cut short.
  EXPECT_EQ(to_utf8("\xC0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD");                  // Overlong.
  EXPECT_EQ(to_utf8("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // Surrogate.
}

TEST(Text, LongLine_IsSplitBetweenCharacters) {
  EXPECT_EQ(split_line(""), std::vector<std::string>{""});
  EXPECT_EQ(split_line("short"), std::vector<std::string>{"short"});
  const std::string line = std::string(kLineBytesMax - 1, 'x') + "ü" + "y";
  const std::vector<std::string> pieces = split_line(line);
  ASSERT_EQ(pieces.size(), 2U);
  EXPECT_EQ(pieces[0], std::string(kLineBytesMax - 1, 'x'));
  EXPECT_EQ(pieces[1], "üy");
}

}  // namespace
}  // namespace bitrung::agent
