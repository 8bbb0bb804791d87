#include "client/experiment/to_proto.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "db/base/check.h"
#include "db/base/shared_spec.h"

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

using Members = std::vector<SpecMember>;

// Jobs whose options have the same keys, and what all of them say. Owns its texts.
struct Alike {
  std::vector<std::string> texts;  // Of the first one's members, in their order.
  std::vector<bool> is_common;
  std::size_t jobs = 0;
  std::uint32_t place = 0;  // In shared_specs, from 1; 0 when nothing is shared.

  void take(const Members& members) {
    if (++jobs == 1) {
      for (const SpecMember& member : members) texts.emplace_back(member.text);
      is_common.assign(members.size(), true);
    }
    for (std::size_t i = 0; i < members.size(); ++i) {
      if (is_common[i] && texts[i] != members[i].text) is_common[i] = false;
    }
  }
};

// An object of those members that are, or are not, common. text_of(i) is the text of a member.
template <typename TextOf>
std::string object_of(const std::vector<bool>& is_common, bool wanted, TextOf text_of) {
  std::string object(1, '{');
  for (std::size_t i = 0; i < is_common.size(); ++i) {
    if (is_common[i] != wanted) continue;
    if (object.size() > 1) object += ',';
    object += text_of(i);
  }
  return object += '}';
}

}  // namespace

void share_specs(google::protobuf::RepeatedPtrField<v1::JobNode>* nodes,
                 google::protobuf::RepeatedPtrField<std::string>* shared_specs) {
  BITRUNG_CHECK(shared_specs->empty());
  std::unordered_map<std::string, Alike> alike;  // By their keys.
  Members members;
  std::string keys;
  std::span<const std::string> likely;  // Neighbours are alike.
  const auto find = [&](const v1::JobNode& node) -> Alike* {
    if (node.shared_spec() != 0 || !read_members(node.spec_json(), members, likely)) return nullptr;
    keys.clear();
    for (const SpecMember& member : members) (keys += member.key) += '"';
    return &alike[keys];
  };
  for (const v1::JobNode& node : *nodes) {
    Alike* const group = find(node);
    if (group == nullptr) continue;
    group->take(members);
    likely = group->texts;
  }
  for (v1::JobNode& node : *nodes) {
    Alike* const group = find(node);
    if (group == nullptr) continue;
    likely = group->texts;
    if (group->jobs < 2 || std::ranges::count(group->is_common, true) == 0) continue;
    if (group->place == 0) {
      *shared_specs->Add() =
          object_of(group->is_common, true, [&](std::size_t i) { return group->texts[i]; });
      group->place = static_cast<std::uint32_t>(shared_specs->size());
    }
    // Built before it takes the place of what it points into.
    std::string own =
        object_of(group->is_common, false, [&](std::size_t i) { return members[i].text; });
    node.set_spec_json(std::move(own));
    node.set_shared_spec(group->place);
  }
}

void to_proto(const Graph& graph, google::protobuf::RepeatedPtrField<v1::JobNode>* nodes,
              google::protobuf::RepeatedPtrField<std::string>* shared_specs) {
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
  share_specs(nodes, shared_specs);
}

}  // namespace bitrung::client
