#include "server/rpc/graph_request.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <span>
#include <string_view>
#include <system_error>
#include <thread>

#include <fmt/format.h>
#include "absl/container/flat_hash_set.h"

#include "db/base/status.h"
#include "server/core/graph.h"
#include "server/rpc/convert.h"
#include "server/rpc/spec_reader.h"

namespace bitrung::rpc {
namespace {

constexpr std::size_t kSourceBytesMax = std::size_t{4} << 20;
constexpr std::size_t kRequestIdBytesMax = 64;
constexpr std::uint32_t kRetriesMax = 100;
constexpr std::int32_t kPriorityMax = 1000;
// A large graph is converted by several threads.
constexpr int kJobsPerThreadMin = 5000;
constexpr int kThreadsMax = 4;

absl::Status invalid(std::string_view job, std::string_view what) {
  return absl::InvalidArgumentError(fmt::format("job \"{}\": {}", job.substr(0, 128), what));
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

// What a row adds to the digest of its graph, an element of a JSON list: [name, aliases, digest of
// the options, inputs], an input being [role, position or digest] and for candidates the number of
// their choice. Names need no escapes. What only steers the scheduling is left out.
void add_digest_text(const db::JobSpecRow& row, std::string& text) {
  const auto quoted = [&text](std::string_view word) { ((text += '"') += word) += '"'; };
  text += '[';
  quoted(row.name);
  text += ",[";
  for (const std::string& alias : row.aliases) {
    if (&alias != row.aliases.data()) text += ',';
    quoted(alias);
  }
  text += "],";
  quoted(row.spec_sha256.hex());
  text += ",[";
  for (const db::InputRow& input : row.inputs) {
    if (&input != row.inputs.data()) text += ',';
    text += '[';
    quoted(name(input.role));
    text += ',';
    if (input.parent) {
      fmt::format_to(std::back_inserter(text), "{}", number(*input.parent));
    } else {
      quoted(input.artifact->hex());
    }
    if (input.choice != 0) fmt::format_to(std::back_inserter(text), ",{}", input.choice);
    text += ']';
  }
  text += "]]";
}

using Nodes = google::protobuf::RepeatedPtrField<v1::JobNode>;

absl::Status convert_job(const v1::JobNode& node, int job_count, SpecReader& specs,
                         db::JobSpecRow& row, core::NewJob& out) {
  row.name = node.name();
  row.aliases.assign(node.aliases().begin(), node.aliases().end());
  if (!is_valid_name(row.name)) return invalid(row.name, kNameRule);
  for (const std::string& alias : row.aliases) {
    if (!is_valid_name(alias)) return invalid(alias, kNameRule);
  }
  BITRUNG_RETURN_IF_ERROR(read_limits(node));
  BITRUNG_RETURN_IF_ERROR(specs.read(node, row));
  row.retries = node.retries();
  row.timeout_seconds = node.timeout_seconds();
  row.priority = node.priority();
  row.devices = node.devices();
  row.memory_bytes = node.memory_bytes();
  row.estimated_flops = node.estimated_flops();

  BITRUNG_RETURN_IF_ERROR(read_inputs(node, job_count, row, out));
  out.spec = row.spec_sha256;
  out.dataset = row.dataset;
  out.cost_class = core::cost_class(row);
  out.flops = row.estimated_flops;
  out.numerics = row.numerics;
  out.retries = row.retries;
  out.priority = row.priority;
  out.memory_bytes = row.memory_bytes;
  return absl::OkStatus();
}

// Neighbouring jobs, converted by one thread.
struct Piece {
  int begin = 0;
  int end = 0;
  std::string digest_text;
  absl::Status status;  // Of the first job that cannot be taken.

  void convert(const Nodes& jobs, const SharedSpecs& shared, engine::NewExperiment& experiment) {
    SpecReader specs(shared);
    for (int i = begin; i < end && status.ok(); ++i) {
      const auto place = static_cast<std::size_t>(i);
      db::JobSpecRow& row = experiment.rows[place];
      status = convert_job(jobs[i], jobs.size(), specs, row, experiment.nodes[place]);
      if (!status.ok()) return;
      digest_text += i == 0 ? '[' : ',';
      add_digest_text(row, digest_text);
    }
  }
};

std::vector<Piece> pieces_of(int job_count) {
  const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const int count = std::clamp(job_count / kJobsPerThreadMin, 1, std::min(cores, kThreadsMax));
  std::vector<Piece> pieces(static_cast<std::size_t>(count));
  int begin = 0;
  for (Piece& piece : pieces) {
    piece.begin = begin;
    piece.end = begin += (job_count - begin) / static_cast<int>(&pieces.back() - &piece + 1);
  }
  return pieces;
}

absl::Status check_names(const Nodes& jobs) {
  absl::flat_hash_set<std::string_view> names;
  names.reserve(static_cast<std::size_t>(jobs.size()));
  for (const v1::JobNode& node : jobs) {
    if (!names.insert(node.name()).second) return invalid(node.name(), "the name is used twice");
    for (const std::string& alias : node.aliases()) {
      if (!names.insert(alias).second) return invalid(alias, "the name is used twice");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<engine::NewExperiment> convert_graph(
    const google::protobuf::RepeatedPtrField<v1::JobNode>& jobs,
    const google::protobuf::RepeatedPtrField<std::string>& shared_specs) {
  if (jobs.empty()) return absl::InvalidArgumentError("an experiment needs at least one job");
  if (jobs.size() > kJobsPerExperimentMax) {
    return absl::ResourceExhaustedError(
        fmt::format("the experiment has {} jobs, the limit is {}; split it", jobs.size(),
                    kJobsPerExperimentMax));
  }
  BITRUNG_ASSIGN_OR_RETURN(const SharedSpecs shared, SharedSpecs::make(shared_specs, jobs));
  engine::NewExperiment experiment;
  experiment.rows.resize(static_cast<std::size_t>(jobs.size()));
  experiment.nodes.resize(static_cast<std::size_t>(jobs.size()));
  std::vector<Piece> pieces = pieces_of(jobs.size());
  {
    std::vector<std::jthread> threads;
    for (Piece& piece : std::span(pieces).subspan(1)) {
      const auto convert = [&] { piece.convert(jobs, shared, experiment); };
      try {
        threads.emplace_back(convert);
      } catch (const std::system_error&) {  // The system gives no more threads.
        convert();
      }
    }
    pieces.front().convert(jobs, shared, experiment);
  }
  Sha256 digest;  // Equal graphs give equal digests.
  for (const Piece& piece : pieces) {
    BITRUNG_RETURN_IF_ERROR(piece.status);
    digest.update(piece.digest_text);
  }
  digest.update("]");
  experiment.graph_sha256 = digest.finish();
  BITRUNG_RETURN_IF_ERROR(check_names(jobs));
  if (const auto cycle = core::find_cycle(experiment.nodes); !cycle.empty()) {
    std::string text;
    for (const std::uint32_t index : cycle)
      text += fmt::format("{} -> ", experiment.rows[index].name);
    return absl::InvalidArgumentError(
        fmt::format("jobs form a cycle: {}{}", text, experiment.rows[cycle.front()].name));
  }
  BITRUNG_RETURN_IF_ERROR(core::check_graph(experiment.nodes));
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
  BITRUNG_ASSIGN_OR_RETURN(engine::NewExperiment experiment,
                           convert_graph(request.jobs(), request.shared_specs()));
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
