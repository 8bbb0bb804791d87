// The expanded graph as the API takes it. Pure.
#pragma once

#include <string>

#include "bitrung/v1/experiment_service.pb.h"
#include "client/experiment/experiment.h"

namespace bitrung::client {

// Fills the empty `nodes` with one node per job, in the order of the graph, and the empty
// `shared_specs` with the options that many of them have in common.
void to_proto(const Graph& graph, google::protobuf::RepeatedPtrField<v1::JobNode>* nodes,
              google::protobuf::RepeatedPtrField<std::string>* shared_specs);

// The second half of it: moves options that all jobs with the same keys have in common out of the
// nodes. What has no plain canonical text stays where it is.
void share_specs(google::protobuf::RepeatedPtrField<v1::JobNode>* nodes,
                 google::protobuf::RepeatedPtrField<std::string>* shared_specs);

}  // namespace bitrung::client
