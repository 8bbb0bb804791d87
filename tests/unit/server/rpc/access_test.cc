// Who may call what, through TLS to a server in this process with real services, engine and store.
#include <fstream>
#include <future>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "bitrung/v1/access_service.grpc.pb.h"
#include "bitrung/v1/artifact_service.grpc.pb.h"
#include "bitrung/v1/experiment_service.grpc.pb.h"
#include "bitrung/v1/fleet_service.grpc.pb.h"
#include "bitrung/v1/worker_service.grpc.pb.h"
#include "db/artifacts.h"
#include "db/base/certificates.h"
#include "db/base/secret.h"
#include "db/base/tls13.h"
#include "db/store.h"
#include "server/auth/access_control.h"
#include "server/auth/authority.h"
#include "server/engine/engine.h"
#include "server/rpc/services.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::rpc {
namespace {

using auth::Role;
using db::value_of;
using grpc::StatusCode;
using testing::AllOf;
using testing::AnyOf;
using testing::Contains;
using testing::Field;
using testing::HasSubstr;

const std::string kWorkerId(32, 'a');

// All services of the API, by their full names.
std::vector<const google::protobuf::ServiceDescriptor*> all_services() {
  std::vector<const google::protobuf::ServiceDescriptor*> services;
  const auto* const pool = google::protobuf::DescriptorPool::generated_pool();
  for (const char* file :
       {"access", "artifact", "experiment", "fleet", "job", "results", "worker"}) {
    const auto* const found =
        pool->FindFileByName("bitrung/v1/" + std::string(file) + "_service.proto");
    if (found == nullptr) std::abort();
    for (int i = 0; i < found->service_count(); ++i) services.push_back(found->service(i));
  }
  return services;
}

// What a client shows.
struct Login {
  std::string token;
  std::string certificate;
  std::string key;
};

Login with_token(std::string text) {
  Login login;
  login.token = std::move(text);
  return login;
}

class AccessTest : public testing::Test {
 protected:
  AccessTest() {
    require_tls13();
    EXPECT_OK(store_->begin());
    db::ExperimentRow row = db::make_experiment(1, "study");
    row.submitted_by = "anna";
    EXPECT_OK(store_->insert_experiment(row));
    db::JobSpecRow job = db::make_job(1, 1, "job");
    job.inputs.push_back({InputRole::kTeacher, std::nullopt, store_artifact("teacher")});
    EXPECT_OK(store_->insert_job(job, db::make_state(1, JobState::kReady)));
    EXPECT_OK(store_->commit());
    EXPECT_OK(engine_.load());
    loop_ = std::thread([this] { engine_.run(); });
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    for (const auto& service : services_) builder.RegisterService(service.get());
    builder.AddListeningPort("127.0.0.1:0", auth::make_server_credentials(identity_, authority_),
                             &port_);
    builder.AddListeningPort("unix:" + socket_, grpc::InsecureServerCredentials());
    server_ = builder.BuildAndStart();
  }
  ~AccessTest() override {
    server_->Shutdown();
    engine_.stop();
    loop_.join();
  }

  std::string token(const std::string& name, Role role, std::chrono::seconds lifetime = {}) {
    return value_of(access_->create_token(name, auth::name(role), lifetime, "test")).text;
  }

  // A worker's key and certificate.
  Login enrol(const std::string& name, const std::string& worker_id = kWorkerId) {
    Login login;
    login.key = value_of(make_private_key());
    v1::EnrolWorkerRequest request;
    request.set_token(value_of(access_->create_enrolment(name, "test")).text);
    request.set_worker_id(worker_id);
    request.set_certificate_request_pem(value_of(make_certificate_request(login.key)));
    v1::EnrolWorkerResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        v1::AccessService::NewStub(channel({}))->EnrolWorker(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.worker(), name);
    login.certificate = response.certificate_pem();
    return login;
  }

  std::shared_ptr<grpc::Channel> channel(const Login& login) {
    grpc::SslCredentialsOptions tls;
    tls.pem_root_certs = identity_.authority_pem;
    tls.pem_private_key = login.key;
    tls.pem_cert_chain = login.certificate;
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port_),
                                     grpc::SslCredentials(tls), arguments);
  }
  std::shared_ptr<grpc::Channel> owner() {
    return grpc::CreateChannel("unix:" + socket_, grpc::InsecureChannelCredentials());
  }

  static std::unique_ptr<grpc::ClientContext> context_of(const Login& login) {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    if (!login.token.empty()) context->AddMetadata("authorization", "Bearer " + login.token);
    return context;
  }

  Digest store_artifact(std::string_view bytes) {
    const Digest digest = sha256(bytes);
    const auto upload = value_of(artifacts_.begin(digest, bytes.size(), 0));
    EXPECT_OK(upload->append(bytes));
    EXPECT_OK(upload->commit());
    return digest;
  }
  grpc::Status download(const Login& login, const Digest& artifact, std::string* bytes = nullptr) {
    v1::DownloadArtifactRequest request;
    request.set_sha256(artifact.hex());
    const auto context = context_of(login);
    const auto stream =
        v1::ArtifactService::NewStub(channel(login))->DownloadArtifact(context.get(), request);
    v1::DownloadArtifactResponse piece;
    while (stream->Read(&piece)) {
      if (bytes != nullptr) *bytes += piece.data();
    }
    return stream->Finish();
  }

  // Calls the method with one empty message.
  grpc::Status call(const std::shared_ptr<grpc::Channel>& channel, const Login& login,
                    const std::string& method) {
    grpc::GenericStub stub(channel);
    const auto context = context_of(login);
    grpc::CompletionQueue queue;
    const auto stream = stub.PrepareCall(context.get(), "/" + method, &queue);
    const auto await = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      queue.Next(&tag, &ok);
      return ok;
    };
    stream->StartCall(nullptr);
    await();
    grpc::Slice nothing;
    stream->WriteLast(grpc::ByteBuffer(&nothing, 1), {}, nullptr);
    await();
    grpc::ByteBuffer answer;
    stream->Read(&answer, nullptr);
    while (await()) {
      if (method == "grpc.health.v1.Health/Watch") context->TryCancel();  // It would go on.
      stream->Read(&answer, nullptr);
    }
    grpc::Status status;
    stream->Finish(&status, nullptr);
    await();
    queue.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue.Next(&tag, &ok)) {
    }
    return status;
  }
  grpc::Status call(const Login& login, const std::string& method) {
    return call(channel(login), login, method);
  }

  grpc::Status cancel(const Login& login) {
    v1::CancelExperimentRequest request;
    request.set_experiment("study");
    v1::CancelExperimentResponse response;
    return v1::ExperimentService::NewStub(channel(login))
        ->CancelExperiment(context_of(login).get(), request, &response);
  }

  // Opens a session and says hello; the status with which it ends, or OK if it is welcomed.
  grpc::Status hello(const Login& login, const std::string& worker_id, std::string name) {
    const auto context = context_of(login);
    const auto stream = v1::WorkerService::NewStub(channel(login))->OpenSession(context.get());
    v1::OpenSessionRequest request;
    request.mutable_hello()->set_worker_id(worker_id);
    request.mutable_hello()->set_name(std::move(name));
    stream->Write(request);
    v1::OpenSessionResponse response;
    const bool welcomed = stream->Read(&response);
    stream->WritesDone();
    const grpc::Status status = stream->Finish();
    return welcomed ? grpc::Status::OK : status;
  }

  db::TemporaryDirectory directory_;
  std::string socket_ = (directory_.path() / "s.sock").string();
  const auth::NewToken admin_ = value_of(
      auth::make_authority(directory_.path(), "lab:7420", {"127.0.0.1"}, auth::system_clocks()));
  std::unique_ptr<auth::AccessControl> access_ =
      value_of(auth::AccessControl::open(directory_.path(), auth::system_clocks(), nullptr));
  const auth::ServerIdentity identity_ =
      value_of(auth::load_server_identity(directory_.path(), auth::system_clocks()));
  auth::Authority authority_{access_.get()};
  std::unique_ptr<db::Store> store_ = value_of(db::Store::open(directory_.path()));
  std::unique_ptr<db::StoreReader> reader_ = value_of(db::StoreReader::open(directory_.path()));
  db::ArtifactStore artifacts_ = value_of(db::ArtifactStore::open(directory_.path() / "artifacts"));
  std::unique_ptr<DiskReserve> disk_ = value_of(DiskReserve::open(directory_.path()));
  std::unique_ptr<engine::Clock> clock_ = engine::make_system_clock();
  engine::Publisher publisher_;
  engine::Engine engine_{*store_, {.term = 1}, *clock_, publisher_, [](const absl::Status&) {}};
  boost::asio::thread_pool pool_{1};
  Context context_{.engine = engine_,
                   .publisher = publisher_,
                   .reader = *reader_,
                   .artifacts = artifacts_,
                   .disk = *disk_,
                   .authority = authority_,
                   .pool = pool_,
                   .version = "test",
                   .term = 1};
  std::vector<std::unique_ptr<grpc::Service>> services_ = [this] {
    std::vector<std::unique_ptr<grpc::Service>> services;
    services.push_back(make_access_service(context_));
    services.push_back(make_artifact_service(context_));
    services.push_back(make_experiment_service(context_));
    services.push_back(make_fleet_service(context_));
    services.push_back(make_job_service(context_));
    services.push_back(make_results_service(context_));
    services.push_back(make_worker_service(context_));
    return services;
  }();
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::thread loop_;
};

TEST(Permissions, EveryMethodHasOneRow_AndEveryRowAMethod) {
  std::set<std::string> methods;
  for (const auto* service : all_services()) {
    for (int i = 0; i < service->method_count(); ++i)
      methods.insert(service->full_name() + "/" + service->method(i)->name());
  }
  for (const std::string& method : methods)
    EXPECT_NE(auth::find_permission(method), nullptr) << method << " has no row";
  std::set<std::string_view> rows;
  for (const auth::Permission& row : auth::permissions()) {
    EXPECT_TRUE(rows.insert(row.method).second) << row.method << " has two rows";
    if (row.method.starts_with("bitrung.")) {
      EXPECT_TRUE(methods.contains(std::string(row.method))) << row.method << " is no method";
    }
    EXPECT_TRUE(row.least || row.worker || row.anyone) << row.method << " is for nobody";
  }
  EXPECT_EQ(auth::find_permission("bitrung.v1.JobService/Nonsense"), nullptr);
}

TEST_F(AccessTest, EachRole_MayCallWhatTheTableSays_AndNothingElse) {
  struct Someone {
    std::optional<Role> role;  // Nobody without.
    Login login;
  };
  std::vector<Someone> everyone{{Role::kWorker, enrol("gpu1")}, {{}, {}}};
  for (const Role role : {Role::kViewer, Role::kSubmitter, Role::kOperator, Role::kAdmin})
    everyone.push_back({role, with_token(token(std::string(auth::name(role)), role))});
  for (const Someone& someone : everyone) {
    const auto connection = channel(someone.login);
    for (const auth::Permission& row : auth::permissions()) {
      const grpc::Status status = call(connection, someone.login, std::string(row.method));
      const std::string what = fmt::format(
          "{} as {}: {} {}", row.method, someone.role ? auth::name(*someone.role) : "nobody",
          static_cast<int>(status.error_code()), status.error_message());
      if (row.anyone) {
        EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << what;
      } else if (!someone.role) {
        EXPECT_THAT(status.error_code(),
                    AnyOf(StatusCode::UNAUTHENTICATED, StatusCode::RESOURCE_EXHAUSTED))
            << what;
      } else if (*someone.role == Role::kWorker ? row.worker
                                                : row.least && *someone.role >= *row.least) {
        EXPECT_NE(status.error_code(), StatusCode::UNAUTHENTICATED) << what;
        EXPECT_NE(status.error_code(), StatusCode::PERMISSION_DENIED) << what;
      } else {
        EXPECT_EQ(status.error_code(), StatusCode::PERMISSION_DENIED) << what;
        EXPECT_THAT(status.error_message(), HasSubstr(" wants ")) << what;
      }
    }
  }
}

TEST_F(AccessTest, AMethodWithoutARow_IsRefusedBeforeAnyService) {
  const Login admin = with_token(admin_.text);
  EXPECT_EQ(call(admin, "bitrung.v1.JobService/Nonsense").error_code(),
            StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(call(admin, "other.Service/Method").error_code(), StatusCode::PERMISSION_DENIED);
}

TEST_F(AccessTest, TheOwner_MayDoEverything_ThroughTheSocket) {
  const auto connection = owner();
  for (const char* method :
       {"bitrung.v1.AccessService/ListTokens", "bitrung.v1.FleetService/ListWorkers",
        "bitrung.v1.AccessService/WhoAmI"}) {
    const grpc::Status status = call(connection, {}, method);
    EXPECT_TRUE(status.ok()) << method << ": " << status.error_message();
  }
}

TEST_F(AccessTest, Tokens_AreRefusedWhenWrongRevokedOrExpired) {
  const std::string text = token("anna", Role::kViewer);
  const std::string method = "bitrung.v1.AccessService/WhoAmI";
  EXPECT_TRUE(call(with_token(text), method).ok());

  std::string wrong = text;
  wrong.back() = wrong.back() == '0' ? '1' : '0';
  for (const std::string& bad : {wrong, std::string("nonsense"), make_secret().text}) {
    const grpc::Status status = call(with_token(bad), method);
    EXPECT_EQ(status.error_code(), StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(status.error_message().find(bad), std::string::npos);
  }
  ASSERT_OK(access_->revoke_token(parse_secret(text)->id));
  EXPECT_THAT(call(with_token(text), method).error_message(), HasSubstr("revoked"));
}

TEST_F(AccessTest, ARevokedToken_EndsItsStreamsWithTheNextMessage) {
  const Login anna = with_token(token("anna", Role::kViewer));
  const auto context = context_of(anna);
  v1::WatchExperimentRequest request;
  request.set_experiment("study");
  const auto stub = v1::ExperimentService::NewStub(channel(anna));
  const auto stream = stub->WatchExperiment(context.get(), request);
  v1::WatchExperimentResponse response;
  ASSERT_TRUE(stream->Read(&response));
  ASSERT_OK(access_->revoke_token(parse_secret(anna.token)->id));
  EXPECT_TRUE(cancel(with_token(admin_.text)).ok());  // Something to say.
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::UNAUTHENTICATED);
}

TEST_F(AccessTest, ASubmitter_CancelsItsOwnExperimentsOnly) {
  const grpc::Status others = cancel(with_token(token("berta", Role::kSubmitter)));
  EXPECT_EQ(others.error_code(), StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(others.error_message(), HasSubstr("was submitted by anna"));
  EXPECT_TRUE(cancel(with_token(token("anna", Role::kSubmitter))).ok());
  EXPECT_TRUE(cancel(with_token(token("carl", Role::kOperator))).ok());
}

TEST_F(AccessTest, AnEnrolment_IsGoodForOneWorker) {
  const auth::NewEnrolment enrolment = value_of(access_->create_enrolment("gpu1", "test"));
  const std::string key = value_of(make_private_key());
  const std::string request = value_of(make_certificate_request(key));
  EXPECT_TRUE(absl::IsInvalidArgument(access_->enrol(enrolment.text, "short", request).status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(access_->enrol(enrolment.text, kWorkerId, "nonsense").status()));
  ASSERT_OK(access_->enrol(enrolment.text, kWorkerId, request));
  const absl::Status again = access_->enrol(enrolment.text, kWorkerId, request).status();
  EXPECT_TRUE(absl::IsUnauthenticated(again)) << again;
  EXPECT_TRUE(
      absl::IsUnauthenticated(access_->enrol(make_secret().text, kWorkerId, request).status()));
}

TEST_F(AccessTest, AWorker_IsKnownByItsCertificate_UntilThatIsRevoked) {
  const Login worker = enrol("gpu1");
  EXPECT_TRUE(hello(worker, kWorkerId, "another name").ok());
  std::promise<std::vector<core::WorkerInfo>> known;
  engine_.workers([&](absl::StatusOr<std::vector<core::WorkerInfo>> workers) {
    known.set_value(*std::move(workers));
  });
  EXPECT_THAT(known.get_future().get(), Contains(Field(&core::WorkerInfo::name, "gpu1")));

  const grpc::Status stolen = hello(worker, std::string(32, 'b'), "gpu1");
  EXPECT_EQ(stolen.error_code(), StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(stolen.error_message(), HasSubstr("is for id"));
  EXPECT_EQ(*access_->revoke_worker("gpu1"), 1u);
  EXPECT_EQ(*access_->revoke_worker(kWorkerId), 0u);
  EXPECT_EQ(hello(worker, kWorkerId, "gpu1").error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(absl::IsNotFound(access_->revoke_worker("nobody").status()));
}

TEST_F(AccessTest, ARevokedWorker_IsToldWithItsNextStatement) {
  const Login worker = enrol("gpu1");
  const auto context = context_of(worker);
  const auto stream = v1::WorkerService::NewStub(channel(worker))->OpenSession(context.get());
  v1::OpenSessionRequest request;
  request.mutable_hello()->set_worker_id(kWorkerId);
  request.mutable_hello()->set_name("gpu1");
  stream->Write(request);
  v1::OpenSessionResponse response;
  ASSERT_TRUE(stream->Read(&response));
  ASSERT_OK(access_->revoke_worker("gpu1"));
  request.Clear();
  request.mutable_heartbeat()->set_sequence(1);
  stream->Write(request);
  while (stream->Read(&response)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::UNAUTHENTICATED);
}

TEST_F(AccessTest, AWorker_FetchesWhatItsAttemptsWereGiven_AndNothingElse) {
  const Digest teacher = sha256("teacher");
  const Digest other = store_artifact("of another study");
  const Login worker = enrol("gpu1");
  EXPECT_EQ(download(worker, teacher).error_code(), StatusCode::PERMISSION_DENIED);

  const auto context = context_of(worker);
  const auto session = v1::WorkerService::NewStub(channel(worker))->OpenSession(context.get());
  v1::OpenSessionRequest request;
  request.mutable_hello()->set_worker_id(kWorkerId);
  request.mutable_hello()->set_name("gpu1");
  v1::Slot& slot = *request.mutable_hello()->add_slots();
  slot.set_device("cpu");
  slot.set_threads(1);
  v1::Dataset& dataset = *request.mutable_hello()->add_datasets();
  dataset.set_name("cifar10");
  dataset.set_sha256(sha256("cifar10").hex());
  session->Write(request);
  v1::OpenSessionResponse response;
  while (session->Read(&response) && !response.has_offer()) {
  }
  ASSERT_TRUE(response.has_offer());

  std::string bytes;
  EXPECT_TRUE(download(worker, teacher, &bytes).ok());
  EXPECT_EQ(bytes, "teacher");
  const grpc::Status refused = download(worker, other);
  EXPECT_EQ(refused.error_code(), StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(refused.error_message(), HasSubstr("\"gpu1\" holds no attempt"));
  EXPECT_EQ(download(worker, sha256("nowhere")).error_code(), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(download(enrol("gpu2", std::string(32, 'b')), teacher).error_code(),
            StatusCode::PERMISSION_DENIED);
  const Login viewer = with_token(token("anna", Role::kViewer));
  EXPECT_TRUE(download(viewer, other).ok());
  EXPECT_EQ(download(viewer, sha256("nowhere")).error_code(), StatusCode::NOT_FOUND);
}

TEST_F(AccessTest, ACertificateOfAnotherAuthority_IsNoLogin) {
  const db::TemporaryDirectory other;
  ASSERT_OK(auth::make_authority(other.path(), "lab:1", {"127.0.0.1"}, auth::system_clocks()));
  const auto foreign =
      value_of(auth::AccessControl::open(other.path(), auth::system_clocks(), nullptr));
  Login login;
  login.key = value_of(make_private_key());
  login.certificate =
      value_of(foreign->enrol(value_of(foreign->create_enrolment("gpu1", "test")).text, kWorkerId,
                              value_of(make_certificate_request(login.key))))
          .certificate_pem;
  EXPECT_EQ(hello(login, kWorkerId, "gpu1").error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(AccessTest, TenFailedLogins_CloseTheDoorForTheAddress) {
  const std::string method = "bitrung.v1.AccessService/WhoAmI";
  const auto connection = channel({});
  for (int i = 0; i < 10; ++i)
    EXPECT_EQ(call(connection, {}, method).error_code(), StatusCode::UNAUTHENTICATED) << i;
  const grpc::Status status = call(connection, {}, method);
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(),
              AllOf(HasSubstr("from 127.0.0.1 have failed"), HasSubstr("10 a minute")));
  // Who has a login is not shut out by it.
  EXPECT_TRUE(call(connection, with_token(admin_.text), method).ok());
  EXPECT_TRUE(call(owner(), {}, method).ok());
}

TEST_F(AccessTest, AToken_HasSoManyCallsASecond) {
  const std::string method = "bitrung.v1.AccessService/WhoAmI";
  const Login anna = with_token(token("anna", Role::kViewer));
  const auto connection = channel({});
  grpc::Status status;
  int calls = 0;
  // 200 at once and 50 a second: far fewer than these can be made in the time they take.
  while (calls < 5000 && (status = call(connection, anna, method)).ok()) ++calls;
  EXPECT_GE(calls, 200);
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("more than 50 calls a second"));
}

TEST_F(AccessTest, TheAuditLog_SaysWhoChangedWhat) {
  const Login carl = with_token(token("carl", Role::kOperator));
  ASSERT_TRUE(cancel(carl).ok());
  EXPECT_EQ(call(carl, "bitrung.v1.AccessService/CreateToken").error_code(),
            StatusCode::PERMISSION_DENIED);
  enrol("gpu1");
  const auto rows = value_of(access_->audit(10, 0));
  ASSERT_EQ(rows.size(), 3u);  // What was refused is not in it.
  EXPECT_EQ(rows[0].method, "AccessService/EnrolWorker");
  EXPECT_EQ(rows[0].name, "gpu1");
  EXPECT_EQ(rows[1].method, "ExperimentService/CancelExperiment");
  EXPECT_EQ(rows[1].subject, "study");
  EXPECT_EQ(rows[1].name, "carl");
  EXPECT_EQ(rows[1].credential, parse_secret(carl.token)->id);
  EXPECT_EQ(rows[1].address, "127.0.0.1");
  EXPECT_EQ(rows[2].method, "init");
  EXPECT_EQ(value_of(access_->audit(1, rows[1].id)).front().method, "init");
}

}  // namespace
}  // namespace bitrung::rpc
