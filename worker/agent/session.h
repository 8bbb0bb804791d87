// One gRPC stream to the server, as calls and callbacks on the io_context's thread.
//
// Keeps nothing beyond the connection: what must not be lost is in the spool, and the core says it
// again in the next session. Statements of a session are sent in order.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>
#include <boost/asio/io_context.hpp>

#include "absl/status/statusor.h"
#include "bitrung/v1/worker_service.grpc.pb.h"

namespace bitrung::agent {

struct ServerAddress {
  std::string target;  // As gRPC takes it: "unix:/run/bitrung.sock", "host:port".
};
// As parse_address() in db/base/address.h.
absl::StatusOr<ServerAddress> parse_server_address(const std::string& text);

// A channel of its own connection, so that a large transfer on another one does not delay
// heartbeats. Keepalive pings suit a connection on which the server speaks often; a server takes
// many of them on a silent one for an attack.
std::shared_ptr<grpc::Channel> make_channel(
    const ServerAddress& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
    bool keepalive);

class Session {
 public:
  struct Handlers {
    std::function<void(const v1::OpenSessionResponse&)> received;
    // Once, unless close() came first.
    std::function<void(std::string reason)> closed;
  };

  Session(boost::asio::io_context& io, v1::WorkerService::Stub& stub, Handlers handlers);
  // Ends the call; no handler is called any more.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void send(v1::OpenSessionRequest request);
  // From now on statements that wait are put into one message.
  void send_batches();
  // Lets what is queued leave, then ends the call; no handler is called any more. The io_context
  // has work until it has ended.
  void finish();

 private:
  class Reactor;
  std::shared_ptr<Reactor> reactor_;
};

}  // namespace bitrung::agent
