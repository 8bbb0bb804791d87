#include "server/rpc/graph_request.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <unordered_set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "db/base/status.h"
#include "server/core/graph.h"
#include "server/rpc/convert.h"
#include "server/rpc/json_depth.h"
#include "server/rpc/spec_scan.h"

namespace bitrung::rpc {
namespace {

constexpr std::size_t kSourceBytesMax = std::size_t{4} << 20;
constexpr std::size_t kRequestIdBytesMax = 64;
constexpr std::uint32_t kRetriesMax = 100;
constexpr std::int32_t kPriorityMax = 1000;
constexpr std::size_t kDigestPieceBytes = std::size_t{64} << 10;

absl::Status invalid(std::string_view job, std::string_view what) {
  return absl::InvalidArgumentError(fmt::format("job \"{}\": {}", job.substr(0, 128), what));
}

// A member of a JSON object with the wanted type; nothing otherwise.
template <typename T>
std::optional<T> member(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return std::nullopt;
  if constexpr (std::is_same_v<T, std::string>) {
    if (!found->is_string()) return std::nullopt;
  } else {
    if (!found->is_number_unsigned() || found->get<std::uint64_t>() > std::numeric_limits<T>::max())
      return std::nullopt;
  }
  return found->get<T>();
}

// The short way of read_spec(), for text that is canonical already. False if anything is not as it
// should be: the long way says what, or takes it.
bool read_canonical_spec(const std::string& spec_json, SpecScanner& scanner, db::JobSpecRow& row) {
  const std::vector<SpecScanner::Member>* members = scanner.scan(spec_json);
  if (members == nullptr) return false;
  const auto find = [&](std::string_view parent, std::string_view key) {
    for (const SpecScanner::Member& member : *members) {
      if (member.key == key && member.parent == parent) return member.value;
    }
    return std::string_view();
  };
  const auto text = [&](std::string_view parent, std::string_view key, std::string& out) {
    std::string_view value = find(parent, key);
    if (!value.starts_with('"')) return false;
    value.remove_prefix(1);
    value.remove_suffix(1);
    out = value;
    return true;
  };
  const auto count = [&](std::string_view parent, std::string_view key, auto& out) {
    const std::string_view value = find(parent, key);
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out);
    return error == std::errc() && !value.empty() && end == value.data() + value.size();
  };
  std::string kind;
  std::string weights;
  std::string activations;
  if (!text({}, "model", row.model) || !is_valid_name(row.model) ||
      !text({}, "dataset", row.dataset) || !is_valid_name(row.dataset) || !text({}, "kind", kind) ||
      !count({}, "seed", row.seed) || !count({}, "numerics", row.numerics) ||
      !count("bits", "weights", row.weight_bits) ||
      !count("bits", "activations", row.activation_bits) || !text("method", "weights", weights) ||
      !text("method", "activations", activations)) {
    return false;
  }
  row.epochs = 0;
  if (kind == "train") {
    if (!count({}, "epochs", row.epochs) || row.epochs == 0) return false;
  } else if (kind != "quantize" && kind != "evaluate") {
    return false;
  }
  row.method = weights == activations ? weights : fmt::format("{}/{}", weights, activations);
  row.spec_json = spec_json;
  row.spec_sha256 = sha256(row.spec_json);
  return true;
}

// The headline options, read from the canonical text so that they cannot disagree with it.
absl::Status read_spec(const v1::JobNode& node, SpecScanner& scanner, db::JobSpecRow& row) {
  if (node.spec_json().size() > kSpecBytesMax) {
    return absl::ResourceExhaustedError(
        fmt::format("job \"{}\": its options have {} bytes, the limit is {}", node.name(),
                    node.spec_json().size(), kSpecBytesMax));
  }
  if (read_canonical_spec(node.spec_json(), scanner, row)) return absl::OkStatus();
  row.epochs = 0;
  if (!is_nested_at_most(node.spec_json(), kSpecDepthMax)) {
    return invalid(node.name(),
                   fmt::format("spec_json is nested deeper than {} levels", kSpecDepthMax));
  }
  const nlohmann::json spec =
      nlohmann::json::parse(node.spec_json(), nullptr, /*allow_exceptions=*/false);
  if (!spec.is_object()) return invalid(node.name(), "spec_json is no JSON object");
  const auto text = [&](const char* key, std::string& out) -> absl::Status {
    auto value = member<std::string>(spec, key);
    if (!value || !is_valid_name(*value))
      return invalid(node.name(), fmt::format("spec_json has no valid \"{}\"", key));
    out = *std::move(value);
    return absl::OkStatus();
  };
  const auto count = [&](const nlohmann::json& object, const char* key, auto& out) -> absl::Status {
    const auto value = member<std::remove_reference_t<decltype(out)>>(object, key);
    if (!value) return invalid(node.name(), fmt::format("spec_json has no valid \"{}\"", key));
    out = *value;
    return absl::OkStatus();
  };
  BITRUNG_RETURN_IF_ERROR(text("model", row.model));
  BITRUNG_RETURN_IF_ERROR(text("dataset", row.dataset));
  BITRUNG_RETURN_IF_ERROR(count(spec, "seed", row.seed));
  std::string kind;
  BITRUNG_RETURN_IF_ERROR(text("kind", kind));
  if (kind == "train") {
    BITRUNG_RETURN_IF_ERROR(count(spec, "epochs", row.epochs));
    if (row.epochs == 0) return invalid(node.name(), "spec_json has no valid \"epochs\"");
  } else if (kind != "quantize" && kind != "evaluate") {
    return invalid(node.name(), fmt::format("its kind is \"{}\"; train, quantize and evaluate are "
                                            "allowed",
                                            kind));
  }
  BITRUNG_RETURN_IF_ERROR(count(spec, "numerics", row.numerics));
  const nlohmann::json bits = spec.value("bits", nlohmann::json::object());
  if (!bits.is_object()) return invalid(node.name(), "spec_json has no valid \"bits\"");
  BITRUNG_RETURN_IF_ERROR(count(bits, "weights", row.weight_bits));
  BITRUNG_RETURN_IF_ERROR(count(bits, "activations", row.activation_bits));
  const nlohmann::json method = spec.value("method", nlohmann::json::object());
  if (!method.is_object()) return invalid(node.name(), "spec_json has no valid \"method\"");
  const auto weights = member<std::string>(method, "weights");
  const auto activations = member<std::string>(method, "activations");
  if (!weights || !activations) return invalid(node.name(), "spec_json has no valid \"method\"");
  row.method = *weights == *activations ? *weights : fmt::format("{}/{}", *weights, *activations);
  // Keys sorted and no white space, whatever the client wrote: equal options must be equal text.
  row.spec_json = spec.dump();
  row.spec_sha256 = sha256(row.spec_json);
  return absl::OkStatus();
}

// What is quantized or evaluated has a source, what is trained has none.
absl::Status check_roles(const v1::JobNode& node, const db::JobSpecRow& row) {
  const bool has_source = std::ranges::any_of(
      row.inputs, [](const db::InputRow& input) { return input.role == InputRole::kSource; });
  if (has_source == (row.epochs == 0)) return absl::OkStatus();
  return invalid(node.name(), has_source ? "it is trained, but has a source"
                                         : "it is quantized or evaluated, but has no source");
}

// Adds an input to the row and to the node.
void add_input(const db::InputRow& input, db::JobSpecRow& row, core::NewJob& out) {
  core::NewJob::Input& added = out.inputs.emplace_back();
  added.role = input.role;
  added.artifact = input.artifact;
  added.choice = input.choice;
  if (input.parent) added.parent = static_cast<std::uint32_t>(number(*input.parent));
  row.inputs.push_back(input);
}

absl::Status read_inputs(const v1::JobNode& node, int job_count, db::JobSpecRow& row,
                         core::NewJob& out) {
  std::uint32_t choices = 0;
  const auto check_index = [&](std::uint32_t index) {
    if (index < static_cast<std::uint32_t>(job_count)) return absl::OkStatus();
    return invalid(node.name(),
                   fmt::format("input job_index {} is beyond the {} jobs", index, job_count));
  };
  for (const v1::JobInput& input : node.inputs()) {
    BITRUNG_ASSIGN_OR_RETURN(const InputRole role, from_proto(input.role()));
    switch (input.source_case()) {
      case v1::JobInput::kJobIndex:
        BITRUNG_RETURN_IF_ERROR(check_index(input.job_index()));
        add_input({role, JobId{input.job_index()}, std::nullopt}, row, out);
        continue;
      case v1::JobInput::kArtifactSha256: {
        BITRUNG_ASSIGN_OR_RETURN(const Digest digest,
                                 parse_digest(input.artifact_sha256(), "artifact_sha256"));
        add_input({role, std::nullopt, digest}, row, out);
        continue;
      }
      case v1::JobInput::kChoice:
        ++choices;
        if (input.choice().job_indices().empty()) {
          return invalid(node.name(), "an input is the best of no jobs; name 2 or more");
        }
        for (const std::uint32_t index : input.choice().job_indices()) {
          BITRUNG_RETURN_IF_ERROR(check_index(index));
          add_input({role, JobId{index}, std::nullopt, choices}, row, out);
        }
        continue;
      case v1::JobInput::SOURCE_NOT_SET:
        break;
    }
    return invalid(node.name(), "an input names neither a job nor an artifact");
  }
  return check_roles(node, row);
}

absl::Status read_limits(const v1::JobNode& node) {
  if (node.retries() > kRetriesMax) {
    return invalid(node.name(),
                   fmt::format("retries is {}, the limit is {}", node.retries(), kRetriesMax));
  }
  if (!std::isfinite(node.timeout_seconds()) || node.timeout_seconds() < 0) {
    return invalid(node.name(), fmt::format("timeout_seconds is {}; 0 or more is allowed",
                                            node.timeout_seconds()));
  }
  if (node.priority() < -kPriorityMax || node.priority() > kPriorityMax) {
    return invalid(node.name(), fmt::format("priority is {}; {} to {} are allowed", node.priority(),
                                            -kPriorityMax, kPriorityMax));
  }
  if (node.devices() != 1) {
    return invalid(node.name(),
                   fmt::format("devices is {}; a job trains on 1 device", node.devices()));
  }
  if (!std::isfinite(node.estimated_flops()) || node.estimated_flops() < 0) {
    return invalid(node.name(), "estimated_flops is not a finite number of 0 or more");
  }
  return absl::OkStatus();
}

// Equal graphs give equal digests; what only steers the scheduling is left out. The SHA-256 of a
// JSON list of [name, aliases, digest of the options, inputs], an input being [role, position or
// digest] and for candidates the number of their choice. Names need no escapes.
Digest graph_digest(const engine::NewExperiment& experiment) {
  Sha256 whole;
  std::string text = "[";
  for (const db::JobSpecRow& row : experiment.rows) {
    if (&row != experiment.rows.data()) text += ',';
    fmt::format_to(std::back_inserter(text), "[\"{}\",[", row.name);
    for (const std::string& alias : row.aliases) {
      fmt::format_to(std::back_inserter(text), "{}\"{}\"", &alias == row.aliases.data() ? "" : ",",
                     alias);
    }
    fmt::format_to(std::back_inserter(text), "],\"{}\",[", row.spec_sha256.hex());
    for (const db::InputRow& input : row.inputs) {
      fmt::format_to(std::back_inserter(text), "{}[\"{}\",", &input == row.inputs.data() ? "" : ",",
                     name(input.role));
      if (input.parent) {
        fmt::format_to(std::back_inserter(text), "{}", number(*input.parent));
      } else {
        fmt::format_to(std::back_inserter(text), "\"{}\"", input.artifact->hex());
      }
      if (input.choice != 0) fmt::format_to(std::back_inserter(text), ",{}", input.choice);
      text += ']';
    }
    text += "]]";
    if (text.size() < kDigestPieceBytes) continue;
    whole.update(text);
    text.clear();
  }
  whole.update(text + "]");
  return whole.finish();
}

}  // namespace

absl::StatusOr<engine::NewExperiment> convert_graph(
    const google::protobuf::RepeatedPtrField<v1::JobNode>& jobs) {
  if (jobs.empty()) return absl::InvalidArgumentError("an experiment needs at least one job");
  if (jobs.size() > kJobsPerExperimentMax) {
    return absl::ResourceExhaustedError(
        fmt::format("the experiment has {} jobs, the limit is {}; split it", jobs.size(),
                    kJobsPerExperimentMax));
  }
  engine::NewExperiment experiment;
  experiment.rows.reserve(static_cast<std::size_t>(jobs.size()));
  experiment.nodes.reserve(static_cast<std::size_t>(jobs.size()));
  std::unordered_set<std::string_view> names;
  names.reserve(static_cast<std::size_t>(jobs.size()));
  SpecScanner scanner;
  for (const v1::JobNode& node : jobs) {
    db::JobSpecRow row;
    row.name = node.name();
    row.aliases.assign(node.aliases().begin(), node.aliases().end());
    if (!is_valid_name(row.name)) return invalid(row.name, kNameRule);
    if (!names.insert(node.name()).second) return invalid(row.name, "the name is used twice");
    for (const std::string& alias : node.aliases()) {
      if (!is_valid_name(alias)) return invalid(alias, kNameRule);
      if (!names.insert(alias).second) return invalid(alias, "the name is used twice");
    }
    BITRUNG_RETURN_IF_ERROR(read_limits(node));
    BITRUNG_RETURN_IF_ERROR(read_spec(node, scanner, row));
    row.retries = node.retries();
    row.timeout_seconds = node.timeout_seconds();
    row.priority = node.priority();
    row.devices = node.devices();
    row.memory_bytes = node.memory_bytes();
    row.estimated_flops = node.estimated_flops();

    core::NewJob out;
    BITRUNG_RETURN_IF_ERROR(read_inputs(node, jobs.size(), row, out));
    out.spec = row.spec_sha256;
    out.dataset = row.dataset;
    out.cost_class = core::cost_class(row);
    out.flops = row.estimated_flops;
    out.numerics = row.numerics;
    out.retries = row.retries;
    out.priority = row.priority;
    out.memory_bytes = row.memory_bytes;
    experiment.rows.push_back(std::move(row));
    experiment.nodes.push_back(std::move(out));
  }
  if (const auto cycle = core::find_cycle(experiment.nodes); !cycle.empty()) {
    std::string text;
    for (const std::uint32_t index : cycle)
      text += fmt::format("{} -> ", experiment.rows[index].name);
    return absl::InvalidArgumentError(
        fmt::format("jobs form a cycle: {}{}", text, experiment.rows[cycle.front()].name));
  }
  BITRUNG_RETURN_IF_ERROR(core::check_graph(experiment.nodes));
  experiment.graph_sha256 = graph_digest(experiment);
  return experiment;
}

absl::StatusOr<engine::NewExperiment> convert_submit(const v1::SubmitExperimentRequest& request) {
  if (request.request_id().empty() || request.request_id().size() > kRequestIdBytesMax) {
    return absl::InvalidArgumentError(fmt::format("request_id has {} bytes; 1 to {} are allowed",
                                                  request.request_id().size(), kRequestIdBytesMax));
  }
  if (!is_valid_name(request.name())) {
    return absl::InvalidArgumentError(
        fmt::format("experiment \"{}\": {}", request.name().substr(0, 128), kNameRule));
  }
  if (request.source_yaml().size() > kSourceBytesMax) {
    return absl::ResourceExhaustedError(fmt::format("source_yaml has {} bytes, the limit is {}",
                                                    request.source_yaml().size(), kSourceBytesMax));
  }
  BITRUNG_ASSIGN_OR_RETURN(engine::NewExperiment experiment, convert_graph(request.jobs()));
  experiment.request_id = request.request_id();
  experiment.name = request.name();
  experiment.source_yaml = request.source_yaml();
  experiment.join_active = request.join_active();
  Sha256 whole;
  whole.update(experiment.name);
  whole.update("\n");
  whole.update(experiment.graph_sha256.raw());
  whole.update(experiment.source_yaml);
  experiment.request_sha256 = whole.finish();
  return experiment;
}

}  // namespace bitrung::rpc
