// What a service refuses because of the disk or the history of its state, through gRPC in this
// process, on a real engine and store.
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bitrung/v1/artifact_service.grpc.pb.h"
#include "bitrung/v1/experiment_service.grpc.pb.h"
#include "bitrung/v1/worker_service.grpc.pb.h"
#include "db/artifacts.h"
#include "db/store.h"
#include "server/engine/engine.h"
#include "server/rpc/services.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::rpc {
namespace {

using db::value_of;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::int64_t kTerm = 5;

// Experiment 1 has job 1, whose attempt 2 is with worker w-1.
class RefusalsTest : public testing::Test {
 protected:
  RefusalsTest() {
    EXPECT_TRUE(store_->begin().ok());
    EXPECT_TRUE(store_->insert_experiment(db::make_experiment(1, "study")).ok());
    db::JobStateRow state = db::make_state(1, JobState::kRunning);
    state.attempt = 2;
    state.identity = db::digest_of("identity");
    EXPECT_TRUE(store_->insert_job(db::make_job(1, 1, "job"), state).ok());
    EXPECT_TRUE(store_->insert_pin({ExperimentId{1}, "cifar10", db::digest_of("data")}).ok());
    EXPECT_TRUE(store_->save_attempt(db::make_attempt(1, 1, AttemptState::kLost)).ok());
    EXPECT_TRUE(store_->save_attempt(db::make_attempt(1, 2, AttemptState::kRunning)).ok());
    EXPECT_TRUE(store_->commit().ok());
    EXPECT_TRUE(engine_.load().ok());
    loop_ = std::thread([this] { engine_.run(); });

    grpc::ServerBuilder builder;
    for (const auto& service : services_) builder.RegisterService(service.get());
    // The owner of the state directory.
    const std::string socket = "unix:" + (directory_.path() / "s.sock").string();
    builder.AddListeningPort(socket, grpc::InsecureServerCredentials());
    server_ = builder.BuildAndStart();
    channel_ = grpc::CreateChannel(socket, grpc::InsecureChannelCredentials());
  }
  ~RefusalsTest() override {
    server_->Shutdown();
    engine_.stop();
    loop_.join();
  }

  // Says hello with these attempts of job ids; what came of it: OK with a Welcome.
  grpc::Status hello(std::int64_t term_seen, const std::vector<core::AttemptKey>& held,
                     v1::OpenSessionResponse& response) {
    const auto stub = v1::WorkerService::NewStub(channel_);
    grpc::ClientContext context;
    const auto stream = stub->OpenSession(&context);
    v1::OpenSessionRequest request;
    v1::Hello& hello = *request.mutable_hello();
    hello.set_worker_id("w-1");
    hello.set_name("lab-1");
    hello.set_term_seen(term_seen);
    for (const core::AttemptKey& key : held) {
      hello.add_attempts()->set_job_id(number(key.job));
      hello.mutable_attempts()->rbegin()->set_attempt(key.attempt);
    }
    stream->Write(request);
    const bool answered = stream->Read(&response);
    stream->WritesDone();
    const grpc::Status status = stream->Finish();
    return answered ? grpc::Status::OK : status;
  }

  grpc::Status submit(const std::string& request_id, bool join = false) {
    const auto stub = v1::ExperimentService::NewStub(channel_);
    grpc::ClientContext context;
    v1::SubmitExperimentRequest request;
    request.set_request_id(request_id);
    request.set_name("another");
    request.set_join_active(join);
    v1::JobNode& node = *request.add_jobs();
    node.set_name("job");
    node.set_devices(1);
    node.set_spec_json(
        R"({"bits":{"activations":4,"weights":2},"dataset":"synthetic","epochs":3,"kind":"train",)"
        R"("method":{"activations":"pact","weights":"dorefa"},"model":"resnet8","numerics":1,)"
        R"("seed":1})");
    v1::SubmitExperimentResponse response;
    return stub->SubmitExperiment(&context, request, &response);
  }

  grpc::Status upload(const std::string& bytes) {
    const auto stub = v1::ArtifactService::NewStub(channel_);
    grpc::ClientContext context;
    v1::UploadArtifactResponse response;
    const auto stream = stub->UploadArtifact(&context, &response);
    v1::UploadArtifactRequest request;
    request.set_sha256(sha256(bytes).hex());
    request.set_size_bytes(bytes.size());
    request.set_data(bytes);
    stream->Write(request);
    stream->WritesDone();
    return stream->Finish();
  }

  db::TemporaryDirectory directory_;
  std::unique_ptr<db::Store> store_ = value_of(db::Store::open(directory_.path()));
  std::unique_ptr<db::StoreReader> reader_ = value_of(db::StoreReader::open(directory_.path()));
  db::ArtifactStore artifacts_ = value_of(db::ArtifactStore::open(directory_.path() / "artifacts"));
  std::atomic<std::uint64_t> free_bytes_ = std::uint64_t{10} << 30;
  std::unique_ptr<DiskReserve> disk_ =
      value_of(DiskReserve::open(directory_.path(), [this](const std::filesystem::path&) {
        return DiskReserve::Space{.free = free_bytes_, .total = std::uint64_t{100} << 30};
      }));
  std::unique_ptr<engine::Clock> clock_ = engine::make_system_clock();
  engine::Publisher publisher_;
  engine::Engine engine_{*store_, {.term = kTerm}, *clock_, publisher_, [](const absl::Status&) {}};
  auth::Authority authority_;
  boost::asio::thread_pool pool_{1};
  Context context_{.engine = engine_,
                   .publisher = publisher_,
                   .reader = *reader_,
                   .artifacts = artifacts_,
                   .disk = *disk_,
                   .authority = authority_,
                   .pool = pool_,
                   .version = "test",
                   .term = kTerm};
  std::vector<std::unique_ptr<grpc::Service>> services_ = [this] {
    std::vector<std::unique_ptr<grpc::Service>> services;
    services.push_back(make_artifact_service(context_));
    services.push_back(make_experiment_service(context_));
    services.push_back(make_worker_service(context_));
    return services;
  }();
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::thread loop_;
};

TEST_F(RefusalsTest, AWorkerThatHoldsWhatWasOffered_IsWelcome) {
  v1::OpenSessionResponse response;
  ASSERT_TRUE(hello(kTerm, {{JobId{1}, 2}}, response).ok());
  EXPECT_EQ(response.welcome().kept_size(), 1);
}

TEST_F(RefusalsTest, AWorkerThatHoldsAnOlderAttempt_IsWelcomeAndTheAttemptIsGivenUp) {
  v1::OpenSessionResponse response;
  ASSERT_TRUE(hello(kTerm, {{JobId{1}, 1}}, response).ok());
  EXPECT_EQ(response.welcome().fenced_size(), 1);
}

TEST_F(RefusalsTest, AWorkerThatHoldsWhatWasNeverOffered_IsRefusedBecauseTheStateIsOld) {
  for (const core::AttemptKey& key : {core::AttemptKey{JobId{1}, 3}, {JobId{7}, 1}}) {
    v1::OpenSessionResponse response;
    const grpc::Status status = hello(kTerm, {{JobId{1}, 2}, key}, response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
    EXPECT_THAT(status.error_message(),
                AllOf(HasSubstr("worker lab-1 holds attempt"), HasSubstr("old copy of its state"),
                      HasSubstr("keeps its results")));
  }
}

TEST_F(RefusalsTest, ABatch_IsTakenApartAndAnswered) {
  const auto stub = v1::WorkerService::NewStub(channel_);
  grpc::ClientContext context;
  const auto stream = stub->OpenSession(&context);
  v1::OpenSessionRequest request;
  request.mutable_hello()->set_worker_id("w-1");
  request.mutable_hello()->set_name("lab-1");
  request.mutable_hello()->set_takes_batches(true);
  stream->Write(request);
  v1::OpenSessionResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_TRUE(response.welcome().takes_batches());
  request.Clear();
  for (std::uint64_t sequence : {7, 8})
    request.mutable_batch()->add_statements()->mutable_heartbeat()->set_sequence(sequence);
  stream->Write(request);
  // In one turn of the engine, hence in one message.
  ASSERT_TRUE(stream->Read(&response));
  ASSERT_EQ(response.batch().statements_size(), 2);
  EXPECT_EQ(response.batch().statements(0).heartbeat().sequence(), 7U);
  EXPECT_EQ(response.batch().statements(1).heartbeat().sequence(), 8U);

  request.Clear();
  request.mutable_batch()->add_statements()->mutable_hello()->set_worker_id("w-2");
  stream->Write(request);
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(RefusalsTest, ANewerTerm_IsRefusedBecauseTheStateIsOld) {
  v1::OpenSessionResponse response;
  const grpc::Status status = hello(kTerm + 1, {}, response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_THAT(status.error_message(), HasSubstr("restored from an old backup"));
}

TEST_F(RefusalsTest, AfterARestore_WhatWasOfferedInTheLostHistoryIsGivenUpOnce) {
  context_.restored_term = kTerm - 1;
  v1::OpenSessionResponse response;
  // It has spoken with the state before the restore only.
  ASSERT_TRUE(hello(kTerm - 2, {{JobId{7}, 1}}, response).ok());
  EXPECT_EQ(response.welcome().fenced_size(), 1);
  // This one has been told by the restored server, so that one has forgotten again.
  EXPECT_EQ(hello(kTerm, {{JobId{7}, 1}}, response).error_code(), grpc::StatusCode::ABORTED);
}

TEST_F(RefusalsTest, OnAFullDisk_NewSubmitsAreRefusedAndRecordedOnesAnswered) {
  ASSERT_TRUE(submit("r1").ok());
  free_bytes_ = std::uint64_t{100} << 20;
  const grpc::Status refused = submit("r2");
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(),
              AllOf(HasSubstr("100.0 MiB free"), HasSubstr("below 256.0 MiB no new experiment"),
                    HasSubstr("free 156.0 MiB there")));
  EXPECT_TRUE(submit("r1").ok());
  EXPECT_TRUE(submit("r3", /*join=*/true).ok());
  // Running jobs report: their checkpoints are taken, and their worker is heard.
  EXPECT_TRUE(upload("a checkpoint").ok());
  v1::OpenSessionResponse response;
  EXPECT_TRUE(hello(kTerm, {{JobId{1}, 2}}, response).ok());

  free_bytes_ = std::uint64_t{64} << 20;
  EXPECT_EQ(upload("one too many").error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  free_bytes_ = std::uint64_t{10} << 30;
  EXPECT_TRUE(submit("r2").ok());
  EXPECT_TRUE(upload("one too many").ok());
}

}  // namespace
}  // namespace bitrung::rpc
