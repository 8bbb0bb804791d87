#include "client/cli/submission.h"

#include <fmt/format.h>

#include <chrono>
#include <set>
#include <vector>

#include "client/cli/exit_code.h"
#include "client/cli/text.h"
#include "client/experiment/to_proto.h"
#include "db/base/digest.h"
#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

constexpr std::size_t kRequestIdBytes = 16;
// An id left by a crash long ago must not swallow a submit that is meant anew.
constexpr std::chrono::hours kPendingLifetime{24};

std::string pending_name(const Connection& connection, const v1::SubmitExperimentRequest& request) {
  Sha256 hash;
  hash.update(connection.address());
  hash.update(std::string_view("\0", 1));
  hash.update(request.SerializeAsString());
  return "submit-" + hash.finish().hex().substr(0, 32);
}

}  // namespace

absl::StatusOr<client::Graph> load_graph(const Arguments& arguments) {
  std::vector<client::Override> overrides;
  for (const std::string& text : arguments.values("--set")) {
    BITRUNG_ASSIGN_OR_RETURN(client::Override override, client::parse_override(text));
    overrides.push_back(std::move(override));
  }
  return client::load_experiment(arguments.positionals.front(), overrides);
}

v1::SubmitExperimentRequest make_submit_request(const client::Graph& graph, bool join_active) {
  v1::SubmitExperimentRequest request;
  request.set_name(graph.name);
  request.set_source_yaml(graph.source_yaml);
  request.set_join_active(join_active);
  client::to_proto(graph, request.mutable_jobs(), request.mutable_shared_specs());
  return request;
}

absl::Status upload_files(Connection& connection, const client::Graph& graph) {
  std::set<Digest> done;
  for (const client::Job& job : graph.jobs) {
    for (const client::Input& input : job.inputs) {
      if (!input.file || !input.file_sha256 || !done.insert(*input.file_sha256).second) continue;
      BITRUNG_RETURN_IF_ERROR(connection.upload(*input.file, *input.file_sha256));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::SubmitExperimentResponse> submit_once(
    Connection& connection, v1::SubmitExperimentRequest request,
    const std::filesystem::path& pending_directory) {
  BITRUNG_RETURN_IF_ERROR(local_error(make_directories(pending_directory, 0700)));
  const std::filesystem::path file = pending_directory / pending_name(connection, request);
  std::error_code error;
  const auto written = std::filesystem::last_write_time(file, error);
  const bool fresh =
      !error && std::filesystem::file_time_type::clock::now() - written < kPendingLifetime;
  std::string id;
  if (fresh) {
    if (auto stored = read_file(file, 64); stored.ok()) id = *std::move(stored);
  }
  if (id.size() != 2 * kRequestIdBytes) {
    id = random_hex(kRequestIdBytes);
    BITRUNG_RETURN_IF_ERROR(local_error(write_file_durably(file, id, 0600)));
  }
  request.set_request_id(id);
  absl::StatusOr<v1::SubmitExperimentResponse> response = connection.submit(request);
  // After an answer of any kind the id has served; without one it waits for the next call.
  if (response.ok() || exit_code(response.status()) != ExitCode::kUnreachable) {
    std::filesystem::remove(file, error);
  }
  return response;
}

std::size_t edge_count(const client::Graph& graph) {
  std::size_t edges = 0;
  for (const client::Job& job : graph.jobs) {
    for (const client::Input& input : job.inputs) edges += input.jobs.size();
  }
  return edges;
}

std::string describe(const client::Graph& graph) {
  return fmt::format("{}, {}, critical path {}", format_plural(graph.jobs.size(), "job"),
                     format_plural(edge_count(graph), "edge"), client::critical_path_length(graph));
}

}  // namespace bitrung::cli
