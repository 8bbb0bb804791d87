// ExperimentService: submit, plan, look at, watch, cancel and retry graphs of jobs.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <limits>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <boost/asio/steady_timer.hpp>

#include "bitrung/v1/experiment_service.grpc.pb.h"
#include "db/base/allocator.h"
#include "db/base/status.h"
#include "server/rpc/convert.h"
#include "server/rpc/graph_request.h"
#include "server/rpc/page.h"
#include "server/rpc/planner.h"
#include "server/rpc/pull_stream.h"
#include "server/rpc/services.h"

namespace bitrung::rpc {
namespace {

constexpr std::string_view kSubmitExperiment = "bitrung.v1.ExperimentService/SubmitExperiment";
constexpr std::string_view kPlanExperiment = "bitrung.v1.ExperimentService/PlanExperiment";
constexpr std::string_view kGetExperiment = "bitrung.v1.ExperimentService/GetExperiment";
constexpr std::string_view kListExperiments = "bitrung.v1.ExperimentService/ListExperiments";
constexpr std::string_view kWatchExperiment = "bitrung.v1.ExperimentService/WatchExperiment";
constexpr std::string_view kCancelExperiment = "bitrung.v1.ExperimentService/CancelExperiment";
constexpr std::string_view kRetryExperiment = "bitrung.v1.ExperimentService/RetryExperiment";

using Names = google::protobuf::RepeatedPtrField<std::string>;

constexpr std::size_t kJobsPerMessageMax = 500;

// A request of this size leaves much memory behind in small pieces, which the allocator keeps.
constexpr std::size_t kLargeRequestBytes = std::size_t{4} << 20;
// By then it is answered and freed.
constexpr std::chrono::seconds kTrimDelay{1};

// Streams changed jobs from a cursor on, and progress as it comes. Ends with the experiment.
class ExperimentWatch final : public PullStream<v1::WatchExperimentResponse> {
 public:
  ExperimentWatch(const Context& context, const auth::Caller& caller, ExperimentId experiment,
                  std::int64_t cursor)
      : PullStream(context.pool, caller),
        context_(context),
        experiment_(experiment),
        cursor_(cursor) {
    subscription_ = context.publisher.subscribe(
        experiment, {.on_jobs = [this] { wake(); },
                     .on_progress =
                         [this](JobId job) {
                           {
                             const std::lock_guard lock(progress_mutex_);
                             progressed_.insert(number(job));
                           }
                           wake();
                         },
                     .on_points = nullptr,
                     .on_logs = nullptr});
  }

 private:
  Next produce(v1::WatchExperimentResponse& message, grpc::Status& end) override {
    if (ended_) return Next::kEnd;
    const auto filled = fill(message);
    if (!filled.ok()) {
      end = to_grpc(filled.status());
      return Next::kEnd;
    }
    return *filled ? Next::kMessage : Next::kIdle;
  }

  absl::StatusOr<bool> fill(v1::WatchExperimentResponse& message) {
    BITRUNG_ASSIGN_OR_RETURN(
        const auto changed, context_.reader.changed_jobs(experiment_, cursor_, kJobsPerMessageMax));
    if (changed.empty() && !first_) return fill_progress(message);
    first_ = false;
    for (const db::JobRow& row : changed) {
      BITRUNG_ASSIGN_OR_RETURN(*message.add_jobs(), job_view(context_, row));
      cursor_ = std::max(cursor_, row.changed_seq);
    }
    message.set_cursor(cursor_);
    BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow row, context_.reader.experiment(experiment_));
    BITRUNG_ASSIGN_OR_RETURN(*message.mutable_experiment(), experiment_view(context_, row));
    if (message.experiment().state() != v1::EXPERIMENT_STATE_ACTIVE) {
      // Only when nothing changed since: else the last jobs would be missing.
      BITRUNG_ASSIGN_OR_RETURN(const auto rest,
                               context_.reader.changed_jobs(experiment_, cursor_, 1));
      ended_ = rest.empty();
      if (!ended_) message.mutable_experiment()->set_state(v1::EXPERIMENT_STATE_ACTIVE);
    }
    return true;
  }

  absl::StatusOr<bool> fill_progress(v1::WatchExperimentResponse& message) {
    std::unordered_set<std::int64_t> progressed;
    {
      const std::lock_guard lock(progress_mutex_);
      progressed.swap(progressed_);
    }
    for (const std::int64_t id : progressed) {
      const auto progress = context_.publisher.progress(JobId{id});
      if (!progress) continue;
      v1::Job& job = *message.add_jobs();
      job.set_job_id(id);
      to_proto(*progress, *job.mutable_progress());
    }
    message.set_progress_only(true);
    message.set_cursor(cursor_);
    return message.jobs_size() > 0;
  }

  const Context& context_;
  const ExperimentId experiment_;
  std::int64_t cursor_;
  bool first_ = true;  // The first message is sent even if nothing changed since the cursor: it
                       // carries the state.
  bool ended_ = false;
  std::mutex progress_mutex_;
  std::unordered_set<std::int64_t> progressed_;
};

// For the audit log.
std::string subject_of(const std::string& experiment, const Names& jobs) {
  return jobs.empty() ? experiment : fmt::format("{}: {}", experiment, fmt::join(jobs, ", "));
}

class ExperimentServiceImpl final : public v1::ExperimentService::CallbackService {
 public:
  explicit ExperimentServiceImpl(const Context& context)
      : context_(context), trim_timer_(context.pool) {}

  grpc::ServerUnaryReactor* SubmitExperiment(grpc::CallbackServerContext* call,
                                             const v1::SubmitExperimentRequest* request,
                                             v1::SubmitExperimentResponse* response) override {
    return answer_later(
        context_, {call, kSubmitExperiment, request->name()},
        [this, request, response](const auth::Caller& caller,
                                  grpc::ServerUnaryReactor* reactor) -> absl::Status {
          BITRUNG_ASSIGN_OR_RETURN(engine::NewExperiment experiment, convert_submit(*request));
          experiment.submitted_by = caller.name();
          for (const core::NewJob& node : experiment.nodes) {
            for (const core::NewJob::Input& input : node.inputs) {
              if (input.artifact && !context_.artifacts.contains(*input.artifact)) {
                return absl::FailedPreconditionError(fmt::format(
                    "artifact {} is not on the server; upload it first", input.artifact->hex()));
              }
            }
          }
          if (absl::Status full = context_.disk.admit_submit(); !full.ok()) {
            BITRUNG_ASSIGN_OR_RETURN(const bool is_recorded, records_nothing(experiment));
            if (!is_recorded) return full;
          }
          context_.engine.submit(std::move(experiment),
                                 [this, response, reactor, bytes = request->ByteSizeLong()](
                                     const absl::StatusOr<engine::SubmitAnswer>& answer) {
                                   reactor->Finish(to_grpc(submitted(answer, *response)));
                                   trim_after(bytes);
                                 });
          return absl::OkStatus();
        });
  }

  grpc::ServerUnaryReactor* PlanExperiment(grpc::CallbackServerContext* call,
                                           const v1::PlanExperimentRequest* request,
                                           v1::PlanExperimentResponse* response) override {
    return answer_now(
        context_, {call, kPlanExperiment}, [this, request, response]() -> absl::Status {
          BITRUNG_ASSIGN_OR_RETURN(const engine::NewExperiment experiment,
                                   convert_graph(request->jobs(), request->shared_specs()));
          const absl::Status status = plan(context_.reader, experiment, *response);
          trim_after(request->ByteSizeLong());
          return status;
        });
  }

  grpc::ServerUnaryReactor* GetExperiment(grpc::CallbackServerContext* call,
                                          const v1::GetExperimentRequest* request,
                                          v1::GetExperimentResponse* response) override {
    return answer_now(
        context_, {call, kGetExperiment}, [this, request, response]() -> absl::Status {
          BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow row,
                                   context_.reader.experiment(request->experiment()));
          BITRUNG_ASSIGN_OR_RETURN(*response->mutable_experiment(), experiment_view(context_, row));
          response->set_source_yaml(row.source_yaml);
          response->set_graph_sha256(row.graph_sha256.hex());
          return absl::OkStatus();
        });
  }

  grpc::ServerUnaryReactor* ListExperiments(grpc::CallbackServerContext* call,
                                            const v1::ListExperimentsRequest* request,
                                            v1::ListExperimentsResponse* response) override {
    return answer_now(
        context_, {call, kListExperiments}, [this, request, response]() -> absl::Status {
          BITRUNG_ASSIGN_OR_RETURN(const Page page,
                                   parse_page(request->page_size(), request->page_token()));
          BITRUNG_ASSIGN_OR_RETURN(auto rows, context_.reader.experiments(
                                                  page.size + 1, page.position, request->name()));
          if (rows.size() > page.size) {
            rows.resize(page.size);
            response->set_next_page_token(page_token(number(rows.back().id)));
          }
          for (const db::ExperimentRow& row : rows) {
            BITRUNG_ASSIGN_OR_RETURN(*response->add_experiments(), experiment_view(context_, row));
          }
          return absl::OkStatus();
        });
  }

  grpc::ServerWriteReactor<v1::WatchExperimentResponse>* WatchExperiment(
      grpc::CallbackServerContext* call, const v1::WatchExperimentRequest* request) override {
    using Refused = RefusedStream<v1::WatchExperimentResponse>;
    const auto caller = context_.authority.admit(*call, kWatchExperiment);
    if (!caller.ok()) return new Refused(to_grpc(caller.status()));
    const auto row = context_.reader.experiment(request->experiment());
    if (!row.ok()) return new Refused(to_grpc(row.status()));
    auto* watch = new ExperimentWatch(context_, *caller, row->id, request->cursor());
    watch->wake();
    return watch;
  }

  grpc::ServerUnaryReactor* CancelExperiment(grpc::CallbackServerContext* call,
                                             const v1::CancelExperimentRequest* request,
                                             v1::CancelExperimentResponse* response) override {
    return answer_later(
        context_, {call, kCancelExperiment, subject_of(request->experiment(), request->jobs())},
        [this, request, response](const auth::Caller& caller,
                                  grpc::ServerUnaryReactor* reactor) -> absl::Status {
          BITRUNG_ASSIGN_OR_RETURN(std::vector<JobId> jobs,
                                   find_jobs(caller, request->experiment(), request->jobs()));
          context_.engine.cancel(std::move(jobs),
                                 [response, reactor](const absl::StatusOr<std::uint32_t>& changed) {
                                   if (changed.ok()) response->set_changed(*changed);
                                   reactor->Finish(to_grpc(changed.status()));
                                 });
          return absl::OkStatus();
        });
  }

  grpc::ServerUnaryReactor* RetryExperiment(grpc::CallbackServerContext* call,
                                            const v1::RetryExperimentRequest* request,
                                            v1::RetryExperimentResponse* response) override {
    return answer_later(
        context_, {call, kRetryExperiment, subject_of(request->experiment(), request->jobs())},
        [this, request, response](const auth::Caller& caller,
                                  grpc::ServerUnaryReactor* reactor) -> absl::Status {
          BITRUNG_ASSIGN_OR_RETURN(std::vector<JobId> jobs,
                                   find_jobs(caller, request->experiment(), request->jobs()));
          context_.engine.retry(std::move(jobs),
                                [response, reactor](const absl::StatusOr<std::uint32_t>& changed) {
                                  if (changed.ok()) response->set_changed(*changed);
                                  reactor->Finish(to_grpc(changed.status()));
                                });
          return absl::OkStatus();
        });
  }

 private:
  // Gives memory back to the system a while after a large request.
  void trim_after(std::size_t request_bytes) {
    if (request_bytes < kLargeRequestBytes) return;
    const std::lock_guard lock(trim_mutex_);
    trim_timer_.expires_after(kTrimDelay);
    trim_timer_.async_wait([](const boost::system::error_code& error) {
      if (!error) release_free_memory();
    });
  }

  // What is recorded already gets its answer on a full disk too.
  absl::StatusOr<bool> records_nothing(const engine::NewExperiment& experiment) const {
    BITRUNG_ASSIGN_OR_RETURN(const bool is_repeated,
                             context_.reader.knows_request(experiment.request_id));
    if (is_repeated || !experiment.join_active) return is_repeated;
    return context_.reader.knows_active(experiment.name, experiment.graph_sha256);
  }

  absl::Status submitted(const absl::StatusOr<engine::SubmitAnswer>& answer,
                         v1::SubmitExperimentResponse& response) const {
    BITRUNG_RETURN_IF_ERROR(answer.status());
    BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow row, context_.reader.experiment(answer->id));
    BITRUNG_ASSIGN_OR_RETURN(*response.mutable_experiment(), experiment_view(context_, row));
    response.set_already_submitted(answer->already_submitted);
    return absl::OkStatus();
  }

  // The named jobs, or all of the experiment, if the caller may change it.
  absl::StatusOr<std::vector<JobId>> find_jobs(const auth::Caller& caller,
                                               const std::string& experiment,
                                               const Names& names) const {
    BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow row, context_.reader.experiment(experiment));
    if (row.submitted_by != caller.name() && !caller.may(auth::Role::kOperator)) {
      return absl::PermissionDeniedError(fmt::format(
          "experiment {} was submitted by {}; {} may change only experiments of the same name, an "
          "operator all",
          row.name, row.submitted_by.empty() ? "somebody else" : row.submitted_by, caller.name()));
    }
    std::vector<JobId> jobs;
    for (const std::string& job_name : names) {
      BITRUNG_ASSIGN_OR_RETURN(const db::JobRow job, context_.reader.job(row.id, job_name));
      jobs.push_back(job.spec.id);
    }
    if (names.empty()) {
      BITRUNG_ASSIGN_OR_RETURN(
          const auto all,
          context_.reader.jobs(row.id, std::numeric_limits<std::int32_t>::max(), 0));
      for (const db::JobRow& job : all) jobs.push_back(job.spec.id);
    }
    return jobs;
  }

  const Context& context_;
  std::mutex trim_mutex_;
  boost::asio::steady_timer trim_timer_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_experiment_service(const Context& context) {
  return std::make_unique<ExperimentServiceImpl>(context);
}

}  // namespace bitrung::rpc
