#include "server/rpc/session_limits.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/rpc/json_depth.h"

namespace bitrung::rpc {
namespace {

using testing::HasSubstr;

v1::OpenSessionRequest points(int count, int names = 1, std::int64_t job = 1, int first_name = 0) {
  v1::OpenSessionRequest request;
  v1::Metrics& metrics = *request.mutable_metrics();
  metrics.mutable_key()->set_job_id(job);
  metrics.mutable_key()->set_attempt(1);
  for (int i = 0; i < names; ++i) metrics.add_names(fmt::format("series-{}", first_name + i));
  for (int i = 0; i < count; ++i) metrics.add_points()->set_step(i);
  return request;
}

std::string refusal(const absl::Status& status) {
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  return std::string(status.message());
}

TEST(SessionLimits, Points_UpToTheLimitOfAMessage) {
  SessionLimits limits;
  EXPECT_TRUE(limits.check(points(1000)).ok());
  EXPECT_THAT(refusal(limits.check(points(1001))), HasSubstr("1001 points, the limit is 1000"));
}

TEST(SessionLimits, BytesOfAMessageOfPoints) {
  SessionLimits limits;
  v1::OpenSessionRequest request = points(1);
  request.mutable_metrics()->add_names(std::string((256 << 10) - 100, 'x'));
  EXPECT_TRUE(limits.check(request).ok());
  request.mutable_metrics()->add_names(std::string(100, 'y'));
  EXPECT_THAT(refusal(limits.check(request)), HasSubstr("the limit is 262144"));
}

TEST(SessionLimits, BytesOfAStatement) {
  SessionLimits limits;
  v1::OpenSessionRequest request;
  request.mutable_outcome()->set_report_json(std::string((1 << 20) - 100, 'x'));
  EXPECT_TRUE(limits.check(request).ok());
  request.mutable_outcome()->mutable_report_json()->append(std::string(100, 'y'));
  EXPECT_THAT(refusal(limits.check(request)), HasSubstr("the limit is 1048576"));
}

TEST(SessionLimits, SeriesOfAnAttempt_OverAllMessages) {
  SessionLimits limits;
  EXPECT_TRUE(limits.check(points(1, 600)).ok());
  EXPECT_TRUE(limits.check(points(1, 600)).ok());           // The same ones.
  EXPECT_TRUE(limits.check(points(1, 400, 1, 600)).ok());   // 1,000 now.
  EXPECT_TRUE(limits.check(points(1, 1000, 2, 500)).ok());  // Of another attempt.
  EXPECT_THAT(refusal(limits.check(points(1, 1, 1, 1000))),
              HasSubstr("attempt 1 of job 1 has more than 1000 series"));
}

TEST(SessionLimits, AttemptsThatNeverEnd) {
  SessionLimits limits;
  const auto last = static_cast<std::int64_t>(kAttemptsPerSessionMax);
  for (std::int64_t job = 1; job <= last; ++job) {
    ASSERT_TRUE(limits.check(points(1, 1, job)).ok());
    if (job % 2 == 0) continue;
    v1::OpenSessionRequest outcome;  // One that has ended is not counted.
    outcome.mutable_outcome()->mutable_key()->set_job_id(job);
    outcome.mutable_outcome()->mutable_key()->set_attempt(1);
    ASSERT_TRUE(limits.check(outcome).ok());
  }
  for (std::int64_t job = last + 1; job <= last + last / 2; ++job)
    ASSERT_TRUE(limits.check(points(1, 1, job)).ok());
  EXPECT_THAT(refusal(limits.check(points(1, 1, 2 * last))), HasSubstr("the limit is 16384"));
}

TEST(SessionLimits, Queue) {
  EXPECT_TRUE(check_queue(kMessagesQueuedMax, kBytesQueuedMax).ok());
  EXPECT_THAT(refusal(check_queue(kMessagesQueuedMax + 1, 0)), HasSubstr("8449 messages wait"));
  EXPECT_THAT(refusal(check_queue(1, kBytesQueuedMax + 1)), HasSubstr("bytes wait"));
}

TEST(JsonDepth, CountsWhatIsNotQuoted) {
  EXPECT_TRUE(is_nested_at_most(R"({"a":[1,{"b":2}]})", 3));
  EXPECT_FALSE(is_nested_at_most(R"({"a":[1,{"b":2}]})", 2));
  EXPECT_TRUE(is_nested_at_most(R"({"a[[[\"[[[":"]{{{"})", 1));
  EXPECT_TRUE(is_nested_at_most(R"([[],[],[]])", 2));
  EXPECT_TRUE(is_nested_at_most("", 0));
}

}  // namespace
}  // namespace bitrung::rpc
