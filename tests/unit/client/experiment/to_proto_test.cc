#include "client/experiment/to_proto.h"

#include "tests/unit/client/experiment/testing.h"
#include "tests/unit/db/base/join_spec.h"

namespace bitrung::client {
namespace {

TEST(ToProto, CarriesEverythingOfTheGraph) {
  Graph graph = graph_of(R"(
experiment: e
jobs:
  start: {model: resnet8}
  student: {model: resnet8, bits: 4, teacher: start, init: start, retries: 5, timeout: 90m, priority: -3,
            resources: {memory: 8GiB}}
  again: {model: resnet8}
)");
  // A file of an outside teacher, without the file.
  graph.jobs[1].inputs[0].jobs.clear();
  graph.jobs[1].inputs[0].file = "/tmp/teacher.safetensors";
  graph.jobs[1].inputs[0].file_sha256 = sha256("teacher");

  google::protobuf::RepeatedPtrField<v1::JobNode> nodes;
  google::protobuf::RepeatedPtrField<std::string> shared;
  to_proto(graph, &nodes, &shared);

  ASSERT_EQ(nodes.size(), 2);
  EXPECT_EQ(nodes[0].name(), "start");
  ASSERT_EQ(nodes[0].aliases_size(), 1);
  EXPECT_EQ(nodes[0].aliases(0), "again");
  EXPECT_EQ(nodes[0].retries(), 2U);
  EXPECT_EQ(nodes[0].inputs_size(), 0);

  const v1::JobNode& student = nodes[1];
  EXPECT_EQ(student.spec_json(), graph.jobs[1].spec_json);  // Nobody else has such options.
  EXPECT_EQ(shared.size(), 0);
  ASSERT_EQ(student.inputs_size(), 2);
  EXPECT_EQ(student.inputs(0).role(), v1::INPUT_ROLE_TEACHER);
  EXPECT_EQ(student.inputs(0).artifact_sha256(), sha256("teacher").hex());
  EXPECT_EQ(student.inputs(1).role(), v1::INPUT_ROLE_INIT);
  EXPECT_EQ(student.inputs(1).source_case(), v1::JobInput::kJobIndex);
  EXPECT_EQ(student.inputs(1).job_index(), 0U);
  EXPECT_EQ(student.retries(), 5U);
  EXPECT_EQ(student.timeout_seconds(), 5400.0);
  EXPECT_EQ(student.priority(), -3);
  EXPECT_EQ(student.devices(), 1U);
  EXPECT_EQ(student.memory_bytes(), 8ULL << 30);
}

TEST(ToProto, ChoicesAndSources_KeepTheirOrder) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  best: {paths: {bits: [32, 8, 4, 2]}, search: best-path}
  small: {quantize: best.bits=32, bits: 8}
  both: {bits: 3, teacher: [small, best.bits=32]}
)");

  google::protobuf::RepeatedPtrField<v1::JobNode> nodes;
  google::protobuf::RepeatedPtrField<std::string> shared;
  to_proto(graph, &nodes, &shared);

  ASSERT_EQ(nodes.size(), 9);
  const v1::JobNode& student = nodes[6];
  EXPECT_EQ(student.name(), "best.bits=2.from=4");
  ASSERT_EQ(student.inputs_size(), 1);
  EXPECT_EQ(student.inputs(0).role(), v1::INPUT_ROLE_TEACHER);
  ASSERT_EQ(student.inputs(0).source_case(), v1::JobInput::kChoice);
  EXPECT_THAT(student.inputs(0).choice().job_indices(), testing::ElementsAre(2, 3));

  ASSERT_EQ(nodes[7].inputs_size(), 1);
  EXPECT_EQ(nodes[7].inputs(0).role(), v1::INPUT_ROLE_SOURCE);
  EXPECT_EQ(nodes[7].inputs(0).job_index(), 0U);

  ASSERT_EQ(nodes[8].inputs_size(), 2);
  EXPECT_EQ(nodes[8].inputs(0).job_index(), 7U);
  EXPECT_EQ(nodes[8].inputs(1).job_index(), 0U);
}

TEST(ToProto, OptionsInCommon_TravelOnceAndAreWholeAgain) {
  const Graph graph = graph_of(R"(
experiment: e
jobs:
  alone: {sweep: {bits: [32, 8, 4, 2], seed: [1, 2, 3]}}
  taught: {bits: 2, teacher: alone.bits=8.seed=1, sweep: {distill.temperature: [2, 4]}}
  small: {quantize: alone.bits=32.seed=1, sweep: {bits: [8, 4]}}
  check: {evaluate: alone.bits=4.seed=1}
)");
  google::protobuf::RepeatedPtrField<v1::JobNode> nodes;
  google::protobuf::RepeatedPtrField<std::string> shared;
  to_proto(graph, &nodes, &shared);

  ASSERT_EQ(static_cast<std::size_t>(nodes.size()), graph.jobs.size());
  std::size_t sent = 0;
  std::size_t whole = 0;
  for (int i = 0; i < nodes.size(); ++i) {
    const std::string& expected = graph.jobs[static_cast<std::size_t>(i)].spec_json;
    sent += nodes[i].spec_json().size();
    whole += expected.size();
    if (nodes[i].shared_spec() == 0) {
      EXPECT_EQ(nodes[i].spec_json(), expected);
      continue;
    }
    ASSERT_LE(nodes[i].shared_spec(), static_cast<std::uint32_t>(shared.size()));
    const auto joined =
        join_spec(shared[static_cast<int>(nodes[i].shared_spec()) - 1], nodes[i].spec_json());
    EXPECT_EQ(joined, expected);
  }
  EXPECT_EQ(nodes[nodes.size() - 1].shared_spec(), 0U);  // The only evaluation.
  EXPECT_EQ(shared.size(), 3);                           // Alone, taught, quantized.
  EXPECT_LT(3 * sent, whole);
}

TEST(ToProto, OptionsThatAreNotCanonical_StayWhole) {
  google::protobuf::RepeatedPtrField<v1::JobNode> nodes;
  google::protobuf::RepeatedPtrField<std::string> shared;
  for (const char* spec : {R"({ "a":1})", R"({ "a":1})", "nothing", R"({"b":1})", R"({"b":2})"}) {
    nodes.Add()->set_spec_json(spec);
  }
  share_specs(&nodes, &shared);
  EXPECT_EQ(shared.size(), 0);
  EXPECT_EQ(nodes[0].spec_json(), R"({ "a":1})");
  EXPECT_EQ(nodes[2].spec_json(), "nothing");
  EXPECT_EQ(nodes[4].spec_json(), R"({"b":2})");  // Nothing in common.
}

}  // namespace
}  // namespace bitrung::client
