// From an experiment file to a recorded experiment.
#pragma once

#include <filesystem>

#include "absl/status/statusor.h"
#include "bitrung/v1/experiment_service.pb.h"
#include "client/cli/arguments.h"
#include "client/cli/connection.h"
#include "client/experiment/experiment.h"

namespace bitrung::cli {

// The file named by the first positional with the --set overrides.
absl::StatusOr<client::Graph> load_graph(const Arguments& arguments);

// The request without its id.
v1::SubmitExperimentRequest make_submit_request(const client::Graph& graph, bool join_active);

// Uploads the outside files the graph takes, each once.
absl::Status upload_files(Connection& connection, const client::Graph& graph);

// Submits under an id that is on disk before anything is sent: if the answer is lost, the same
// submit to the same server within the next day gets the first one's answer instead of a second
// experiment.
absl::StatusOr<v1::SubmitExperimentResponse> submit_once(
    Connection& connection, v1::SubmitExperimentRequest request,
    const std::filesystem::path& pending_directory);

// "11 jobs, 10 edges, critical path 6"
std::string describe(const client::Graph& graph);

std::size_t edge_count(const client::Graph& graph);

}  // namespace bitrung::cli
