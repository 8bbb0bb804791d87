// A connection to a server: every call of the API that the command line makes, as a plain function.
//
// Synchronous. Every unary call has a deadline; streams end at the latest after kStreamLifetime, so
// that a peer that vanished without a word is noticed, and the caller goes on from where it was.
// Errors keep the code of the gRPC status; the message says what a person can do. Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitrung/v1/access_service.pb.h"
#include "bitrung/v1/experiment_service.pb.h"
#include "bitrung/v1/fleet_service.pb.h"
#include "bitrung/v1/job_service.pb.h"
#include "bitrung/v1/results_service.pb.h"
#include "db/base/digest.h"
#include "db/base/login_file.h"

namespace grpc {
class ClientContext;
class Status;
}  // namespace grpc

namespace bitrung::cli {

inline constexpr std::chrono::milliseconds kCallDeadline{30'000};
inline constexpr std::chrono::milliseconds kProbeDeadline{5'000};
inline constexpr std::chrono::minutes kStreamLifetime{5};

// Ends a stream from another thread. Thread-safe; may be used for one stream after the other.
class StreamStop {
 public:
  void stop();
  bool stopped() const;

 private:
  friend class Connection;
  bool attach(grpc::ClientContext* context);  // False if already stopped.
  void detach();

  mutable std::mutex mutex_;
  bool stopped_ = false;
  grpc::ClientContext* context_ = nullptr;
};

class Connection {
 public:
  // `address` is unix:PATH or HOST:PORT; anything else is INVALID_ARGUMENT. HOST:PORT is TLS and
  // wants a login (UNAUTHENTICATED without): the server must have a certificate of its authority.
  // Does not wait for an answer.
  static absl::StatusOr<std::shared_ptr<Connection>> make(std::string_view address,
                                                          const std::optional<LoginFile>& login);
  ~Connection();

  const std::string& address() const { return address_; }

  absl::StatusOr<v1::GetServerResponse> get_server(
      std::chrono::milliseconds deadline = kProbeDeadline);

  absl::StatusOr<v1::SubmitExperimentResponse> submit(const v1::SubmitExperimentRequest& request);
  absl::StatusOr<v1::PlanExperimentResponse> plan(const v1::PlanExperimentRequest& request);
  absl::StatusOr<v1::Experiment> get_experiment(std::string_view experiment);
  // Newest first; at most `limit`, 0 for all.
  absl::StatusOr<std::vector<v1::Experiment>> list_experiments(std::string_view name,
                                                               std::size_t limit);
  absl::StatusOr<std::uint32_t> cancel(const v1::CancelExperimentRequest& request);
  absl::StatusOr<std::uint32_t> retry(const v1::RetryExperimentRequest& request);

  // All of them, in submit order.
  absl::StatusOr<std::vector<v1::Job>> list_jobs(std::string_view experiment);
  absl::StatusOr<v1::GetJobResponse> get_job(const v1::JobReference& job);
  absl::StatusOr<v1::ExplainJobResponse> explain(
      const v1::JobReference& job, std::chrono::milliseconds deadline = kCallDeadline);
  absl::StatusOr<v1::GetSeriesResponse> get_series(const v1::GetSeriesRequest& request);
  absl::StatusOr<v1::GetResultsResponse> get_results(const v1::GetResultsRequest& request);
  absl::StatusOr<v1::GetReportResponse> get_report(const v1::JobReference& job);
  absl::StatusOr<v1::CompareResponse> compare(const v1::CompareRequest& request);

  absl::StatusOr<v1::WhoAmIResponse> who_am_i();
  absl::StatusOr<v1::CreateTokenResponse> create_token(const v1::CreateTokenRequest& request);
  absl::StatusOr<std::vector<v1::Token>> list_tokens();
  absl::StatusOr<v1::Token> revoke_token(std::string_view id);
  absl::StatusOr<v1::CreateEnrolmentResponse> create_enrolment(std::string_view worker);
  // How many certificates ended.
  absl::StatusOr<std::uint32_t> revoke_worker(std::string_view worker);
  // Newest first; at most `limit`, 0 for all.
  absl::StatusOr<std::vector<v1::AuditEntry>> list_audit(std::size_t limit);

  absl::StatusOr<std::vector<v1::Worker>> list_workers();
  absl::StatusOr<v1::Worker> drain(std::string_view worker, bool drain);

  // Streams: the function is called for each message; the status is how the stream ended. CANCELLED
  // after stop.
  absl::Status watch(const v1::WatchExperimentRequest& request, StreamStop& stop,
                     const std::function<void(const v1::WatchExperimentResponse&)>& on_message);
  absl::Status stream_logs(const v1::StreamLogsRequest& request, StreamStop& stop,
                           const std::function<void(const v1::StreamLogsResponse&)>& on_message);

  // Uploads a file under its digest, from where an interrupted upload stopped. Nothing moves if the
  // server has it.
  absl::Status upload(const std::filesystem::path& file, const Digest& digest);
  // Writes an artifact to a new file, going on after a broken stream as long as some of it arrives.
  // DATA_LOSS if what came has another digest. What was written stays when it fails.
  absl::Status download(const Digest& digest, const std::filesystem::path& file);

 private:
  struct Stubs;

  Connection(std::string address, std::string token, std::unique_ptr<Stubs> stubs);

  void prepare(grpc::ClientContext& context, std::chrono::milliseconds deadline) const;
  absl::Status status_of(const grpc::Status& status) const;
  template <class Stub, class Request, class Response>
  absl::StatusOr<Response> call(
      Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
      const Request& request, std::chrono::milliseconds deadline = kCallDeadline) const;
  template <class Reader, class Message>
  absl::Status drain_stream(grpc::ClientContext& context, StreamStop& stop,
                            const std::function<std::unique_ptr<Reader>()>& open,
                            const std::function<void(const Message&)>& on_message) const;

  const std::string address_;
  const std::string token_;
  const std::unique_ptr<Stubs> stubs_;
};

}  // namespace bitrung::cli
