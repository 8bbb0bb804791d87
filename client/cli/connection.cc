#include "client/cli/connection.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "bitrung/v1/access_service.grpc.pb.h"
#include "bitrung/v1/artifact_service.grpc.pb.h"
#include "bitrung/v1/experiment_service.grpc.pb.h"
#include "bitrung/v1/fleet_service.grpc.pb.h"
#include "bitrung/v1/job_service.grpc.pb.h"
#include "bitrung/v1/results_service.grpc.pb.h"
#include "client/cli/exit_code.h"
#include "db/base/address.h"
#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

constexpr std::size_t kChunkBytes = 1 << 20;
// Results of the largest experiment (100,000 jobs with their options) stay below this.
constexpr int kMessageBytesMax = 1 << 30;
constexpr std::uint32_t kPageSize = 1000;

// Of the next page, when so many of `limit` (0 for all) are there.
std::uint32_t page_size(std::size_t limit, std::size_t have) {
  if (limit == 0) return kPageSize;
  return static_cast<std::uint32_t>(std::min<std::size_t>(limit - have, kPageSize));
}

}  // namespace

void StreamStop::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  if (context_ != nullptr) context_->TryCancel();
}

bool StreamStop::stopped() const {
  const std::lock_guard lock(mutex_);
  return stopped_;
}

bool StreamStop::attach(grpc::ClientContext* context) {
  const std::lock_guard lock(mutex_);
  if (stopped_) return false;
  context_ = context;
  return true;
}

void StreamStop::detach() {
  const std::lock_guard lock(mutex_);
  context_ = nullptr;
}

struct Connection::Stubs {
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::AccessService::Stub> access = v1::AccessService::NewStub(channel);
  std::unique_ptr<v1::ArtifactService::Stub> artifacts = v1::ArtifactService::NewStub(channel);
  std::unique_ptr<v1::ExperimentService::Stub> experiments =
      v1::ExperimentService::NewStub(channel);
  std::unique_ptr<v1::FleetService::Stub> fleet = v1::FleetService::NewStub(channel);
  std::unique_ptr<v1::JobService::Stub> jobs = v1::JobService::NewStub(channel);
  std::unique_ptr<v1::ResultsService::Stub> results = v1::ResultsService::NewStub(channel);
};

Connection::Connection(std::string address, std::string token, std::unique_ptr<Stubs> stubs)
    : address_(std::move(address)), token_(std::move(token)), stubs_(std::move(stubs)) {}

Connection::~Connection() = default;

absl::StatusOr<std::shared_ptr<Connection>> Connection::make(
    std::string_view address, const std::optional<LoginFile>& login) {
  BITRUNG_ASSIGN_OR_RETURN(const Address parsed, parse_address(address));
  const bool is_unix = parsed.is_unix();
  if (!is_unix && !login) {
    return absl::UnauthenticatedError(fmt::format(
        "the server at {} wants a login: \"bitrung login FILE\" with a file that an admin made, or "
        "--login FILE",
        address));
  }
  grpc::SslCredentialsOptions tls;
  if (!is_unix) tls.pem_root_certs = login->authority_pem;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  // An address means that host, whatever http_proxy says.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A server that restarts is back within a second or two; gRPC's own back-off would reach two
  // minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // A peer that vanished without a word is noticed while a stream waits; the server allows pings
  // this often.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetUserAgentPrefix("bitrung");
  auto stubs = std::unique_ptr<Stubs>(new Stubs{grpc::CreateCustomChannel(
      std::string(address),
      is_unix ? grpc::InsecureChannelCredentials() : grpc::SslCredentials(tls), arguments)});
  return std::shared_ptr<Connection>(
      new Connection(std::string(address), is_unix ? "" : login->token, std::move(stubs)));
}

void Connection::prepare(grpc::ClientContext& context, std::chrono::milliseconds deadline) const {
  context.set_deadline(std::chrono::system_clock::now() + deadline);
  if (!token_.empty()) context.AddMetadata("authorization", "Bearer " + token_);
}

absl::Status Connection::status_of(const grpc::Status& status) const {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  std::string text = status.error_message();
  if (code == absl::StatusCode::kUnavailable) {
    // gRPC wraps the reason into "failed to connect to all addresses; last error: UNKNOWN: ...".
    for (const std::string_view wrapping : {"last error: ", "UNKNOWN: "}) {
      const std::size_t at = text.rfind(wrapping);
      if (at != std::string::npos) text.erase(0, at + wrapping.size());
    }
    text = fmt::format("no answer from the server at {} ({}); check that it runs and the address",
                       address_, text.empty() ? "connection closed" : text);
  } else if (code == absl::StatusCode::kDeadlineExceeded) {
    text = fmt::format(
        "the server at {} did not answer in time; check that it runs and the address", address_);
  } else if (code == absl::StatusCode::kUnimplemented) {
    text = fmt::format(
        "the server at {} does not know this call; is it a bitrung-server of this version?",
        address_);
  } else if (text.empty()) {
    text = fmt::format("the server at {} answered with error {}", address_, static_cast<int>(code));
  }  // Otherwise the server's own words say what to do.
  return {code, text};
}

template <class Stub, class Request, class Response>
absl::StatusOr<Response> Connection::call(
    Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
    const Request& request, std::chrono::milliseconds deadline) const {
  grpc::ClientContext context;
  prepare(context, deadline);
  Response response;
  BITRUNG_RETURN_IF_ERROR(status_of((stub.*method)(&context, request, &response)));
  return response;
}

template <class Reader, class Message>
absl::Status Connection::drain_stream(grpc::ClientContext& context, StreamStop& stop,
                                      const std::function<std::unique_ptr<Reader>()>& open,
                                      const std::function<void(const Message&)>& on_message) const {
  prepare(context, kStreamLifetime);
  if (!stop.attach(&context)) return absl::CancelledError("stopped");
  const std::unique_ptr<Reader> reader = open();
  Message message;
  while (reader->Read(&message)) on_message(message);
  const grpc::Status status = reader->Finish();
  stop.detach();
  if (stop.stopped()) return absl::CancelledError("stopped");
  return status_of(status);
}

absl::StatusOr<v1::GetServerResponse> Connection::get_server(std::chrono::milliseconds deadline) {
  return call(*stubs_->fleet, &v1::FleetService::Stub::GetServer, v1::GetServerRequest(), deadline);
}

absl::StatusOr<v1::SubmitExperimentResponse> Connection::submit(
    const v1::SubmitExperimentRequest& request) {
  return call(*stubs_->experiments, &v1::ExperimentService::Stub::SubmitExperiment, request);
}

absl::StatusOr<v1::PlanExperimentResponse> Connection::plan(
    const v1::PlanExperimentRequest& request) {
  return call(*stubs_->experiments, &v1::ExperimentService::Stub::PlanExperiment, request);
}

absl::StatusOr<v1::Experiment> Connection::get_experiment(std::string_view experiment) {
  v1::GetExperimentRequest request;
  request.set_experiment(std::string(experiment));
  BITRUNG_ASSIGN_OR_RETURN(
      v1::GetExperimentResponse response,
      call(*stubs_->experiments, &v1::ExperimentService::Stub::GetExperiment, request));
  return std::move(*response.mutable_experiment());
}

absl::StatusOr<std::vector<v1::Experiment>> Connection::list_experiments(std::string_view name,
                                                                         std::size_t limit) {
  std::vector<v1::Experiment> experiments;
  v1::ListExperimentsRequest request;
  request.set_name(std::string(name));
  do {
    request.set_page_size(page_size(limit, experiments.size()));
    BITRUNG_ASSIGN_OR_RETURN(
        v1::ListExperimentsResponse response,
        call(*stubs_->experiments, &v1::ExperimentService::Stub::ListExperiments, request));
    for (v1::Experiment& experiment : *response.mutable_experiments()) {
      experiments.push_back(std::move(experiment));
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty() && (limit == 0 || experiments.size() < limit));
  return experiments;
}

absl::StatusOr<std::uint32_t> Connection::cancel(const v1::CancelExperimentRequest& request) {
  BITRUNG_ASSIGN_OR_RETURN(
      const v1::CancelExperimentResponse response,
      call(*stubs_->experiments, &v1::ExperimentService::Stub::CancelExperiment, request));
  return response.changed();
}

absl::StatusOr<std::uint32_t> Connection::retry(const v1::RetryExperimentRequest& request) {
  BITRUNG_ASSIGN_OR_RETURN(
      const v1::RetryExperimentResponse response,
      call(*stubs_->experiments, &v1::ExperimentService::Stub::RetryExperiment, request));
  return response.changed();
}

absl::StatusOr<std::vector<v1::Job>> Connection::list_jobs(std::string_view experiment) {
  std::vector<v1::Job> jobs;
  v1::ListJobsRequest request;
  request.set_experiment(std::string(experiment));
  request.set_page_size(kPageSize);
  do {
    BITRUNG_ASSIGN_OR_RETURN(v1::ListJobsResponse response,
                             call(*stubs_->jobs, &v1::JobService::Stub::ListJobs, request));
    for (v1::Job& job : *response.mutable_jobs()) jobs.push_back(std::move(job));
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return jobs;
}

absl::StatusOr<v1::GetJobResponse> Connection::get_job(const v1::JobReference& job) {
  v1::GetJobRequest request;
  *request.mutable_job() = job;
  return call(*stubs_->jobs, &v1::JobService::Stub::GetJob, request);
}

absl::StatusOr<v1::ExplainJobResponse> Connection::explain(const v1::JobReference& job,
                                                           std::chrono::milliseconds deadline) {
  v1::ExplainJobRequest request;
  *request.mutable_job() = job;
  return call(*stubs_->jobs, &v1::JobService::Stub::ExplainJob, request, deadline);
}

absl::StatusOr<v1::GetSeriesResponse> Connection::get_series(const v1::GetSeriesRequest& request) {
  return call(*stubs_->jobs, &v1::JobService::Stub::GetSeries, request);
}

absl::StatusOr<v1::GetReportResponse> Connection::get_report(const v1::JobReference& job) {
  v1::GetReportRequest request;
  *request.mutable_job() = job;
  return call(*stubs_->jobs, &v1::JobService::Stub::GetReport, request);
}

absl::StatusOr<v1::CompareResponse> Connection::compare(const v1::CompareRequest& request) {
  return call(*stubs_->results, &v1::ResultsService::Stub::Compare, request);
}

absl::StatusOr<v1::GetResultsResponse> Connection::get_results(
    const v1::GetResultsRequest& request) {
  return call(*stubs_->results, &v1::ResultsService::Stub::GetResults, request);
}

absl::StatusOr<v1::WhoAmIResponse> Connection::who_am_i() {
  return call(*stubs_->access, &v1::AccessService::Stub::WhoAmI, v1::WhoAmIRequest(),
              kProbeDeadline);
}

absl::StatusOr<v1::CreateTokenResponse> Connection::create_token(
    const v1::CreateTokenRequest& request) {
  return call(*stubs_->access, &v1::AccessService::Stub::CreateToken, request);
}

absl::StatusOr<std::vector<v1::Token>> Connection::list_tokens() {
  BITRUNG_ASSIGN_OR_RETURN(
      v1::ListTokensResponse response,
      call(*stubs_->access, &v1::AccessService::Stub::ListTokens, v1::ListTokensRequest()));
  return std::vector<v1::Token>(std::make_move_iterator(response.mutable_tokens()->begin()),
                                std::make_move_iterator(response.mutable_tokens()->end()));
}

absl::StatusOr<v1::Token> Connection::revoke_token(std::string_view id) {
  v1::RevokeTokenRequest request;
  request.set_id(std::string(id));
  BITRUNG_ASSIGN_OR_RETURN(v1::RevokeTokenResponse response,
                           call(*stubs_->access, &v1::AccessService::Stub::RevokeToken, request));
  return std::move(*response.mutable_token());
}

absl::StatusOr<v1::CreateEnrolmentResponse> Connection::create_enrolment(std::string_view worker) {
  v1::CreateEnrolmentRequest request;
  request.set_worker(std::string(worker));
  return call(*stubs_->access, &v1::AccessService::Stub::CreateEnrolment, request);
}

absl::StatusOr<std::uint32_t> Connection::revoke_worker(std::string_view worker) {
  v1::RevokeWorkerRequest request;
  request.set_worker(std::string(worker));
  BITRUNG_ASSIGN_OR_RETURN(const v1::RevokeWorkerResponse response,
                           call(*stubs_->access, &v1::AccessService::Stub::RevokeWorker, request));
  return response.revoked();
}

absl::StatusOr<std::vector<v1::AuditEntry>> Connection::list_audit(std::size_t limit) {
  std::vector<v1::AuditEntry> entries;
  v1::ListAuditRequest request;
  do {
    request.set_page_size(page_size(limit, entries.size()));
    BITRUNG_ASSIGN_OR_RETURN(v1::ListAuditResponse response,
                             call(*stubs_->access, &v1::AccessService::Stub::ListAudit, request));
    for (v1::AuditEntry& entry : *response.mutable_entries()) entries.push_back(std::move(entry));
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty() && (limit == 0 || entries.size() < limit));
  return entries;
}

absl::StatusOr<std::vector<v1::Worker>> Connection::list_workers() {
  BITRUNG_ASSIGN_OR_RETURN(
      v1::ListWorkersResponse response,
      call(*stubs_->fleet, &v1::FleetService::Stub::ListWorkers, v1::ListWorkersRequest()));
  return std::vector<v1::Worker>(response.workers().begin(), response.workers().end());
}

absl::StatusOr<v1::Worker> Connection::drain(std::string_view worker, bool drain) {
  v1::DrainWorkerRequest request;
  request.set_worker(std::string(worker));
  request.set_drain(drain);
  BITRUNG_ASSIGN_OR_RETURN(v1::DrainWorkerResponse response,
                           call(*stubs_->fleet, &v1::FleetService::Stub::DrainWorker, request));
  return std::move(*response.mutable_worker());
}

absl::Status Connection::watch(
    const v1::WatchExperimentRequest& request, StreamStop& stop,
    const std::function<void(const v1::WatchExperimentResponse&)>& on_message) {
  grpc::ClientContext context;
  return drain_stream<grpc::ClientReader<v1::WatchExperimentResponse>, v1::WatchExperimentResponse>(
      context, stop, [&] { return stubs_->experiments->WatchExperiment(&context, request); },
      on_message);
}

absl::Status Connection::stream_logs(
    const v1::StreamLogsRequest& request, StreamStop& stop,
    const std::function<void(const v1::StreamLogsResponse&)>& on_message) {
  grpc::ClientContext context;
  return drain_stream<grpc::ClientReader<v1::StreamLogsResponse>, v1::StreamLogsResponse>(
      context, stop, [&] { return stubs_->jobs->StreamLogs(&context, request); }, on_message);
}

absl::Status Connection::upload(const std::filesystem::path& file, const Digest& digest) {
  v1::GetArtifactRequest question;
  question.set_sha256(digest.hex());
  BITRUNG_ASSIGN_OR_RETURN(
      const v1::GetArtifactResponse there,
      call(*stubs_->artifacts, &v1::ArtifactService::Stub::GetArtifact, question));
  if (there.complete()) return absl::OkStatus();

  const FileDescriptor fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return local_error(errno_status("open", file, errno));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return local_error(errno_status("stat", file, errno));

  // A day: 16 GiB at the pace of a poor link. Progress is the server's to judge; a dead one closes
  // the stream.
  grpc::ClientContext context;
  prepare(context, std::chrono::hours(24));
  v1::UploadArtifactResponse response;
  const auto writer = stubs_->artifacts->UploadArtifact(&context, &response);
  v1::UploadArtifactRequest chunk;
  chunk.set_sha256(digest.hex());
  chunk.set_size_bytes(static_cast<std::uint64_t>(info.st_size));
  chunk.set_offset(there.uploaded_bytes());
  auto position = static_cast<off_t>(there.uploaded_bytes());
  std::string bytes(kChunkBytes, '\0');
  bool first = true;
  while (true) {
    const ssize_t got = ::pread(fd.get(), bytes.data(), bytes.size(), position);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int error = errno;
      context.TryCancel();
      writer->Finish();
      return local_error(errno_status("read", file, error));
    }
    if (got == 0 && !first) break;
    chunk.set_data(bytes.data(), static_cast<std::size_t>(got));
    if (!writer->Write(chunk)) break;  // Finish says why.
    position += got;
    if (first) chunk.Clear();
    first = false;
    if (got == 0) break;
  }
  writer->WritesDone();
  return status_of(writer->Finish());
}

absl::Status Connection::download(const Digest& digest, const std::filesystem::path& file) {
  const FileDescriptor fd(::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd.valid()) return local_error(errno_status("create", file, errno));
  v1::DownloadArtifactRequest request;
  request.set_sha256(digest.hex());
  Sha256 hash;
  while (true) {
    grpc::ClientContext context;
    prepare(context, std::chrono::hours(24));
    const auto reader = stubs_->artifacts->DownloadArtifact(&context, request);
    const std::uint64_t before = request.offset();
    v1::DownloadArtifactResponse chunk;
    while (reader->Read(&chunk)) {
      const absl::Status written = write_all(fd.get(), chunk.data(), file);
      if (!written.ok()) {
        context.TryCancel();
        reader->Finish();
        return local_error(written);
      }
      hash.update(chunk.data());
      request.set_offset(request.offset() + chunk.data().size());
    }
    const absl::Status status = status_of(reader->Finish());
    if (status.ok()) break;
    if (!absl::IsUnavailable(status) || request.offset() == before) return status;
  }
  const Digest found = hash.finish();
  if (found != digest) {
    return absl::DataLossError(fmt::format(
        "the {} bytes that the server at {} sent for artifact {} have digest {}; its copy or the "
        "way is damaged",
        request.offset(), address_, digest.hex(), found.hex()));
  }
  if (::fsync(fd.get()) != 0) return local_error(errno_status("sync", file, errno));
  return absl::OkStatus();
}

}  // namespace bitrung::cli
