// ResultsService: the table of a study, computed once for everybody.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bitrung/v1/results_service.grpc.pb.h"
#include "db/base/status.h"
#include "server/rpc/convert.h"
#include "server/rpc/results_table.h"
#include "server/rpc/services.h"

namespace bitrung::rpc {
namespace {

class ResultsServiceImpl final : public v1::ResultsService::CallbackService {
 public:
  explicit ResultsServiceImpl(const Context& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetResults(grpc::CallbackServerContext* call,
                                       const v1::GetResultsRequest* request,
                                       v1::GetResultsResponse* response) override {
    return answer_now(context_, call, [this, request, response]() -> absl::Status {
      BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow experiment,
                               context_.reader.experiment(request->experiment()));
      BITRUNG_ASSIGN_OR_RETURN(
          const auto rows,
          context_.reader.jobs(experiment.id, std::numeric_limits<std::int32_t>::max(), 0));
      BITRUNG_ASSIGN_OR_RETURN(*response->mutable_experiment(),
                               experiment_view(context_, experiment));
      for (const db::JobRow& row : rows) {
        BITRUNG_ASSIGN_OR_RETURN(*response->add_jobs(), job_view(context_, row));
      }
      fill_results_table(rows, *response);
      return absl::OkStatus();
    });
  }

 private:
  const Context& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_results_service(const Context& context) {
  return std::make_unique<ResultsServiceImpl>(context);
}

}  // namespace bitrung::rpc
