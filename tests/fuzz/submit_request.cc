// Any bytes as a SubmitExperimentRequest: one error, or a graph that the core takes.
#include <google/protobuf/stubs/logging.h>

#include "bitrung/v1/experiment_service.pb.h"
#include "db/base/check.h"
#include "db/base/digest.h"
#include "server/core/core.h"
#include "server/core/graph.h"
#include "server/rpc/graph_request.h"
#include "tests/fuzz/target.h"
#include "tests/unit/db/base/join_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // It says that text is not UTF-8.
  [[maybe_unused]] static auto* const quiet = google::protobuf::SetLogHandler(nullptr);
  bitrung::v1::SubmitExperimentRequest request;
  if (!request.ParseFromArray(data, static_cast<int>(size))) return 0;
  const auto experiment = bitrung::rpc::convert_submit(request);
  if (!experiment.ok()) {
    BITRUNG_CHECK(absl::IsInvalidArgument(experiment.status()) ||
                  absl::IsResourceExhausted(experiment.status()));
    BITRUNG_CHECK(!experiment.status().message().empty());
    return 0;
  }
  BITRUNG_CHECK(experiment->rows.size() == experiment->nodes.size());
  BITRUNG_CHECK(bitrung::core::check_graph(experiment->nodes).ok());
  BITRUNG_CHECK(bitrung::core::find_cycle(experiment->nodes).empty());
  // Options in two parts are what their digest says.
  for (const bitrung::db::JobSpecRow& row : experiment->rows) {
    if (!row.shared_spec) continue;
    const auto whole = bitrung::join_spec(*row.shared_spec, row.spec_json);
    BITRUNG_CHECK(whole && bitrung::sha256(*whole) == row.spec_sha256);
  }
  // What is equal once is equal again.
  const auto again = bitrung::rpc::convert_submit(request);
  BITRUNG_CHECK(again.ok() && again->request_sha256 == experiment->request_sha256);
  bitrung::core::Core core({}, {}, {});
  const auto effects = core.step(bitrung::core::Submit{experiment->nodes}, {});
  BITRUNG_CHECK(!effects.empty());
  return 0;
}
