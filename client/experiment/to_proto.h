// The expanded graph as the API takes it. Pure.
#pragma once

#include "bitrung/v1/experiment_service.pb.h"
#include "client/experiment/experiment.h"

namespace bitrung::client {

// Fills the empty `nodes` with one node per job, in the order of the graph.
void to_proto(const Graph& graph, google::protobuf::RepeatedPtrField<v1::JobNode>* nodes);

}  // namespace bitrung::client
