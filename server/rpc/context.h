// What every service needs, and the few ways a service answers.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>
#include <grpcpp/support/status.h>
#include <boost/asio/thread_pool.hpp>

#include "absl/status/status.h"
#include "db/artifacts.h"
#include "db/base/disk_reserve.h"
#include "db/store.h"
#include "server/auth/authority.h"
#include "server/engine/engine.h"
#include "server/engine/publisher.h"

namespace bitrung::rpc {

// Borrowed by every service; outlives the gRPC server.
struct Context {
  engine::Engine& engine;
  engine::Publisher& publisher;
  db::StoreReader& reader;
  db::ArtifactStore& artifacts;
  DiskReserve& disk;
  const auth::Authority& authority;
  boost::asio::thread_pool& pool;  // Where streams read the store.
  std::string version;
  std::int64_t term = 0;
  std::chrono::milliseconds lease{};
  std::chrono::milliseconds heartbeat_interval{};
  std::int64_t restored_term = 0;  // See db::restored_term().
};

// The codes of the two are the same numbers.
grpc::Status to_grpc(const absl::Status& status);

// A call answered on the spot, by reading: `answer` returns absl::Status.
template <std::invocable Answer>
grpc::ServerUnaryReactor* answer_now(const Context& context, grpc::CallbackServerContext* call,
                                     Answer answer) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  grpc::Status status = context.authority.check(*call);
  if (status.ok()) status = to_grpc(answer());
  reactor->Finish(status);
  return reactor;
}

// A call answered later, by the engine: `ask(reactor)` must see to it that Finish is called once. A
// status that is not OK ends the call at once, and then nothing may have been asked.
template <std::invocable<grpc::ServerUnaryReactor*> Ask>
grpc::ServerUnaryReactor* answer_later(const Context& context, grpc::CallbackServerContext* call,
                                       Ask ask) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  grpc::Status status = context.authority.check(*call);
  if (status.ok()) status = to_grpc(ask(reactor));
  if (!status.ok()) reactor->Finish(status);
  return reactor;
}

}  // namespace bitrung::rpc
