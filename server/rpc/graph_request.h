// A submitted graph, checked and turned into the server's own words. Everything that comes from
// outside is checked here, once; what passes is safe for the core and the store.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bitrung/v1/experiment_service.pb.h"
#include "server/engine/engine.h"

namespace bitrung::rpc {

// Largest number of jobs of one experiment, and of inputs over all of them.
inline constexpr int kJobsPerExperimentMax = 100'000;

// rows and nodes of the graph; names, options, inputs and their acyclicity are checked.
// InvalidArgument or ResourceExhausted with the job's name, the value and what is allowed.
absl::StatusOr<engine::NewExperiment> convert_graph(
    const google::protobuf::RepeatedPtrField<v1::JobNode>& jobs,
    const google::protobuf::RepeatedPtrField<std::string>& shared_specs);

// The whole submit.
absl::StatusOr<engine::NewExperiment> convert_submit(const v1::SubmitExperimentRequest& request);

}  // namespace bitrung::rpc
