// FleetService: workers, draining, the server itself.
#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>

#include "bitrung/v1/fleet_service.grpc.pb.h"
#include "db/base/status.h"
#include "server/rpc/convert.h"
#include "server/rpc/services.h"

namespace bitrung::rpc {
namespace {

constexpr std::string_view kListWorkers = "bitrung.v1.FleetService/ListWorkers";
constexpr std::string_view kDrainWorker = "bitrung.v1.FleetService/DrainWorker";
constexpr std::string_view kGetServer = "bitrung.v1.FleetService/GetServer";

absl::Status worker_view(const Context& context, const core::WorkerInfo& info, v1::Worker& out) {
  to_proto(info, out);
  for (const core::AttemptKey& key : info.attempts) {
    BITRUNG_ASSIGN_OR_RETURN(const db::JobRow job, context.reader.job(key.job));
    BITRUNG_ASSIGN_OR_RETURN(const db::ExperimentRow experiment,
                             context.reader.experiment(job.spec.experiment));
    out.add_jobs(fmt::format("{}/{}", experiment.name, job.spec.name));
  }
  return absl::OkStatus();
}

class FleetServiceImpl final : public v1::FleetService::CallbackService {
 public:
  explicit FleetServiceImpl(const Context& context) : context_(context) {}

  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* call,
                                        const v1::ListWorkersRequest*,
                                        v1::ListWorkersResponse* response) override {
    return answer_later(
        context_, {call, kListWorkers}, [this, response](grpc::ServerUnaryReactor* reactor) {
          context_.engine.workers(
              [this, response, reactor](absl::StatusOr<std::vector<core::WorkerInfo>> workers) {
                absl::Status status = workers.status();
                if (status.ok()) {
                  std::ranges::sort(*workers, {}, &core::WorkerInfo::name);
                  for (const core::WorkerInfo& info : *workers)
                    status.Update(worker_view(context_, info, *response->add_workers()));
                }
                reactor->Finish(to_grpc(status));
              });
          return absl::OkStatus();
        });
  }

  grpc::ServerUnaryReactor* DrainWorker(grpc::CallbackServerContext* call,
                                        const v1::DrainWorkerRequest* request,
                                        v1::DrainWorkerResponse* response) override {
    return answer_later(
        context_,
        {call, kDrainWorker,
         fmt::format("{} {}", request->worker(), request->drain() ? "on" : "off")},
        [this, request, response](grpc::ServerUnaryReactor* reactor) {
          context_.engine.drain(
              request->worker(), request->drain(),
              [this, response, reactor](const absl::StatusOr<core::WorkerInfo>& worker) {
                absl::Status status = worker.status();
                if (status.ok())
                  status = worker_view(context_, *worker, *response->mutable_worker());
                reactor->Finish(to_grpc(status));
              });
          return absl::OkStatus();
        });
  }

  grpc::ServerUnaryReactor* GetServer(grpc::CallbackServerContext* call,
                                      const v1::GetServerRequest*,
                                      v1::GetServerResponse* response) override {
    return answer_now(context_, {call, kGetServer}, [this, response] {
      response->set_version(context_.version);
      response->set_term(context_.term);
      response->set_pid(::getpid());
      return absl::OkStatus();
    });
  }

 private:
  const Context& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_fleet_service(const Context& context) {
  return std::make_unique<FleetServiceImpl>(context);
}

}  // namespace bitrung::rpc
