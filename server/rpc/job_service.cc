// JobService: jobs, attempts, why, logs and series.
#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "bitrung/v1/job_service.grpc.pb.h"
#include "db/base/status.h"
#include "server/rpc/convert.h"
#include "server/rpc/explain_text.h"
#include "server/rpc/page.h"
#include "server/rpc/pull_stream.h"
#include "server/rpc/series.h"
#include "server/rpc/services.h"

namespace bitrung::rpc {
namespace {

constexpr std::string_view kGetJob = "bitrung.v1.JobService/GetJob";
constexpr std::string_view kGetReport = "bitrung.v1.JobService/GetReport";
constexpr std::string_view kListJobs = "bitrung.v1.JobService/ListJobs";
constexpr std::string_view kExplainJob = "bitrung.v1.JobService/ExplainJob";
constexpr std::string_view kStreamLogs = "bitrung.v1.JobService/StreamLogs";
constexpr std::string_view kGetSeries = "bitrung.v1.JobService/GetSeries";
constexpr std::string_view kWatchSeries = "bitrung.v1.JobService/WatchSeries";

constexpr std::size_t kLinesPerMessageMax = 1000;
constexpr int kJobsPerSeriesCallMax = 1000;
constexpr std::uint32_t kBucketsDefault = 1000;
constexpr std::uint32_t kBucketsMax = 10'000;
// Points a slow reader of a live series may be behind before the oldest are dropped; GetSeries has
// them all.
constexpr std::size_t kPointsQueuedMax = 10'000;

class LogStream final : public PullStream<v1::StreamLogsResponse> {
 public:
  LogStream(const Context& context, const auth::Caller& caller, const db::JobRow& job,
            const v1::StreamLogsRequest& request, std::uint64_t skip)
      : PullStream(context.pool, caller),
        context_(context),
        job_(job.spec.id),
        only_attempt_(request.attempt()),
        after_line_(request.after_line()),
        skip_(skip),
        follow_(request.follow()) {
    if (follow_) {
      subscription_ =
          context.publisher.subscribe(job.spec.experiment, {.on_jobs = [this] { wake(); },
                                                            .on_progress = nullptr,
                                                            .on_points = nullptr,
                                                            .on_logs =
                                                                [this](JobId id) {
                                                                  if (id == job_) wake();
                                                                }});
    }
  }

 private:
  Next produce(v1::StreamLogsResponse& message, grpc::Status& end) override {
    const auto more = fill(message);
    if (!more.ok()) end = to_grpc(more.status());
    if (!more.ok()) return Next::kEnd;
    if (message.lines_size() > 0) return Next::kMessage;
    return *more ? Next::kIdle : Next::kEnd;
  }

  // False when no line will ever follow.
  absl::StatusOr<bool> fill(v1::StreamLogsResponse& message) {
    // The state first: lines are recorded before the attempt ends, so after a terminal state none
    // can follow.
    BITRUNG_ASSIGN_OR_RETURN(const db::JobRow job, context_.reader.job(job_));
    const bool may_grow = follow_ && !is_terminal(job.state.state);
    while (message.lines_size() == 0) {
      BITRUNG_ASSIGN_OR_RETURN(const auto lines,
                               context_.reader.logs(job_, only_attempt_, last_attempt_, last_line_,
                                                    kLinesPerMessageMax));
      for (const db::LogRow& line : lines) {
        last_attempt_ = line.attempt;
        last_line_ = line.line;
        if (skip_ > 0) {
          --skip_;
          continue;
        }
        if (line.line <= after_line_) continue;
        v1::LogLine& out = *message.add_lines();
        out.set_attempt(line.attempt);
        out.set_line(line.line);
        out.set_time_ms(line.time_ms);
        out.set_text(line.text);
      }
      if (lines.empty()) break;
    }
    return may_grow;
  }

  const Context& context_;
  const JobId job_;
  const std::uint32_t only_attempt_;
  const std::uint64_t after_line_;
  std::uint64_t skip_;  // Lines still to be left out before the tail.
  const bool follow_;
  std::uint32_t last_attempt_ = 0;
  std::uint64_t last_line_ = 0;
};

class SeriesWatch final : public PullStream<v1::WatchSeriesResponse> {
 public:
  SeriesWatch(const Context& context, const auth::Caller& caller, const db::JobRow& job,
              const v1::WatchSeriesRequest& request)
      : PullStream(context.pool, caller),
        context_(context),
        job_(job.spec.id),
        names_(request.names().begin(), request.names().end()) {
    subscription_ = context.publisher.subscribe(
        job.spec.experiment,
        {.on_jobs = [this] { wake(); },
         .on_progress = nullptr,
         .on_points = [this](const engine::RecordedPoints& recorded) { take(recorded); },
         .on_logs = nullptr});
  }

 private:
  void take(const engine::RecordedPoints& recorded) {
    if (recorded.key.job != job_) return;
    {
      const std::lock_guard lock(queue_mutex_);
      queued_ += recorded.points->size();
      queue_.push_back(recorded);
      while (queued_ > kPointsQueuedMax && queue_.size() > 1) {
        queued_ -= queue_.front().points->size();
        queue_.pop_front();
      }
    }
    wake();
  }

  Next produce(v1::WatchSeriesResponse& message, grpc::Status& end) override {
    const auto job = context_.reader.job(job_);
    if (!job.ok()) {
      end = to_grpc(job.status());
      return Next::kEnd;
    }
    while (message.points_size() == 0) {
      engine::RecordedPoints recorded;
      {
        const std::lock_guard lock(queue_mutex_);
        if (queue_.empty()) return is_terminal(job->state.state) ? Next::kEnd : Next::kIdle;
        recorded = std::move(queue_.front());
        queue_.pop_front();
        queued_ -= recorded.points->size();
      }
      message.set_attempt(recorded.key.attempt);
      for (const db::PointRow& point : *recorded.points) {
        if (!names_.empty() && std::ranges::find(names_, point.series) == names_.end()) continue;
        v1::Point& out = *message.add_points();
        out.set_name(point.series);
        out.set_step(point.step);
        out.set_value(point.value);
      }
    }
    return Next::kMessage;
  }

  const Context& context_;
  const JobId job_;
  const std::vector<std::string> names_;
  std::mutex queue_mutex_;
  std::deque<engine::RecordedPoints> queue_;
  std::size_t queued_ = 0;
};

class JobServiceImpl final : public v1::JobService::CallbackService {
 public:
  explicit JobServiceImpl(const Context& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* call,
                                   const v1::GetJobRequest* request,
                                   v1::GetJobResponse* response) override {
    return answer_now(context_, {call, kGetJob}, [this, request, response]() -> absl::Status {
      BITRUNG_ASSIGN_OR_RETURN(const db::JobRow row, find_job(context_, request->job()));
      BITRUNG_ASSIGN_OR_RETURN(*response->mutable_job(), job_view(context_, row));
      BITRUNG_ASSIGN_OR_RETURN(const auto attempts, context_.reader.attempts(row.spec.id));
      for (const db::AttemptRow& attempt : attempts) to_proto(attempt, *response->add_attempts());
      if (row.state.identity) response->set_identity_sha256(row.state.identity->hex());
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* GetReport(grpc::CallbackServerContext* call,
                                      const v1::GetReportRequest* request,
                                      v1::GetReportResponse* response) override {
    return answer_now(context_, {call, kGetReport}, [this, request, response]() -> absl::Status {
      BITRUNG_ASSIGN_OR_RETURN(const db::JobRow row, find_job(context_, request->job()));
      BITRUNG_ASSIGN_OR_RETURN(*response->mutable_report_json(), report_of(context_, row));
      BITRUNG_ASSIGN_OR_RETURN(*response->mutable_job(), job_view(context_, row));
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* call,
                                     const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override {
    return answer_now(context_, {call, kListJobs}, [this, request, response]() -> absl::Status {
      BITRUNG_ASSIGN_OR_RETURN(const Page page,
                               parse_page(request->page_size(), request->page_token()));
      BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow experiment,
                               context_.reader.experiment(request->experiment()));
      BITRUNG_ASSIGN_OR_RETURN(auto rows,
                               context_.reader.jobs(experiment.id, page.size + 1, page.position));
      if (rows.size() > page.size) {
        rows.resize(page.size);
        response->set_next_page_token(page_token(number(rows.back().spec.id)));
      }
      for (const db::JobRow& row : rows) {
        BITRUNG_ASSIGN_OR_RETURN(*response->add_jobs(), job_view(context_, row));
      }
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* ExplainJob(grpc::CallbackServerContext* call,
                                       const v1::ExplainJobRequest* request,
                                       v1::ExplainJobResponse* response) override {
    return answer_later(
        context_, {call, kExplainJob},
        [this, request, response](grpc::ServerUnaryReactor* reactor) -> absl::Status {
          BITRUNG_ASSIGN_OR_RETURN(const db::JobRow row, find_job(context_, request->job()));
          context_.engine.explain(
              row.spec.id, [this, id = row.spec.id, response,
                            reactor](const absl::StatusOr<std::vector<core::Reason>>& reasons) {
                reactor->Finish(to_grpc(explained(id, reasons, *response)));
              });
          return absl::OkStatus();
        });
  }

  grpc::ServerWriteReactor<v1::StreamLogsResponse>* StreamLogs(
      grpc::CallbackServerContext* call, const v1::StreamLogsRequest* request) override {
    using Refused = RefusedStream<v1::StreamLogsResponse>;
    const auto caller = context_.authority.admit(*call, kStreamLogs);
    if (!caller.ok()) return new Refused(to_grpc(caller.status()));
    const auto job = find_job(context_, request->job());
    if (!job.ok()) return new Refused(to_grpc(job.status()));
    std::uint64_t skip = 0;
    if (request->tail() > 0) {
      const auto count = context_.reader.log_count(job->spec.id, request->attempt());
      if (!count.ok()) return new Refused(to_grpc(count.status()));
      skip = *count - std::min<std::uint64_t>(*count, request->tail());
    }
    auto* stream = new LogStream(context_, *caller, *job, *request, skip);
    stream->wake();
    return stream;
  }

  grpc::ServerUnaryReactor* GetSeries(grpc::CallbackServerContext* call,
                                      const v1::GetSeriesRequest* request,
                                      v1::GetSeriesResponse* response) override {
    return answer_now(context_, {call, kGetSeries}, [this, request, response]() -> absl::Status {
      if (request->jobs_size() > kJobsPerSeriesCallMax) {
        return absl::InvalidArgumentError(fmt::format("{} jobs in one call, the limit is {}",
                                                      request->jobs_size(), kJobsPerSeriesCallMax));
      }
      if (request->buckets_max() > kBucketsMax) {
        return absl::InvalidArgumentError(
            fmt::format("buckets_max is {}, the limit is {}", request->buckets_max(), kBucketsMax));
      }
      const std::uint32_t buckets =
          request->buckets_max() == 0 ? kBucketsDefault : request->buckets_max();
      const std::vector<std::string> names(request->names().begin(), request->names().end());
      // Neighbours of one experiment are looked up together.
      for (int begin = 0; begin < request->jobs_size();) {
        const std::string& experiment = request->jobs(begin).experiment();
        std::vector<std::string> jobs;
        for (; begin < request->jobs_size() && request->jobs(begin).experiment() == experiment;
             ++begin) {
          jobs.push_back(request->jobs(begin).job());
        }
        BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow row,
                                 context_.reader.experiment(experiment));
        BITRUNG_ASSIGN_OR_RETURN(const auto heads, context_.reader.job_heads(row.id, jobs));
        for (const db::StoreReader::JobHead& job : heads)
          BITRUNG_RETURN_IF_ERROR(add_series(job, names, buckets, *response));
      }
      return absl::OkStatus();
    });
  }

  grpc::ServerWriteReactor<v1::WatchSeriesResponse>* WatchSeries(
      grpc::CallbackServerContext* call, const v1::WatchSeriesRequest* request) override {
    using Refused = RefusedStream<v1::WatchSeriesResponse>;
    const auto caller = context_.authority.admit(*call, kWatchSeries);
    if (!caller.ok()) return new Refused(to_grpc(caller.status()));
    const auto job = find_job(context_, request->job());
    if (!job.ok()) return new Refused(to_grpc(job.status()));
    auto* watch = new SeriesWatch(context_, *caller, *job, *request);
    watch->wake();
    return watch;
  }

 private:
  absl::Status add_series(const db::StoreReader::JobHead& job,
                          const std::vector<std::string>& names, std::uint32_t buckets,
                          v1::GetSeriesResponse& response) const {
    // A cached job has no attempt: its series are those of the job that really ran.
    BITRUNG_ASSIGN_OR_RETURN(auto rows, context_.reader.series(job.cached_from.value_or(job.id),
                                                               names, /*with_points=*/true));
    for (const db::SeriesRow& row : join_attempts(std::move(rows))) {
      v1::Series& out = *response.add_series();
      out.set_job_id(number(job.id));
      out.set_job(job.name);
      fill_buckets(row, buckets, out);
    }
    return absl::OkStatus();
  }

  absl::Status explained(JobId id, const absl::StatusOr<std::vector<core::Reason>>& reasons,
                         v1::ExplainJobResponse& response) const {
    BITRUNG_RETURN_IF_ERROR(reasons.status());
    BITRUNG_ASSIGN_OR_RETURN(const db::JobRow row, context_.reader.job(id));
    response.set_state(to_proto(row.state.state));
    BITRUNG_ASSIGN_OR_RETURN(const auto lines, explain_text(context_.reader, row, *reasons));
    for (const std::string& line : lines) response.add_lines(line);
    return absl::OkStatus();
  }

  const Context& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_job_service(const Context& context) {
  return std::make_unique<JobServiceImpl>(context);
}

}  // namespace bitrung::rpc
