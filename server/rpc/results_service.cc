// ResultsService: the table of a study, computed once for everybody.
#include <limits>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "bitrung/v1/results_service.grpc.pb.h"
#include "db/base/status.h"
#include "server/rpc/best_paths.h"
#include "server/rpc/comparison.h"
#include "server/rpc/convert.h"
#include "server/rpc/results_table.h"
#include "server/rpc/services.h"

namespace bitrung::rpc {
namespace {

constexpr std::string_view kGetResults = "bitrung.v1.ResultsService/GetResults";
constexpr std::string_view kCompare = "bitrung.v1.ResultsService/Compare";

constexpr std::size_t kJobsPerSideMax = 1000;

class ResultsServiceImpl final : public v1::ResultsService::CallbackService {
 public:
  explicit ResultsServiceImpl(const Context& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetResults(grpc::CallbackServerContext* call,
                                       const v1::GetResultsRequest* request,
                                       v1::GetResultsResponse* response) override {
    return answer_now(context_, {call, kGetResults}, [this, request, response]() -> absl::Status {
      ResultsQuery query{{request->group_by().begin(), request->group_by().end()}, Metric::kTop1};
      BITRUNG_ASSIGN_OR_RETURN(query.metric, parse_metric(request->metric()));
      BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow experiment,
                               context_.reader.experiment(request->experiment()));
      BITRUNG_ASSIGN_OR_RETURN(
          const auto rows,
          context_.reader.jobs(experiment.id, std::numeric_limits<std::int32_t>::max(), 0));
      BITRUNG_ASSIGN_OR_RETURN(*response->mutable_experiment(),
                               experiment_view(context_, experiment));
      Evaluations evaluations;
      BITRUNG_ASSIGN_OR_RETURN(const auto found, context_.reader.evaluations(experiment.id));
      for (const db::EvaluationRow& row : found) evaluations[row.job] = row;
      for (const db::JobRow& row : rows) {
        v1::Job& job = *response->add_jobs();
        BITRUNG_ASSIGN_OR_RETURN(job, job_view(context_, row));
        if (const auto measured = evaluations.find(row.spec.id); measured != evaluations.end()) {
          job.set_backend(measured->second.backend);
          job.set_backend_reason(measured->second.backend_reason);
        }
      }
      fill_best_paths(rows, *response);
      return fill_results_table(rows, evaluations, query, *response);
    });
  }

  grpc::ServerUnaryReactor* Compare(grpc::CallbackServerContext* call,
                                    const v1::CompareRequest* request,
                                    v1::CompareResponse* response) override {
    return answer_now(context_, {call, kCompare}, [this, request, response]() -> absl::Status {
      std::vector<db::JobRow> rows_a;
      std::vector<db::JobRow> rows_b;
      Reports reports;
      BITRUNG_ASSIGN_OR_RETURN(const ComparedJobs a, read_side(request->a(), rows_a, reports));
      BITRUNG_ASSIGN_OR_RETURN(const ComparedJobs b, read_side(request->b(), rows_b, reports));
      return fill_comparison(a, b, reports, *response);
    });
  }

 private:
  // The jobs of a side, which borrow the rows, and their reports.
  absl::StatusOr<ComparedJobs> read_side(const v1::JobReference& reference,
                                         std::vector<db::JobRow>& rows, Reports& reports) const {
    BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow experiment,
                             context_.reader.experiment(reference.experiment()));
    BITRUNG_ASSIGN_OR_RETURN(
        rows, context_.reader.jobs(experiment.id, std::numeric_limits<std::int32_t>::max(), 0));
    BITRUNG_ASSIGN_OR_RETURN(ComparedJobs side,
                             select_jobs(rows, reference.experiment(), reference.job()));
    if (side.jobs.size() > kJobsPerSideMax) {
      return absl::ResourceExhaustedError(
          fmt::format("{} has {} jobs, the limit of a comparison is {}; name an entry or a job",
                      side.label, side.jobs.size(), kJobsPerSideMax));
    }
    for (const NamedJob& job : side.jobs) {
      BITRUNG_ASSIGN_OR_RETURN(const auto report, context_.reader.report(job.job->spec.id));
      if (report) reports[job.job->spec.id] = nlohmann::json::parse(*report, nullptr, false);
    }
    return side;
  }

  const Context& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_results_service(const Context& context) {
  return std::make_unique<ResultsServiceImpl>(context);
}

}  // namespace bitrung::rpc
