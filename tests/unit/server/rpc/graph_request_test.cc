#include "server/rpc/graph_request.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "db/base/status.h"

namespace bitrung::rpc {
namespace {

constexpr char kSpec[] =
    R"({"bits":{"activations":4,"weights":2},"dataset":"synthetic","epochs":3,"kind":"train",)"
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
  ASSERT_EQ(experiment->nodes[1].inputs.size(), 1u);
}

// A job that takes the network of its source, and has no epochs.
constexpr char kQuantizeSpec[] =
    R"({"bits":{"activations":8,"weights":8},"dataset":"synthetic","kind":"quantize",)"
    R"("method":{"activations":"linear","weights":"linear"},"model":"resnet8","numerics":2,"seed":1})";

TEST(ConvertSubmit, SeveralTeachersAndAChoice_AreInputsInTheirOrder) {
  v1::SubmitExperimentRequest request = two_jobs();
  for (const char* name : {"a", "b"}) {
    *request.add_jobs() = request.jobs(0);
    request.mutable_jobs()->rbegin()->set_name(name);
  }
  v1::JobNode& student = *request.mutable_jobs(1);
  v1::JobInput& choice = *student.add_inputs();
  choice.set_role(v1::INPUT_ROLE_TEACHER);
  choice.mutable_choice()->add_job_indices(3);
  choice.mutable_choice()->add_job_indices(2);
  v1::JobInput& outside = *student.add_inputs();
  outside.set_role(v1::INPUT_ROLE_TEACHER);
  outside.set_artifact_sha256(sha256("weights").hex());

  const auto experiment = convert_submit(request);
  ASSERT_TRUE(experiment.ok()) << experiment.status();
  const std::vector<db::InputRow> expected = {
      {InputRole::kTeacher, JobId{0}, std::nullopt},
      {InputRole::kTeacher, JobId{3}, std::nullopt, 1},
      {InputRole::kTeacher, JobId{2}, std::nullopt, 1},
      {InputRole::kTeacher, std::nullopt, sha256("weights")}};
  EXPECT_EQ(experiment->rows[1].inputs, expected);
  EXPECT_EQ(experiment->nodes[1].inputs.at(1).parent, 3u);
  EXPECT_EQ(experiment->nodes[1].inputs.at(1).choice, 1u);

  // A choice of two is another graph than two teachers.
  v1::SubmitExperimentRequest both = request;
  both.mutable_jobs(1)->mutable_inputs(1)->set_job_index(3);
  v1::JobInput& second = *both.mutable_jobs(1)->add_inputs();
  second = both.jobs(1).inputs(0);
  second.set_job_index(2);
  both.mutable_jobs(1)->mutable_inputs()->SwapElements(2, 3);
  ASSERT_TRUE(convert_submit(both).ok());
  EXPECT_NE(convert_submit(both)->graph_sha256, experiment->graph_sha256);
}

TEST(ConvertSubmit, Quantization_HasASourceAndNoEpochs) {
  v1::SubmitExperimentRequest request = two_jobs();
  request.mutable_jobs(1)->set_spec_json(kQuantizeSpec);
  request.mutable_jobs(1)->mutable_inputs(0)->set_role(v1::INPUT_ROLE_SOURCE);
  const auto experiment = convert_submit(request);
  ASSERT_TRUE(experiment.ok()) << experiment.status();
  EXPECT_EQ(experiment->rows[1].epochs, 0u);
  EXPECT_EQ(experiment->rows[1].inputs.at(0).role, InputRole::kSource);
}

TEST(ConvertSubmit, WhiteSpaceAndKeyOrder_DoNotMatter) {
  v1::SubmitExperimentRequest other = two_jobs();
  other.mutable_jobs(0)->set_spec_json(
      R"({ "seed": 18446744073709551615, "model": "resnet8", "numerics": 1, "epochs": 3, "kind": "train",
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

// The options of job 0 with another member, which the server does not read.
std::string spec_with(const std::string& member) {
  std::string spec = two_jobs().jobs(0).spec_json();
  spec.insert(spec.rfind('}'), ",\"extra\":" + member);
  return spec;
}

TEST(ConvertSubmit, OptionsAtTheirLimits_AreAccepted_AndBeyondRefused) {
  v1::SubmitExperimentRequest request = two_jobs();
  const auto with = [&](const std::string& member) {
    request.mutable_jobs(0)->set_spec_json(spec_with(member));
    return convert_submit(request).status();
  };
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(with(nested(31)).ok());  // In the object: 32 levels.
  EXPECT_THAT(with(nested(32)).message(), testing::HasSubstr("nested deeper than 32 levels"));

  const std::size_t frame = spec_with("\"\"").size();
  const auto filled = [&](std::size_t bytes) {
    return "\"" + std::string(bytes - frame, 'x') + "\"";
  };
  EXPECT_TRUE(with(filled(65'536)).ok());
  EXPECT_THAT(with(filled(65'537)).message(),
              testing::HasSubstr("65537 bytes, the limit is 65536"));
}

// The two jobs with a seed that the short way reads.
v1::SubmitExperimentRequest two_plain_jobs() {
  v1::SubmitExperimentRequest request = two_jobs();
  for (v1::JobNode& node : *request.mutable_jobs()) {
    std::string spec = node.spec_json();
    spec.replace(spec.find("18446744073709551615"), 20, "7");
    node.set_spec_json(spec);
  }
  return request;
}

// The same with their options in two parts.
v1::SubmitExperimentRequest two_jobs_that_share() {
  v1::SubmitExperimentRequest request = two_plain_jobs();
  request.add_shared_specs(
      R"({"bits":{"activations":4,"weights":2},"dataset":"synthetic","epochs":3,"kind":"train",)"
      R"("method":{"activations":"pact","weights":"dorefa"},"numerics":1})");
  for (v1::JobNode& node : *request.mutable_jobs()) {
    node.set_spec_json(R"({"model":"resnet8","seed":7})");
    node.set_shared_spec(1);
  }
  return request;
}

TEST(ConvertSubmit, OptionsInTwoParts_AreTheSameOptions) {
  const auto whole = convert_submit(two_plain_jobs());
  const auto parts = convert_submit(two_jobs_that_share());
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_EQ(parts->request_sha256, whole->request_sha256);
  const db::JobSpecRow& row = parts->rows[1];
  EXPECT_EQ(row.spec_sha256, whole->rows[1].spec_sha256);
  EXPECT_EQ(row.method, "dorefa/pact");
  EXPECT_EQ(row.weight_bits, 2u);
  EXPECT_EQ(row.epochs, 3u);
  EXPECT_EQ(row.seed, 7u);
  // Kept in two parts, of which one is there once.
  EXPECT_EQ(row.spec_json, two_jobs_that_share().jobs(1).spec_json());
  EXPECT_EQ(row.shared_spec, parts->rows[0].shared_spec);
  EXPECT_EQ(*row.shared_spec, two_jobs_that_share().shared_specs(0));
}

TEST(ConvertSubmit, PartsThatAreNotCanonical_AreMergedAndWrittenAnew) {
  const auto whole = convert_submit(two_plain_jobs());
  v1::SubmitExperimentRequest request = two_jobs_that_share();
  request.mutable_jobs(0)->set_spec_json(R"({ "seed": 7, "model": "resnet8" })");
  auto experiment = convert_submit(request);
  ASSERT_TRUE(experiment.ok()) << experiment.status();
  EXPECT_EQ(experiment->request_sha256, whole->request_sha256);
  EXPECT_EQ(experiment->rows[0].spec_json, two_plain_jobs().jobs(0).spec_json());
  EXPECT_EQ(experiment->rows[0].shared_spec, nullptr);
  EXPECT_NE(experiment->rows[1].shared_spec, nullptr);

  request.mutable_shared_specs(0)->insert(1, " ");
  experiment = convert_submit(request);
  ASSERT_TRUE(experiment.ok()) << experiment.status();
  EXPECT_EQ(experiment->request_sha256, whole->request_sha256);
  EXPECT_EQ(experiment->rows[1].spec_json, two_plain_jobs().jobs(1).spec_json());
}

TEST(ConvertSubmit, SharedOptionsAtTheirLimits_AreAccepted_AndBeyondRefused) {
  const auto status = [](const std::string& extra, int jobs) {
    v1::SubmitExperimentRequest request = two_jobs_that_share();
    std::string& shared = *request.mutable_shared_specs(0);
    shared.insert(shared.rfind("\"kind\""), "\"extra\":" + extra + ",");
    while (request.jobs_size() < jobs) {
      *request.add_jobs() = request.jobs(0);
      request.mutable_jobs()->rbegin()->set_name(fmt::format("job-{}", request.jobs_size()));
    }
    return convert_submit(request).status();
  };
  const v1::SubmitExperimentRequest plain = two_jobs_that_share();
  const std::size_t own = plain.jobs(0).spec_json().size();
  const std::size_t frame =
      plain.shared_specs(0).size() + std::string_view(R"("extra":"",)").size();
  const auto filled = [&](std::size_t bytes) {
    return "\"" + std::string(bytes - frame, 'x') + "\"";
  };
  EXPECT_TRUE(status(filled(65'536 - own), 2).ok());
  EXPECT_THAT(status(filled(65'537 - own), 2).message(),
              testing::HasSubstr("job \"teacher\": its options have 65537 bytes"));
  EXPECT_THAT(status(filled(65'537), 2).message(),
              testing::HasSubstr("shared_specs 1 has 65537 bytes"));
  EXPECT_THAT(status(std::string(32, '[') + std::string(32, ']'), 2).message(),
              testing::HasSubstr("shared_specs 1 is nested deeper than 32 levels"));

  // 4,096 times 64 KiB are 256 MiB.
  EXPECT_TRUE(status(filled(65'536 - own), 4096).ok());
  EXPECT_THAT(status(filled(65'536 - own), 4097).message(),
              testing::HasSubstr("the options of all jobs have 268500992 bytes together, the "
                                 "limit is 268435456; split the experiment"));
}

TEST(ConvertSubmit, NamesAndTextsAtTheirLimits_AreAccepted_AndBeyondRefused) {
  const auto status = [](const auto& change) {
    v1::SubmitExperimentRequest request = two_jobs();
    change(request);
    return convert_submit(request).status();
  };
  for (const std::size_t over : {0, 1}) {
    const absl::StatusCode code =
        over == 0 ? absl::StatusCode::kOk : absl::StatusCode::kInvalidArgument;
    const std::string name(128 + over, 'x');
    EXPECT_EQ(status([&](auto& r) { r.set_name(name); }).code(), code);
    EXPECT_EQ(status([&](auto& r) { r.mutable_jobs(0)->set_name(name); }).code(), code);
    EXPECT_EQ(status([&](auto& r) { r.mutable_jobs(0)->add_aliases(name); }).code(), code);
    EXPECT_EQ(status([&](auto& r) { r.set_request_id(std::string(64 + over, 'x')); }).code(), code);
    EXPECT_EQ(status([&](auto& r) {
                r.mutable_jobs(0)->set_retries(static_cast<std::uint32_t>(100 + over));
              }).code(),
              code);
    EXPECT_EQ(
        status([&](auto& r) { r.set_source_yaml(std::string((4 << 20) + over, 'x')); }).code(),
        over == 0 ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted);
  }
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
       "nested deeper than 32"},
      {"huge options", [](auto& r) { r.mutable_jobs(0)->set_spec_json(std::string(70'000, ' ')); },
       "the limit is 65536"},
      {"no model", [](auto& r) { r.mutable_jobs(0)->set_spec_json("{}"); }, "\"model\""},
      {"no shared options", [](auto& r) { r.mutable_jobs(0)->set_shared_spec(1); },
       "job \"teacher\": shared_spec 1 is beyond the 0 shared_specs"},
      {"more shared options than jobs",
       [](auto& r) {
         for (int i = 0; i < 3; ++i) r.add_shared_specs("{}");
       },
       "there are 3 shared_specs for 2 jobs"},
      {"an option in both parts",
       [](auto& r) {
         r.add_shared_specs(R"({"seed":7})");
         r.mutable_jobs(1)->set_shared_spec(1);
       },
       "job \"student\": \"seed\" stands in spec_json and in its shared_spec"},
      {"shared options that are none",
       [](auto& r) {
         r.add_shared_specs("[7]");
         r.mutable_jobs(1)->set_shared_spec(1);
       },
       "job \"student\": its shared_spec is no JSON object"},
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
      {"two inits",
       [](auto& r) {
         r.mutable_jobs(1)->mutable_inputs(0)->set_role(v1::INPUT_ROLE_INIT);
         *r.mutable_jobs(1)->add_inputs() = r.jobs(1).inputs(0);
       },
       "more than one input as init"},
      {"choice of nothing", [](auto& r) { r.mutable_jobs(1)->mutable_inputs(0)->mutable_choice(); },
       "best of no jobs"},
      {"choice of one",
       [](auto& r) { r.mutable_jobs(1)->mutable_inputs(0)->mutable_choice()->add_job_indices(0); },
       "out of 1 candidates"},
      {"choice beyond",
       [](auto& r) { r.mutable_jobs(1)->mutable_inputs(0)->mutable_choice()->add_job_indices(7); },
       "job_index 7"},
      {"training with a source",
       [](auto& r) { r.mutable_jobs(1)->mutable_inputs(0)->set_role(v1::INPUT_ROLE_SOURCE); },
       "is trained, but has a source"},
      {"quantization without a source",
       [](auto& r) { r.mutable_jobs(0)->set_spec_json(kQuantizeSpec); }, "has no source"},
      {"kind",
       [](auto& r) {
         std::string spec = kQuantizeSpec;
         spec.replace(spec.find("quantize"), 8, "dance");
         r.mutable_jobs(0)->set_spec_json(spec);
       },
       "its kind is \"dance\""},
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
