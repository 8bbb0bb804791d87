#include "fake_server.h"

#include <fmt/format.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>

#include "db/base/check.h"
#include "db/base/digest.h"
#include "worker/agent/types.h"

namespace bitrung::agent {
namespace {

void set_key(const std::string& text, v1::AttemptKey* wire) {
  const std::optional<AttemptKey> key = parse_attempt_key(text);
  BITRUNG_CHECK(key.has_value());
  wire->set_job_id(number(key->job));
  wire->set_attempt(number(key->attempt));
}

}  // namespace

std::string key_text(const v1::AttemptKey& key) {
  return fmt::format("{}-{}", key.job_id(), key.attempt());
}

class FakeServer::Sessions : public v1::WorkerService::Service {
 public:
  explicit Sessions(FakeServer& server) : server_(server) {}

  grpc::Status OpenSession(grpc::ServerContext* context, Stream* stream) override {
    {
      const std::lock_guard lock(server_.mutex_);
      server_.stream_ = stream;
      server_.context_ = context;
    }
    v1::OpenSessionRequest request;
    while (stream->Read(&request)) {
      for (const v1::OpenSessionRequest& statement : request.batch().statements())
        server_.handle(statement, stream);
      if (!request.has_batch()) server_.handle(request, stream);
    }
    const std::lock_guard lock(server_.mutex_);
    if (server_.stream_ == stream) {
      server_.stream_ = nullptr;
      server_.context_ = nullptr;
    }
    server_.changed_.notify_all();
    return grpc::Status::OK;
  }

 private:
  FakeServer& server_;
};

class FakeServer::Artifacts : public v1::ArtifactService::Service {
 public:
  explicit Artifacts(FakeServer& server) : server_(server) {}

  grpc::Status GetArtifact(grpc::ServerContext*, const v1::GetArtifactRequest* request,
                           v1::GetArtifactResponse* response) override {
    const std::lock_guard lock(server_.mutex_);
    response->set_complete(server_.artifacts_.contains(request->sha256()));
    const auto partial = server_.partials_.find(request->sha256());
    if (partial != server_.partials_.end()) response->set_uploaded_bytes(partial->second.size());
    return grpc::Status::OK;
  }

  grpc::Status UploadArtifact(grpc::ServerContext*,
                              grpc::ServerReader<v1::UploadArtifactRequest>* reader,
                              v1::UploadArtifactResponse* response) override {
    v1::UploadArtifactRequest request;
    std::string sha;
    while (reader->Read(&request)) {
      const std::lock_guard lock(server_.mutex_);
      if (sha.empty()) {
        sha = request.sha256();
        ++server_.uploads_;
        server_.last_upload_offset_ = request.offset();
        if (request.offset() != server_.partials_[sha].size()) {
          return {grpc::StatusCode::FAILED_PRECONDITION, "wrong offset"};
        }
      }
      server_.partials_[sha] += request.data();
    }
    const std::lock_guard lock(server_.mutex_);
    const std::string bytes = server_.partials_[sha];
    server_.partials_.erase(sha);
    if (sha256(bytes).hex() != sha) return {grpc::StatusCode::DATA_LOSS, "wrong digest"};
    response->set_size_bytes(bytes.size());
    server_.artifacts_[sha] = bytes;
    server_.changed_.notify_all();
    return grpc::Status::OK;
  }

  grpc::Status DownloadArtifact(grpc::ServerContext*, const v1::DownloadArtifactRequest* request,
                                grpc::ServerWriter<v1::DownloadArtifactResponse>* writer) override {
    std::string bytes;
    {
      const std::lock_guard lock(server_.mutex_);
      const auto artifact = server_.artifacts_.find(request->sha256());
      if (artifact == server_.artifacts_.end())
        return {grpc::StatusCode::NOT_FOUND, "no such artifact"};
      bytes = artifact->second;
      server_.last_download_offset_ = request->offset();
    }
    v1::DownloadArtifactResponse response;
    response.set_size_bytes(bytes.size());
    response.set_data(bytes.substr(request->offset()));
    writer->Write(response);
    return grpc::Status::OK;
  }

 private:
  FakeServer& server_;
};

FakeServer::FakeServer(std::filesystem::path socket)
    : socket_(std::move(socket)),
      sessions_service_(std::make_unique<Sessions>(*this)),
      artifacts_service_(std::make_unique<Artifacts>(*this)) {
  start();
}

FakeServer::~FakeServer() {
  stop();
}

void FakeServer::start() {
  std::filesystem::remove(socket_);
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket_.string(), grpc::InsecureServerCredentials());
  builder.RegisterService(sessions_service_.get());
  builder.RegisterService(artifacts_service_.get());
  server_ = builder.BuildAndStart();
  BITRUNG_CHECK(server_ != nullptr);
}

void FakeServer::stop() {
  if (!server_) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
}

void FakeServer::handle(const v1::OpenSessionRequest& request, Stream* stream) {
  using Statement = v1::OpenSessionRequest::StatementCase;
  const std::lock_guard lock(mutex_);
  if (stream != stream_) return;
  v1::OpenSessionResponse response;
  switch (request.statement_case()) {
    case Statement::kHello: {
      hellos_.push_back(request.hello());
      datasets_.assign(request.hello().datasets().begin(), request.hello().datasets().end());
      v1::Welcome* welcome = response.mutable_welcome();
      welcome->set_term(term_);
      welcome->set_lease_ms(60'000);
      welcome->set_heartbeat_interval_ms(200);
      welcome->set_takes_batches(true);
      for (const v1::AttemptKey& key : request.hello().attempts()) {
        *(fenced_.contains(key_text(key)) ? welcome->add_fenced() : welcome->add_kept()) = key;
      }
      break;
    }
    case Statement::kHeartbeat:
      for (const v1::HeldAttempt& held : request.heartbeat().attempts()) {
        if (held.has_progress()) attempts_[key_text(held.key())].progress = held.progress();
      }
      ++heartbeats_;
      response.mutable_heartbeat()->set_sequence(request.heartbeat().sequence());
      break;
    case Statement::kStarted: {
      AttemptRecord& attempt = attempts_[key_text(request.started().key())];
      ++attempt.started;
      attempt.resumed_epoch = request.started().resumed_epoch();
      break;
    }
    case Statement::kMetrics: {
      const v1::Metrics& metrics = request.metrics();
      std::vector<double>& points = attempts_[key_text(metrics.key())].points;
      std::uint64_t sequence = metrics.first_sequence();
      if (sequence > points.size() + 1)
        mistakes_.push_back("a gap before point " + std::to_string(sequence));
      for (const v1::MetricPoint& point : metrics.points()) {
        if (sequence++ == points.size() + 1) points.push_back(point.value());
      }
      *response.mutable_metrics()->mutable_key() = metrics.key();
      response.mutable_metrics()->set_watermark(points.size());
      if (hold_replies_) response.Clear();
      break;
    }
    case Statement::kLogs: {
      const v1::Logs& logs = request.logs();
      std::vector<std::string>& lines = attempts_[key_text(logs.key())].lines;
      std::uint64_t line = logs.first_line();
      if (line > lines.size() + 1) mistakes_.push_back("a gap before line " + std::to_string(line));
      for (const v1::LogText& text : logs.lines()) {
        if (line++ == lines.size() + 1) lines.push_back(text.text());
      }
      *response.mutable_logs()->mutable_key() = logs.key();
      response.mutable_logs()->set_watermark(lines.size());
      if (hold_replies_) response.Clear();
      break;
    }
    case Statement::kCheckpoint:
      if (!artifacts_.contains(request.checkpoint().artifact_sha256())) {
        mistakes_.push_back("a checkpoint was said before its artifact was there");
      }
      attempts_[key_text(request.checkpoint().key())].checkpoints.push_back(request.checkpoint());
      break;
    case Statement::kOutcome: {
      const v1::Outcome& outcome = request.outcome();
      if (outcome.has_succeeded() && !artifacts_.contains(outcome.succeeded().artifact_sha256())) {
        mistakes_.push_back("a success was said before its artifact was there");
      }
      attempts_[key_text(outcome.key())].outcomes.push_back(outcome);
      if (!hold_outcome_replies_) *response.mutable_outcome()->mutable_key() = outcome.key();
      break;
    }
    case Statement::kDatasets:
      datasets_.assign(request.datasets().datasets().begin(), request.datasets().datasets().end());
      break;
    case Statement::kStopping:
      stopping_ = true;
      break;
    case Statement::kBatch:
      mistakes_.push_back("a batch in a batch");
      return;
    case Statement::STATEMENT_NOT_SET:
      mistakes_.push_back("an empty statement");
      break;
  }
  if (response.statement_case() != v1::OpenSessionResponse::STATEMENT_NOT_SET)
    stream->Write(response);
  changed_.notify_all();
}

void FakeServer::say(const v1::OpenSessionResponse& response) {
  const std::lock_guard lock(mutex_);
  BITRUNG_CHECK(stream_ != nullptr);
  stream_->Write(response);
}

void FakeServer::offer_together(const std::vector<v1::Offer>& offers) {
  v1::OpenSessionResponse response;
  for (const v1::Offer& each : offers)
    *response.mutable_batch()->add_statements()->mutable_offer() = each;
  const std::lock_guard lock(mutex_);
  BITRUNG_CHECK(stream_ != nullptr);
  stream_->Write(response);
}

void FakeServer::offer(const v1::Offer& offer) {
  v1::OpenSessionResponse response;
  *response.mutable_offer() = offer;
  say(response);
}

void FakeServer::cancel(const std::string& key) {
  v1::OpenSessionResponse response;
  set_key(key, response.mutable_cancel()->mutable_key());
  say(response);
}

void FakeServer::fence(const std::string& key) {
  v1::OpenSessionResponse response;
  set_key(key, response.mutable_fence()->mutable_key());
  say(response);
}

void FakeServer::drop_session() {
  const std::lock_guard lock(mutex_);
  if (context_ != nullptr) context_->TryCancel();
  stream_ = nullptr;
  context_ = nullptr;
}

void FakeServer::hold_replies(bool hold) {
  const std::lock_guard lock(mutex_);
  hold_replies_ = hold;
}

void FakeServer::hold_outcome_replies(bool hold) {
  const std::lock_guard lock(mutex_);
  hold_outcome_replies_ = hold;
}

void FakeServer::set_term(std::int64_t term) {
  const std::lock_guard lock(mutex_);
  term_ = term;
}

void FakeServer::fence_in_welcome(const std::string& key) {
  const std::lock_guard lock(mutex_);
  fenced_.insert(key);
}

std::string FakeServer::put_artifact(const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  const std::string sha = sha256(bytes).hex();
  artifacts_[sha] = bytes;
  return sha;
}

std::string FakeServer::artifact(const std::string& sha) const {
  const std::lock_guard lock(mutex_);
  const auto it = artifacts_.find(sha);
  return it == artifacts_.end() ? "" : it->second;
}

void FakeServer::put_artifact_as(const std::string& sha, const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  artifacts_[sha] = bytes;
}

void FakeServer::put_partial(const std::string& sha, const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  partials_[sha] = bytes;
}

std::uint64_t FakeServer::last_upload_offset() const {
  const std::lock_guard lock(mutex_);
  return last_upload_offset_;
}

std::uint64_t FakeServer::last_download_offset() const {
  const std::lock_guard lock(mutex_);
  return last_download_offset_;
}

std::uint64_t FakeServer::uploads() const {
  const std::lock_guard lock(mutex_);
  return uploads_;
}

const AttemptRecord& FakeServer::attempt(const std::string& key) const {
  static const AttemptRecord kNone;
  const auto it = attempts_.find(key);
  return it == attempts_.end() ? kNone : it->second;
}

bool FakeServer::wait(const std::function<bool(const FakeServer&)>& condition) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::minutes(1), [&] { return condition(*this); });
}

}  // namespace bitrung::agent
