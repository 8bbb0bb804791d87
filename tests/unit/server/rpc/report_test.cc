#include "server/rpc/report.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "db/base/status.h"

namespace bitrung::rpc {
namespace {

std::string refusal(std::string_view text) {
  const auto report = checked_report(text);
  EXPECT_FALSE(report.ok()) << text.substr(0, 40);
  EXPECT_TRUE(absl::IsInvalidArgument(report.status()));
  return std::string(message(report.status()));
}

TEST(CheckedReport, ObjectsPass_InOneSpelling) {
  EXPECT_EQ(checked_report("").value(), "");
  EXPECT_EQ(checked_report(" { \"b\" : [1, null, 0.1], \"a\": \"\xc3\xa9\" } ").value(),
            "{\"a\":\"\xc3\xa9\",\"b\":[1,null,0.1]}");
}

TEST(CheckedReport, OtherTexts_AreRefusedWithTheReason) {
  EXPECT_THAT(refusal("{"), testing::HasSubstr("a report is not JSON"));
  EXPECT_THAT(refusal("{\"a\":\"\xff\"}"), testing::HasSubstr("not JSON"));
  EXPECT_THAT(refusal("{\"a\":1e999}"), testing::HasSubstr("not JSON"));
  EXPECT_THAT(refusal("[1]"), testing::HasSubstr("a JSON object, not array"));
  EXPECT_THAT(refusal(std::string(kReportBytesMax + 1, ' ')),
              testing::HasSubstr("786433 bytes, the limit is 786432"));
  std::string deep = "{\"a\":" + std::string(5000, '[') + std::string(5000, ']') + "}";
  EXPECT_THAT(refusal(deep), testing::HasSubstr("nested deeper than 64 levels"));
}

}  // namespace
}  // namespace bitrung::rpc
