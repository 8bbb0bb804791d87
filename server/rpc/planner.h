// What a submit would do: which jobs an earlier result would serve, and about how long the others
// take.
#pragma once

#include "absl/status/status.h"
#include "bitrung/v1/experiment_service.pb.h"
#include "db/store.h"
#include "server/engine/engine.h"

namespace bitrung::rpc {

// One entry per job of the experiment, in its order. Reads only.
absl::Status plan(db::StoreReader& reader, const engine::NewExperiment& experiment,
                  v1::PlanExperimentResponse& response);

// "epochs is 3 there, 5 here": the first option, by name, in which two canonical specs differ;
// empty when they are equal. `differences`, if given, receives how many differ.
std::string first_difference(std::string_view spec_there, std::string_view spec_here,
                             std::size_t* differences = nullptr);

}  // namespace bitrung::rpc
