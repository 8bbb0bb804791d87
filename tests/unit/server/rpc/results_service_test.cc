// The services of results on a real store, through gRPC in this process.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bitrung/v1/job_service.grpc.pb.h"
#include "bitrung/v1/results_service.grpc.pb.h"
#include "db/artifacts.h"
#include "db/store.h"
#include "server/engine/engine.h"
#include "server/rpc/services.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::rpc {
namespace {

using db::value_of;
using testing::HasSubstr;

class NoClock final : public engine::Clock {
 public:
  core::Now now() override { return {}; }
};

// study (1): alone and assisted at 4 bits with seeds 1 and 2, all succeeded but the last; alone's
// first has a report, and its twin was cached from it.
class ResultsServiceTest : public testing::Test {
 protected:
  ResultsServiceTest() {
    EXPECT_TRUE(store_->begin().ok());
    EXPECT_TRUE(store_->insert_experiment(db::make_experiment(1, "study")).ok());
    add(1, "alone.bits=4.seed=1", 1, 60);
    add(2, "alone.bits=4.seed=2", 2, 61);
    add(3, "assisted.bits=4.seed=1", 1, 61);
    add(4, "assisted.bits=4.seed=2", 2, 64);
    add(5, "twin", 1, 60, JobId{1});
    EXPECT_TRUE(store_->insert_job(spec(6, "waits", 1), db::make_state(6)).ok());
    EXPECT_TRUE(store_
                    ->insert_report(JobId{1},
                                    R"({"evaluation":{"top5":95,"nll":0.5},"network":{"macs":7}})")
                    .ok());
    EXPECT_TRUE(store_->insert_report(JobId{3}, R"({"evaluation":{"top5":96,"nll":0.25}})").ok());
    EXPECT_TRUE(store_->commit().ok());

    grpc::ServerBuilder builder;
    builder.RegisterService(job_service_.get());
    builder.RegisterService(results_service_.get());
    // The owner of the state directory.
    const std::string socket = "unix:" + (directory_.path() / "s.sock").string();
    builder.AddListeningPort(socket, grpc::InsecureServerCredentials());
    server_ = builder.BuildAndStart();
    const auto channel = grpc::CreateChannel(socket, grpc::InsecureChannelCredentials());
    jobs_ = v1::JobService::NewStub(channel);
    results_ = v1::ResultsService::NewStub(channel);
  }
  ~ResultsServiceTest() override { server_->Shutdown(); }

  static db::JobSpecRow spec(std::int64_t id, const std::string& name, std::uint64_t seed) {
    db::JobSpecRow row = db::make_job(id, 1, name);
    row.seed = seed;
    row.weight_bits = 4;
    row.activation_bits = 4;
    row.spec_json = R"({"optimizer":{"learning_rate":0.1},"seed":1})";
    return row;
  }

  void add(std::int64_t id, const std::string& name, std::uint64_t seed, double accuracy,
           std::optional<JobId> cached_from = std::nullopt) {
    db::JobStateRow state = db::make_state(id, JobState::kSucceeded);
    state.result = db::make_result(accuracy);
    state.cached_from = cached_from;
    EXPECT_TRUE(store_->insert_job(spec(id, name, seed), state).ok());
  }

  grpc::Status get_report(const std::string& job, v1::GetReportResponse& response) {
    grpc::ClientContext context;
    v1::GetReportRequest request;
    request.mutable_job()->set_experiment("study");
    request.mutable_job()->set_job(job);
    return jobs_->GetReport(&context, request, &response);
  }

  grpc::Status get_results(const v1::GetResultsRequest& request, v1::GetResultsResponse& response) {
    grpc::ClientContext context;
    return results_->GetResults(&context, request, &response);
  }

  grpc::Status compare(const std::string& a, const std::string& b, v1::CompareResponse& response) {
    grpc::ClientContext context;
    v1::CompareRequest request;
    request.mutable_a()->set_experiment("1");
    request.mutable_a()->set_job(a);
    request.mutable_b()->set_experiment("study");
    request.mutable_b()->set_job(b);
    return results_->Compare(&context, request, &response);
  }

  db::TemporaryDirectory directory_;
  std::unique_ptr<db::Store> store_ = value_of(db::Store::open(directory_.path()));
  std::unique_ptr<db::StoreReader> reader_ = value_of(db::StoreReader::open(directory_.path()));
  db::ArtifactStore artifacts_ = value_of(db::ArtifactStore::open(directory_.path() / "artifacts"));
  std::unique_ptr<DiskReserve> disk_ = value_of(DiskReserve::open(directory_.path()));
  NoClock clock_;
  engine::Publisher publisher_;
  engine::Engine engine_{*store_, {}, clock_, publisher_, [](const absl::Status&) {}};
  auth::Authority authority_;
  boost::asio::thread_pool pool_{1};
  Context context_{engine_, publisher_, *reader_, artifacts_, *disk_, authority_,
                   pool_,   "test",     1,        {},         {},     0};
  std::unique_ptr<grpc::Service> job_service_ = make_job_service(context_);
  std::unique_ptr<grpc::Service> results_service_ = make_results_service(context_);
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::ResultsService::Stub> results_;
};

TEST_F(ResultsServiceTest, GetReport_FollowsTheCache) {
  v1::GetReportResponse response;
  ASSERT_TRUE(get_report("alone.bits=4.seed=1", response).ok());
  EXPECT_EQ(response.job().name(), "alone.bits=4.seed=1");
  const std::string report = response.report_json();
  EXPECT_THAT(report, HasSubstr(R"("macs":7)"));
  ASSERT_TRUE(get_report("twin", response).ok());
  EXPECT_EQ(response.job().name(), "twin");
  EXPECT_EQ(response.report_json(), report);
}

TEST_F(ResultsServiceTest, GetReport_SaysWhyThereIsNone) {
  v1::GetReportResponse response;
  grpc::Status status = get_report("waits", response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(),
            "waits is ready; a job has a report when it has succeeded: bitrung wait 1");
  status = get_report("alone.bits=4.seed=2", response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("alone.bits=4.seed=2 has no report"));
  status = get_report("alone.bits=8", response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ResultsServiceTest, GetResults_TakesMetricsFromReports) {
  v1::GetResultsRequest request;
  request.set_experiment("study");
  v1::GetResultsResponse response;
  ASSERT_TRUE(get_results(request, response).ok());
  EXPECT_EQ(response.jobs_size(), 6);
  EXPECT_EQ(response.rows(0).cells(1).against_first().difference().mean(), 2);
  request.set_metric("nll");
  response.Clear();
  ASSERT_TRUE(get_results(request, response).ok());
  const v1::ResultsRow& row = response.rows(0);
  EXPECT_EQ(row.cells(0).summary().count(), 1u);
  EXPECT_EQ(row.cells(1).against_first().difference().mean(), -0.25);

  request.set_metric("loss");
  EXPECT_EQ(get_results(request, response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.clear_metric();
  request.add_group_by("learning_rate");
  const grpc::Status status = get_results(request, response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("did you mean optimizer.learning_rate?"));
}

TEST_F(ResultsServiceTest, Compare_ReadsReportsOfBothSides) {
  v1::CompareResponse response;
  ASSERT_TRUE(compare("alone", "assisted", response).ok());
  ASSERT_EQ(response.groups_size(), 1);
  EXPECT_EQ(response.b().label(), "study/assisted");
  EXPECT_EQ(response.groups(0).numbers(0).difference().difference().count(), 2u);
  EXPECT_EQ(response.groups(0).numbers(1).name(), "top5");
  EXPECT_EQ(response.groups(0).numbers(1).difference().difference().mean(), 1);
  EXPECT_EQ(compare("alone", "assistant", response).error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace bitrung::rpc
