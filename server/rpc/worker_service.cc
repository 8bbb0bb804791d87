// WorkerService: one bidirectional stream per worker. Statements become events of the engine; the
// engine's messages go out in order, one write at a time.
#include <cmath>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "bitrung/v1/worker_service.grpc.pb.h"
#include "db/base/status.h"
#include "server/rpc/convert.h"
#include "server/rpc/report.h"
#include "server/rpc/services.h"
#include "server/rpc/session_limits.h"

namespace bitrung::rpc {
namespace {

constexpr std::string_view kOpenSession = "bitrung.v1.WorkerService/OpenSession";

constexpr int kLinesPerMessageMax = 1000;
constexpr std::size_t kLogTextBytesMax = 4096;
constexpr std::size_t kSeriesNameBytesMax = 64;
constexpr std::size_t kWorkerTextBytesMax = 256;
constexpr int kStatementsPerBatchMax = 4096;
// A message to a worker has at most 1 MiB.
constexpr std::size_t kBatchBytesMax = std::size_t{512} << 10;

core::AttemptKey from_proto(const v1::AttemptKey& key) {
  return {JobId{key.job_id()}, key.attempt()};
}

void to_proto(const core::AttemptKey& key, v1::AttemptKey& out) {
  out.set_job_id(number(key.job));
  out.set_attempt(key.attempt);
}

absl::Status check_text(std::string_view what, std::string_view text) {
  if (text.empty() || text.size() > kWorkerTextBytesMax) {
    return absl::InvalidArgumentError(fmt::format("{} has {} bytes; 1 to {} are allowed", what,
                                                  text.size(), kWorkerTextBytesMax));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<core::DatasetInfo>> from_proto(
    const google::protobuf::RepeatedPtrField<v1::Dataset>& datasets) {
  std::vector<core::DatasetInfo> out;
  for (const v1::Dataset& dataset : datasets) {
    BITRUNG_RETURN_IF_ERROR(check_text("data set name", dataset.name()));
    BITRUNG_ASSIGN_OR_RETURN(const Digest digest,
                             parse_digest(dataset.sha256(), "data set digest"));
    out.push_back({dataset.name(), digest});
  }
  return out;
}

absl::StatusOr<core::SessionOpened> from_proto(const v1::Hello& hello, SessionId session) {
  core::SessionOpened event;
  event.session = session;
  BITRUNG_RETURN_IF_ERROR(check_text("worker_id", hello.worker_id()));
  BITRUNG_RETURN_IF_ERROR(check_text("worker name", hello.name()));
  if (hello.slots_size() > kSlotsMax) {
    return absl::ResourceExhaustedError(fmt::format("worker {} has {} slots, the limit is {}",
                                                    hello.name(), hello.slots_size(), kSlotsMax));
  }
  event.worker_id = hello.worker_id();
  event.name = hello.name();
  event.version = hello.version();
  event.numerics = hello.numerics();
  for (const v1::Slot& slot : hello.slots()) {
    event.slots.push_back({slot.device(), slot.device_name(), slot.memory_bytes(), slot.threads()});
  }
  if (hello.shared_cores() != 0 && std::cmp_not_equal(hello.shared_cores(), hello.slots_size())) {
    return absl::InvalidArgumentError(
        fmt::format("worker {} shares {} cores among {} slots; it must have a slot for each core",
                    hello.name(), hello.shared_cores(), hello.slots_size()));
  }
  event.shared_cores = hello.shared_cores();
  BITRUNG_ASSIGN_OR_RETURN(event.datasets, from_proto(hello.datasets()));
  for (const v1::AttemptKey& key : hello.attempts()) event.held.push_back(from_proto(key));
  event.term_seen = hello.term_seen();
  return event;
}

absl::StatusOr<std::vector<db::PointRow>> from_proto(const v1::Metrics& metrics) {
  for (const std::string& series : metrics.names()) {
    if (series.size() > kSeriesNameBytesMax || !is_valid_name(series)) {
      return absl::InvalidArgumentError(
          fmt::format("\"{}\" is no name of a series: 1 to {} letters, digits and . _ = -",
                      series.substr(0, 80), kSeriesNameBytesMax));
    }
  }
  std::vector<db::PointRow> points;
  points.reserve(static_cast<std::size_t>(metrics.points_size()));
  for (const v1::MetricPoint& point : metrics.points()) {
    if (point.name_index() >= static_cast<std::uint32_t>(metrics.names_size())) {
      return absl::InvalidArgumentError("a point names no series of its message");
    }
    if (!std::isfinite(point.value()))
      return absl::InvalidArgumentError("a point's value is not finite");
    points.push_back(
        {metrics.names(static_cast<int>(point.name_index())), point.step(), point.value()});
  }
  return points;
}

engine::Progress from_proto(const v1::Progress& progress) {
  engine::Progress out{.attempt = 0,
                       .epoch = progress.epoch(),
                       .epochs = progress.epochs(),
                       .step = progress.step(),
                       .steps = progress.steps(),
                       .images_per_second = progress.images_per_second(),
                       .accuracy = std::nullopt,
                       .eta_seconds = std::nullopt};
  if (progress.has_accuracy()) out.accuracy = progress.accuracy();
  if (progress.has_eta_seconds()) out.eta_seconds = progress.eta_seconds();
  return out;
}

void to_proto(const core::Welcome& welcome, const Context& context, v1::Welcome& out) {
  out.set_term(context.term);
  out.set_lease_ms(static_cast<std::uint32_t>(context.lease.count()));
  out.set_heartbeat_interval_ms(static_cast<std::uint32_t>(context.heartbeat_interval.count()));
  for (const core::AttemptKey& key : welcome.kept) to_proto(key, *out.add_kept());
  for (const core::AttemptKey& key : welcome.fenced) to_proto(key, *out.add_fenced());
  out.set_takes_batches(true);
}

void to_proto(const engine::FullOffer& full, v1::Offer& out) {
  to_proto(full.offer.key, *out.mutable_key());
  out.set_slot(full.offer.slot);
  out.set_threads(full.offer.threads);
  out.set_display_name(full.display_name);
  out.set_spec_json(full.spec_json);
  for (const auto& [role, digest] : full.offer.inputs) {
    v1::OfferInput& input = *out.add_inputs();
    input.set_role(rpc::to_proto(role));
    input.set_artifact_sha256(digest.hex());
  }
  if (full.offer.resume) out.set_resume_sha256(full.offer.resume->hex());
  out.set_dataset_sha256(full.offer.dataset.hex());
  out.set_timeout_seconds(full.timeout_seconds);
  out.set_dataset(full.dataset);
}

class Session;

// The engine's end of a session. Outlives the stream; messages after its end are dropped.
class Sink final : public engine::SessionSink {
 public:
  explicit Sink(Session* session) : session_(session) {}
  void send(engine::ToWorker message) override;
  void flush() override;
  void detach() {
    const std::lock_guard lock(mutex_);
    session_ = nullptr;
  }

 private:
  std::mutex mutex_;
  Session* session_;
};

class Session final
    : public grpc::ServerBidiReactor<v1::OpenSessionRequest, v1::OpenSessionResponse> {
 public:
  Session(const Context& context, auth::Caller caller)
      : context_(context),
        caller_(std::move(caller)),
        sink_(std::make_shared<Sink>(this)),
        id_(context.engine.open_session(sink_)) {
    StartRead(&request_);
  }

  void send(const engine::ToWorker& message) {
    v1::OpenSessionResponse response;
    if (const auto* close = std::get_if<core::CloseSession>(&message)) {
      return finish({grpc::StatusCode::ABORTED, close->reason});
    }
    fill(message, response);
    absl::Status queued;
    {
      const std::lock_guard lock(mutex_);
      if (finished_) return;
      out_bytes_ += response.ByteSizeLong();
      out_.push_back(std::move(response));
      queued = check_queue(out_.size(), out_bytes_);
    }
    if (!queued.ok()) finish(to_grpc(queued));
  }

  void flush() {
    const std::lock_guard lock(mutex_);
    write_next();
  }

 private:
  void fill(const engine::ToWorker& message, v1::OpenSessionResponse& response) const {
    if (const auto* welcome = std::get_if<core::Welcome>(&message)) {
      to_proto(*welcome, context_, *response.mutable_welcome());
    } else if (const auto* offer = std::get_if<engine::FullOffer>(&message)) {
      to_proto(*offer, *response.mutable_offer());
    } else if (const auto* cancel = std::get_if<core::Cancel>(&message)) {
      to_proto(cancel->key, *response.mutable_cancel()->mutable_key());
    } else if (const auto* fence = std::get_if<core::Fence>(&message)) {
      to_proto(fence->key, *response.mutable_fence()->mutable_key());
    } else if (const auto* heartbeat = std::get_if<core::HeartbeatReply>(&message)) {
      response.mutable_heartbeat()->set_sequence(heartbeat->sequence);
    } else if (const auto* outcome = std::get_if<core::OutcomeReply>(&message)) {
      to_proto(outcome->key, *response.mutable_outcome()->mutable_key());
    } else if (const auto* points = std::get_if<engine::PointsRecorded>(&message)) {
      to_proto(points->key, *response.mutable_metrics()->mutable_key());
      response.mutable_metrics()->set_watermark(points->watermark);
    } else if (const auto* logs = std::get_if<engine::LogsRecorded>(&message)) {
      to_proto(logs->key, *response.mutable_logs()->mutable_key());
      response.mutable_logs()->set_watermark(logs->watermark);
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) return finish(grpc::Status::OK);
    absl::Status status;
    {
      engine::Engine::Batch batch(context_.engine);
      status = handle_message(request_, batch);
    }
    if (!status.ok()) return finish(to_grpc(status));
    StartRead(&request_);
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    if (ok) write_next();
  }

  // Writes what waits: one statement, or as many as fit if the worker reads batches. Under the
  // lock.
  void write_next() {
    if (writing_ || finished_ || out_.empty()) return;
    writing_ = true;
    const std::size_t first_bytes = out_.front().ByteSizeLong();
    out_bytes_ -= first_bytes;
    message_ = std::move(out_.front());
    out_.pop_front();
    // The worker hears of a batch in the Welcome, so that goes alone.
    if (takes_batches_ && !out_.empty() && !message_.has_welcome()) {
      std::size_t bytes = first_bytes;
      v1::OpenSessionResponse batch;
      auto& statements = *batch.mutable_batch()->mutable_statements();
      *statements.Add() = std::move(message_);
      while (!out_.empty() && statements.size() < kStatementsPerBatchMax) {
        const std::size_t added = out_.front().ByteSizeLong();
        bytes += added;
        if (bytes > kBatchBytesMax) break;
        out_bytes_ -= added;
        *statements.Add() = std::move(out_.front());
        out_.pop_front();
      }
      message_ = std::move(batch);
    }
    StartWrite(&message_);
  }

  void OnDone() override {
    sink_->detach();
    context_.engine.post(core::SessionClosed{id_});
    delete this;
  }

  void finish(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    if (std::exchange(finished_, true)) return;
    Finish(status);
  }

  absl::Status handle_message(const v1::OpenSessionRequest& message, engine::Engine::Batch& batch) {
    if (!caller_.is_valid())
      return absl::UnauthenticatedError("the worker's certificate was revoked; enrol it again");
    if (!message.has_batch()) return handle(message, batch);
    BITRUNG_RETURN_IF_ERROR(limits_.check(message));
    if (message.batch().statements_size() > kStatementsPerBatchMax) {
      return absl::ResourceExhaustedError(fmt::format("{} statements in one batch, the limit is {}",
                                                      message.batch().statements_size(),
                                                      kStatementsPerBatchMax));
    }
    for (const v1::OpenSessionRequest& statement : message.batch().statements()) {
      if (statement.has_hello() || statement.has_batch())
        return absl::InvalidArgumentError("a batch holds neither a Hello nor another batch");
      BITRUNG_RETURN_IF_ERROR(handle(statement, batch));
    }
    return absl::OkStatus();
  }

  absl::Status handle(const v1::OpenSessionRequest& request, engine::Engine::Batch& batch) {
    BITRUNG_RETURN_IF_ERROR(limits_.check(request));
    if (request.has_hello() == greeted_) {
      return absl::FailedPreconditionError("a session begins with one Hello and has no second");
    }
    switch (request.statement_case()) {
      case v1::OpenSessionRequest::kHello: {
        BITRUNG_ASSIGN_OR_RETURN(core::SessionOpened event, from_proto(request.hello(), id_));
        greeted_ = true;
        {
          const std::lock_guard lock(mutex_);
          takes_batches_ = request.hello().takes_batches();
        }
        BITRUNG_RETURN_IF_ERROR(check_identity(event));
        BITRUNG_RETURN_IF_ERROR(check_history(event));
        batch.post(std::move(event));
        return absl::OkStatus();
      }
      case v1::OpenSessionRequest::kHeartbeat: {
        core::Heartbeat event{id_, request.heartbeat().sequence(), {}};
        for (const v1::HeldAttempt& held : request.heartbeat().attempts()) {
          event.held.push_back(from_proto(held.key()));
          if (held.has_progress())
            batch.progress(id_, from_proto(held.key()), from_proto(held.progress()));
        }
        batch.post(std::move(event));
        return absl::OkStatus();
      }
      case v1::OpenSessionRequest::kStarted:
        batch.post(core::AttemptStarted{id_, from_proto(request.started().key()),
                                        request.started().resumed_epoch()});
        return absl::OkStatus();
      case v1::OpenSessionRequest::kMetrics: {
        BITRUNG_ASSIGN_OR_RETURN(std::vector<db::PointRow> points, from_proto(request.metrics()));
        batch.points(id_, from_proto(request.metrics().key()), request.metrics().first_sequence(),
                     std::move(points));
        return absl::OkStatus();
      }
      case v1::OpenSessionRequest::kLogs:
        return handle_logs(request.logs(), batch);
      case v1::OpenSessionRequest::kCheckpoint: {
        const v1::Checkpoint& checkpoint = request.checkpoint();
        BITRUNG_ASSIGN_OR_RETURN(const Digest digest,
                                 stored_artifact(checkpoint.artifact_sha256()));
        batch.post(
            core::CheckpointStored{id_, from_proto(checkpoint.key()), checkpoint.epoch(), digest});
        return absl::OkStatus();
      }
      case v1::OpenSessionRequest::kOutcome:
        return handle_outcome(request.outcome(), batch);
      case v1::OpenSessionRequest::kDatasets: {
        BITRUNG_ASSIGN_OR_RETURN(auto datasets, from_proto(request.datasets().datasets()));
        batch.post(core::DatasetsChanged{id_, std::move(datasets)});
        return absl::OkStatus();
      }
      case v1::OpenSessionRequest::kStopping:
        batch.post(core::WorkerStopping{id_});
        return absl::OkStatus();
      case v1::OpenSessionRequest::kBatch:
      case v1::OpenSessionRequest::STATEMENT_NOT_SET:
        break;
    }
    return absl::UnimplementedError(
        "this server does not know the statement; is the worker newer than the server?");
  }

  // A certificate is for one worker, and says its name.
  absl::Status check_identity(core::SessionOpened& hello) const {
    if (caller_.is_owner()) return absl::OkStatus();
    if (hello.worker_id != caller_.worker_id()) {
      return absl::PermissionDeniedError(fmt::format(
          "the certificate of worker {} is for id {}, not for {}; each state directory is enrolled "
          "by itself",
          caller_.name(), caller_.worker_id(), hello.worker_id));
    }
    hello.name = caller_.name();
    return absl::OkStatus();
  }

  // An attempt is on disk before it is offered. One that this server has never offered says that
  // the server has forgotten what it did: it works on an old copy of its state. The worker keeps
  // what it has for the newest state. Only a restore, which says so, may forget.
  absl::Status check_history(const core::SessionOpened& hello) const {
    if (hello.term_seen <= context_.restored_term) return absl::OkStatus();
    for (const core::AttemptKey& key : hello.held) {
      const auto job = context_.reader.job(key.job);
      if (!job.ok() && !absl::IsNotFound(job.status())) return job.status();
      if (job.ok() && job->state.attempt >= key.attempt) continue;
      return absl::AbortedError(fmt::format(
          "worker {} holds attempt {} of job {}, which this server has never offered: the server "
          "works on an old copy of its state. Start it from its newest state, or make the copy a "
          "new beginning with `bitrung-server backup` and `restore`; the worker keeps its results",
          hello.name, key.attempt, number(key.job)));
    }
    return absl::OkStatus();
  }

  absl::Status handle_logs(const v1::Logs& logs, engine::Engine::Batch& batch) const {
    if (logs.lines_size() > kLinesPerMessageMax) {
      return absl::ResourceExhaustedError(fmt::format(
          "{} log lines in one message, the limit is {}", logs.lines_size(), kLinesPerMessageMax));
    }
    std::vector<db::LogRow> lines;
    lines.reserve(static_cast<std::size_t>(logs.lines_size()));
    for (const v1::LogText& line : logs.lines()) {
      if (line.text().size() > kLogTextBytesMax) {
        return absl::ResourceExhaustedError(fmt::format("a log line has {} bytes, the limit is {}",
                                                        line.text().size(), kLogTextBytesMax));
      }
      lines.push_back({.attempt = 0, .line = 0, .time_ms = line.time_ms(), .text = line.text()});
    }
    batch.logs(id_, from_proto(logs.key()), logs.first_line(), std::move(lines));
    return absl::OkStatus();
  }

  absl::Status handle_outcome(const v1::Outcome& outcome, engine::Engine::Batch& batch) const {
    const core::AttemptKey key = from_proto(outcome.key());
    switch (outcome.outcome_case()) {
      case v1::Outcome::kSucceeded: {
        BITRUNG_ASSIGN_OR_RETURN(db::ResultRow result, rpc::from_proto(outcome.succeeded()));
        BITRUNG_RETURN_IF_ERROR(stored_artifact(outcome.succeeded().artifact_sha256()).status());
        BITRUNG_ASSIGN_OR_RETURN(std::string report, checked_report(outcome.report_json()));
        batch.post(core::AttemptSucceeded{id_, key, std::move(result), std::move(report)});
        return absl::OkStatus();
      }
      case v1::Outcome::kFailed: {
        BITRUNG_ASSIGN_OR_RETURN(const FailureClass failure,
                                 rpc::from_proto(outcome.failed().failure_class()));
        batch.post(core::AttemptFailed{id_, key, failure,
                                       outcome.failed().message().substr(0, kLogTextBytesMax)});
        return absl::OkStatus();
      }
      case v1::Outcome::kCancelled:
        batch.post(core::AttemptCancelled{id_, key});
        return absl::OkStatus();
      case v1::Outcome::OUTCOME_NOT_SET:
        break;
    }
    return absl::InvalidArgumentError("an outcome says neither succeeded, failed nor cancelled");
  }

  // What is referred to must be durable and verified first.
  absl::StatusOr<Digest> stored_artifact(const std::string& hex) const {
    BITRUNG_ASSIGN_OR_RETURN(const Digest digest, parse_digest(hex, "artifact_sha256"));
    if (!context_.artifacts.contains(digest)) {
      return absl::FailedPreconditionError(
          fmt::format("artifact {} is not uploaded; upload it first", hex));
    }
    return digest;
  }

  const Context& context_;
  const auth::Caller caller_;
  const std::shared_ptr<Sink> sink_;
  const SessionId id_;
  bool greeted_ = false;
  SessionLimits limits_;
  v1::OpenSessionRequest request_;
  std::mutex mutex_;
  std::deque<v1::OpenSessionResponse> out_;
  std::size_t out_bytes_ = 0;        // Of them all.
  v1::OpenSessionResponse message_;  // Being written.
  bool writing_ = false;
  bool takes_batches_ = false;
  bool finished_ = false;
};

void Sink::send(engine::ToWorker message) {
  const std::lock_guard lock(mutex_);
  if (session_ != nullptr) session_->send(message);
}

void Sink::flush() {
  const std::lock_guard lock(mutex_);
  if (session_ != nullptr) session_->flush();
}

class RefusedSession final
    : public grpc::ServerBidiReactor<v1::OpenSessionRequest, v1::OpenSessionResponse> {
 public:
  explicit RefusedSession(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

class WorkerServiceImpl final : public v1::WorkerService::CallbackService {
 public:
  explicit WorkerServiceImpl(const Context& context) : context_(context) {}

  grpc::ServerBidiReactor<v1::OpenSessionRequest, v1::OpenSessionResponse>* OpenSession(
      grpc::CallbackServerContext* call) override {
    const auto caller = context_.authority.admit(*call, kOpenSession);
    if (!caller.ok()) return new RefusedSession(to_grpc(caller.status()));
    return new Session(context_, *caller);
  }

 private:
  const Context& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_worker_service(const Context& context) {
  return std::make_unique<WorkerServiceImpl>(context);
}

}  // namespace bitrung::rpc
