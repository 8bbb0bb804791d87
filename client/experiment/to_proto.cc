#include "client/experiment/to_proto.h"

#include "db/base/check.h"

namespace bitrung::client {
namespace {

v1::InputRole role_of(InputRole role) {
  switch (role) {
    case InputRole::kTeacher:
      return v1::INPUT_ROLE_TEACHER;
    case InputRole::kInit:
      return v1::INPUT_ROLE_INIT;
    case InputRole::kSource:
      return v1::INPUT_ROLE_SOURCE;
  }
  check_failed("an input role without a number", __FILE__, __LINE__);
}

}  // namespace

void to_proto(const Graph& graph, google::protobuf::RepeatedPtrField<v1::JobNode>* nodes) {
  BITRUNG_CHECK(nodes->empty());
  nodes->Reserve(static_cast<int>(graph.jobs.size()));
  for (const Job& job : graph.jobs) {
    v1::JobNode& node = *nodes->Add();
    node.set_name(job.name);
    for (const std::string& alias : job.aliases) node.add_aliases(alias);
    node.set_spec_json(job.spec_json);
    for (const Input& input : job.inputs) {
      v1::JobInput& sent = *node.add_inputs();
      sent.set_role(role_of(input.role));
      if (input.jobs.empty()) {
        sent.set_artifact_sha256(input.file_sha256.value().hex());
      } else if (input.jobs.size() == 1) {
        sent.set_job_index(static_cast<std::uint32_t>(input.jobs.front()));
      } else {
        for (const std::size_t candidate : input.jobs) {
          sent.mutable_choice()->add_job_indices(static_cast<std::uint32_t>(candidate));
        }
      }
    }
    node.set_retries(job.retries);
    node.set_timeout_seconds(job.timeout_seconds);
    node.set_priority(job.priority);
    node.set_devices(job.devices);
    node.set_memory_bytes(job.memory_bytes);
  }
}

}  // namespace bitrung::client
