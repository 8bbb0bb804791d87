// The services, one source file each. A Context outlives them.
#pragma once

#include <memory>

#include <grpcpp/impl/service_type.h>

#include "server/rpc/context.h"

namespace bitrung::rpc {

std::unique_ptr<grpc::Service> make_access_service(const Context& context);
std::unique_ptr<grpc::Service> make_artifact_service(const Context& context);
std::unique_ptr<grpc::Service> make_experiment_service(const Context& context);
std::unique_ptr<grpc::Service> make_fleet_service(const Context& context);
std::unique_ptr<grpc::Service> make_job_service(const Context& context);
std::unique_ptr<grpc::Service> make_results_service(const Context& context);
std::unique_ptr<grpc::Service> make_worker_service(const Context& context);

}  // namespace bitrung::rpc
