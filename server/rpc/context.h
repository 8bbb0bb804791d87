// What every service needs, and the few ways a service answers.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

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

// A call as it arrived: which method it is ("bitrung.v1.JobService/GetJob"), and for the audit log
// what it is about.
struct Call {
  grpc::CallbackServerContext* context;
  std::string_view method;
  std::string subject = {};
};

// Calls `function`, with who asks if it wants to know.
template <typename Function, typename... Arguments>
absl::Status ask_as(const auth::Caller& caller, Function& function, Arguments&&... arguments) {
  if constexpr (std::invocable<Function&, const auth::Caller&, Arguments...>) {
    return function(caller, std::forward<Arguments>(arguments)...);
  } else {
    return function(std::forward<Arguments>(arguments)...);
  }
}

// A call answered on the spot, by reading: `answer()` or `answer(caller)` returns absl::Status.
template <typename Answer>
grpc::ServerUnaryReactor* answer_now(const Context& context, const Call& call, Answer answer) {
  grpc::ServerUnaryReactor* reactor = call.context->DefaultReactor();
  const auto caller = context.authority.admit(*call.context, call.method, call.subject);
  reactor->Finish(to_grpc(caller.ok() ? ask_as(*caller, answer) : caller.status()));
  return reactor;
}

// A call answered later, by the engine: `ask(reactor)` or `ask(caller, reactor)` must see to it
// that Finish is called once. A status that is not OK ends the call at once, and then nothing may
// have been asked.
template <typename Ask>
grpc::ServerUnaryReactor* answer_later(const Context& context, const Call& call, Ask ask) {
  grpc::ServerUnaryReactor* reactor = call.context->DefaultReactor();
  const auto caller = context.authority.admit(*call.context, call.method, call.subject);
  const absl::Status status = caller.ok() ? ask_as(*caller, ask, reactor) : caller.status();
  if (!status.ok()) reactor->Finish(to_grpc(status));
  return reactor;
}

}  // namespace bitrung::rpc
