// Any text as an experiment file: a graph or one error. The server accepts every graph that the
// client makes.
#include "bitrung/v1/experiment_service.pb.h"
#include "client/experiment/experiment.h"
#include "client/experiment/to_proto.h"
#include "db/base/check.h"
#include "server/rpc/graph_request.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto graph = bitrung::client::parse_experiment(bitrung::fuzz::as_text(data, size),
                                                       "fuzz.yaml", "/nonexistent", {});
  if (!graph.ok()) {
    BITRUNG_CHECK(absl::IsInvalidArgument(graph.status()) || absl::IsNotFound(graph.status()) ||
                  absl::IsResourceExhausted(graph.status()));
    BITRUNG_CHECK(!graph.status().message().empty());
    return 0;
  }
  bitrung::v1::SubmitExperimentRequest request;
  request.set_request_id("r");
  request.set_name(graph->name);
  request.set_source_yaml(graph->source_yaml);
  bitrung::client::to_proto(*graph, request.mutable_jobs(), request.mutable_shared_specs());
  const auto experiment = bitrung::rpc::convert_submit(request);
  BITRUNG_CHECK(experiment.ok());
  BITRUNG_CHECK(experiment->rows.size() == graph->jobs.size());
  return 0;
}
