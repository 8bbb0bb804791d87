#include "worker/agent/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "db/base/status.h"

namespace bitrung::agent {
namespace {

using testing::HasSubstr;

v1::OpenSessionResponse offer() {
  v1::OpenSessionResponse response;
  v1::Offer* offer = response.mutable_offer();
  offer->mutable_key()->set_job_id(7);
  offer->mutable_key()->set_attempt(2);
  offer->set_slot(1);
  offer->set_threads(3);
  offer->set_spec_json(R"({"dataset":"cifar10"})");
  offer->set_timeout_seconds(1.5);
  v1::OfferInput* input = offer->add_inputs();
  input->set_role(v1::INPUT_ROLE_INIT);
  input->set_artifact_sha256(sha256("init").hex());
  return response;
}

std::string error(const v1::OpenSessionResponse& response) {
  return std::string(message(to_event(SessionId{1}, response).status()));
}

TEST(Wire, Offer_IsUnderstood) {
  const absl::StatusOr<Event> event = to_event(SessionId{4}, offer());
  ASSERT_TRUE(event.ok()) << event.status();
  const auto& received = std::get<OfferReceived>(*event);
  EXPECT_EQ(received.session, SessionId{4});
  EXPECT_EQ(to_string(received.offer.key), "7-2");
  EXPECT_EQ(received.offer.slot, 1U);
  EXPECT_EQ(received.offer.threads, 3U);
  EXPECT_EQ(received.offer.dataset, "cifar10");
  EXPECT_EQ(received.offer.timeout, milliseconds{1500});
  EXPECT_EQ(received.offer.inputs, (std::vector<OfferInput>{{InputRole::kInit, sha256("init")}}));
  EXPECT_FALSE(received.offer.resume.has_value());
}

TEST(Wire, SeveralTeachersAndASource_KeepTheirOrder) {
  v1::OpenSessionResponse response = offer();
  response.mutable_offer()->clear_inputs();
  const std::vector<std::pair<v1::InputRole, std::string>> sent = {
      {v1::INPUT_ROLE_TEACHER, "b"}, {v1::INPUT_ROLE_TEACHER, "a"}, {v1::INPUT_ROLE_SOURCE, "c"}};
  for (const auto& [role, artifact] : sent) {
    v1::OfferInput& input = *response.mutable_offer()->add_inputs();
    input.set_role(role);
    input.set_artifact_sha256(sha256(artifact).hex());
  }
  const absl::StatusOr<Event> event = to_event(SessionId{4}, response);
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(std::get<OfferReceived>(*event).offer.inputs,
            (std::vector<OfferInput>{{InputRole::kTeacher, sha256("b")},
                                     {InputRole::kTeacher, sha256("a")},
                                     {InputRole::kSource, sha256("c")}}));
}

TEST(Wire, MalformedStatements_AreRefused) {
  EXPECT_THAT(error({}), HasSubstr("does not know"));
  v1::OpenSessionResponse response = offer();
  response.mutable_offer()->clear_key();
  EXPECT_THAT(error(response), HasSubstr("names no attempt"));
  response = offer();
  response.mutable_offer()->set_resume_sha256("../../etc/passwd");
  EXPECT_THAT(error(response), HasSubstr("is not a SHA-256"));
  response = offer();
  response.mutable_offer()->mutable_inputs(0)->set_role(v1::INPUT_ROLE_UNSPECIFIED);
  EXPECT_THAT(error(response), HasSubstr("unknown role 0"));
}

TEST(Wire, ImpossibleTimeouts_AreNoLimit) {
  for (const double seconds : {0.0, -1.0, 1e300, std::numeric_limits<double>::quiet_NaN(),
                               std::numeric_limits<double>::infinity()}) {
    v1::OpenSessionResponse response = offer();
    response.mutable_offer()->set_timeout_seconds(seconds);
    EXPECT_EQ(std::get<OfferReceived>(to_event(SessionId{1}, response).value()).offer.timeout,
              milliseconds{0})
        << seconds;
  }
}

TEST(Wire, Hello_SaysItsSlotsAndWhatTheyShare) {
  const Slot slot{{"cpu", "Some CPU", 1000}, 1, {}};
  const Identity identity{"id", "name", "1", 3, {{slot, slot}, 2, {4, 7}}};
  const v1::Hello hello = to_request(identity, OpenSession{}).hello();
  ASSERT_EQ(hello.slots_size(), 2);
  EXPECT_EQ(hello.slots(1).slot(), 1U);
  EXPECT_EQ(hello.slots(1).device_name(), "Some CPU");
  EXPECT_EQ(hello.shared_cores(), 2U);
}

TEST(Wire, Points_NameEachSeriesOnce) {
  const v1::OpenSessionRequest request =
      to_request(SendPoints{{JobId{1}, AttemptNumber{1}}, 5, 7},
                 std::vector<Point>{{"a", 1, 0.5}, {"b", 1, 1.5}, {"a", 2, 2.5}});
  const v1::Metrics& metrics = request.metrics();
  EXPECT_EQ(metrics.first_sequence(), 5U);
  ASSERT_EQ(metrics.names_size(), 2);
  ASSERT_EQ(metrics.points_size(), 3);
  EXPECT_EQ(metrics.names(static_cast<int>(metrics.points(2).name_index())), "a");
  EXPECT_EQ(metrics.points(2).value(), 2.5);
}

TEST(Wire, Success_CarriesItsReport) {
  const AttemptKey key{JobId{1}, AttemptNumber{1}};
  Result result;
  result.best_epoch = 3;
  const std::string report(kReportBytesMax, 'x');
  const auto request = to_request(SendOutcome{key, Succeeded{result, sha256("model"), report}});
  EXPECT_EQ(request.outcome().succeeded().best_epoch(), 3U);
  EXPECT_EQ(request.outcome().report_json(), report);
  EXPECT_LT(request.ByteSizeLong(), std::size_t{1} << 20);
  EXPECT_EQ(to_request(SendOutcome{key, Cancelled{}}).outcome().report_json(), "");
}

TEST(Wire, FullestBatches_FitIntoAMessage) {
  constexpr std::size_t kMessageBytesMax = std::size_t{1} << 20;
  std::vector<Point> points;
  for (std::uint64_t i = 0; i < kPointsPerBatchMax; ++i) {
    std::string name = std::to_string(i);
    name.resize(kSeriesNameBytesMax, 'x');
    points.push_back({name, std::numeric_limits<std::int64_t>::max(), 0.1});
  }
  EXPECT_LT(to_request(SendPoints{}, points).ByteSizeLong(), kMessageBytesMax);
  const std::vector<LogLine> lines(kLinesPerBatchMax, {std::numeric_limits<std::int64_t>::max(),
                                                       std::string(kLineBytesMax, 'x')});
  EXPECT_LT(to_request(SendLines{}, lines).ByteSizeLong(), kMessageBytesMax);
}

}  // namespace
}  // namespace bitrung::agent
