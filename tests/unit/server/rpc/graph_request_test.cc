#include "server/rpc/graph_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "db/base/status.h"

namespace bitrung::rpc {
namespace {

constexpr char kSpec[] =
    R"({"bits":{"activations":4,"weights":2},"dataset":"synthetic","epochs":3,)"
    R"("method":{"activations":"pact","weights":"dorefa"},"model":"resnet8","numerics":1,"seed":18446744073709551615})";

// teacher ── student
v1::SubmitExperimentRequest two_jobs() {
  v1::SubmitExperimentRequest request;
  request.set_request_id("r1");
  request.set_name("two");
  for (const char* name : {"teacher", "student"}) {
    v1::JobNode& node = *request.add_jobs();
    node.set_name(name);
    node.set_spec_json(kSpec);
    node.set_devices(1);
  }
  v1::JobInput& input = *request.mutable_jobs(1)->add_inputs();
  input.set_role(v1::INPUT_ROLE_TEACHER);
  input.set_job_index(0);
  return request;
}

TEST(ConvertSubmit, Headline_IsReadFromTheOptions) {
  const auto experiment = convert_submit(two_jobs());
  ASSERT_TRUE(experiment.ok()) << experiment.status();
  const db::JobSpecRow& row = experiment->rows[0];
  EXPECT_EQ(row.method, "dorefa/pact");
  EXPECT_EQ(row.weight_bits, 2u);
  EXPECT_EQ(row.activation_bits, 4u);
  EXPECT_EQ(row.seed, 18446744073709551615u);
  EXPECT_EQ(row.spec_json, kSpec);
  ASSERT_EQ(experiment->nodes[1].parents.size(), 1u);
}

TEST(ConvertSubmit, WhiteSpaceAndKeyOrder_DoNotMatter) {
  v1::SubmitExperimentRequest other = two_jobs();
  other.mutable_jobs(0)->set_spec_json(
      R"({ "seed": 18446744073709551615, "model": "resnet8", "numerics": 1, "epochs": 3,
      "method": {"weights": "dorefa", "activations": "pact"}, "dataset": "synthetic",
      "bits": {"weights": 2, "activations": 4} })");
  const auto first = convert_submit(two_jobs());
  const auto second = convert_submit(other);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(first->graph_sha256, second->graph_sha256);
}

TEST(ConvertSubmit, SchedulingOptions_AreNotPartOfTheGraph) {
  v1::SubmitExperimentRequest other = two_jobs();
  other.mutable_jobs(0)->set_priority(5);
  other.mutable_jobs(0)->set_retries(7);
  EXPECT_EQ(convert_submit(two_jobs())->graph_sha256, convert_submit(other)->graph_sha256);
  other.mutable_jobs(0)->add_aliases("also");
  EXPECT_NE(convert_submit(two_jobs())->graph_sha256, convert_submit(other)->graph_sha256);
}

struct Hostile {
  const char* what;
  void (*spoil)(v1::SubmitExperimentRequest&);
  const char* words;
};

TEST(ConvertSubmit, HostileRequests_AreRefusedWithTheReason) {
  const Hostile cases[] = {
      {"no jobs", [](auto& r) { r.clear_jobs(); }, "at least one job"},
      {"no request id", [](auto& r) { r.clear_request_id(); }, "request_id"},
      {"long request id", [](auto& r) { r.set_request_id(std::string(65, 'x')); }, "65"},
      {"bad name", [](auto& r) { r.set_name("a/b"); }, "a/b"},
      {"bad job name", [](auto& r) { r.mutable_jobs(0)->set_name("../x"); }, "../x"},
      {"name twice", [](auto& r) { r.mutable_jobs(0)->set_name("student"); }, "used twice"},
      {"alias of another", [](auto& r) { r.mutable_jobs(0)->add_aliases("student"); },
       "used twice"},
      {"no JSON", [](auto& r) { r.mutable_jobs(0)->set_spec_json("{"); }, "no JSON object"},
      {"deep JSON", [](auto& r) { r.mutable_jobs(0)->set_spec_json(std::string(60'000, '[')); },
       "no JSON object"},
      {"huge options", [](auto& r) { r.mutable_jobs(0)->set_spec_json(std::string(70'000, ' ')); },
       "the limit is 65536"},
      {"no model", [](auto& r) { r.mutable_jobs(0)->set_spec_json("{}"); }, "\"model\""},
      {"retries", [](auto& r) { r.mutable_jobs(0)->set_retries(101); }, "the limit is 100"},
      {"timeout", [](auto& r) { r.mutable_jobs(0)->set_timeout_seconds(-1); }, "timeout_seconds"},
      {"timeout NaN",
       [](auto& r) {
         r.mutable_jobs(0)->set_timeout_seconds(std::numeric_limits<double>::quiet_NaN());
       },
       "timeout"},
      {"priority", [](auto& r) { r.mutable_jobs(0)->set_priority(1001); }, "1001"},
      {"devices", [](auto& r) { r.mutable_jobs(0)->set_devices(2); }, "devices is 2"},
      {"index", [](auto& r) { r.mutable_jobs(1)->mutable_inputs(0)->set_job_index(2); },
       "job_index 2"},
      {"role",
       [](auto& r) { r.mutable_jobs(1)->mutable_inputs(0)->set_role(v1::INPUT_ROLE_UNSPECIFIED); },
       "role"},
      {"no source", [](auto& r) { r.mutable_jobs(1)->mutable_inputs(0)->clear_job_index(); },
       "neither"},
      {"digest", [](auto& r) { r.mutable_jobs(1)->mutable_inputs(0)->set_artifact_sha256("xyz"); },
       "64 hex digits"},
      {"two teachers", [](auto& r) { *r.mutable_jobs(1)->add_inputs() = r.jobs(1).inputs(0); }, ""},
      {"itself", [](auto& r) { r.mutable_jobs(1)->mutable_inputs(0)->set_job_index(1); }, ""},
      {"cycle",
       [](auto& r) {
         v1::JobInput& input = *r.mutable_jobs(0)->add_inputs();
         input.set_role(v1::INPUT_ROLE_TEACHER);
         input.set_job_index(1);
       },
       "jobs form a cycle"},
  };
  for (const Hostile& hostile : cases) {
    v1::SubmitExperimentRequest request = two_jobs();
    hostile.spoil(request);
    const auto converted = convert_submit(request);
    ASSERT_FALSE(converted.ok()) << hostile.what;
    EXPECT_THAT(std::string(message(converted.status())), testing::HasSubstr(hostile.words))
        << hostile.what;
  }
}

}  // namespace
}  // namespace bitrung::rpc
