#include "worker/agent/session.h"

#include <chrono>
#include <deque>
#include <utility>

#include <fmt/format.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/client_callback.h>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "db/base/address.h"
#include "db/base/status.h"

namespace bitrung::agent {
namespace {

// A message has at most 1 MiB, and at most so many statements.
constexpr std::size_t kBatchBytesMax = std::size_t{512} << 10;
constexpr int kBatchStatementsMax = 4096;
// For the last statements to leave and the server to end the call.
constexpr std::chrono::seconds kFinishTimeout{2};

}  // namespace

absl::StatusOr<ServerAddress> parse_server_address(const std::string& text) {
  BITRUNG_RETURN_IF_ERROR(parse_address(text).status());
  return ServerAddress{text};
}

std::shared_ptr<grpc::Channel> make_channel(
    const ServerAddress& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
    bool keepalive) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (keepalive) {
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  }
  // An address means that host, whatever http_proxy says.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // The core decides when to try again; gRPC's own back-off of up to two minutes must not be in its
  // way.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  return grpc::CreateCustomChannel(address.target, credentials, arguments);
}

// gRPC calls it on its own threads; it only posts to the io_context, whose thread owns every
// member. It keeps itself alive until gRPC is done with it.
class Session::Reactor
    : public grpc::ClientBidiReactor<v1::OpenSessionRequest, v1::OpenSessionResponse>,
      public std::enable_shared_from_this<Reactor> {
 public:
  Reactor(boost::asio::io_context& io, Handlers handlers)
      : io_(io), work_(io.get_executor()), handlers_(std::move(handlers)), finish_timer_(io) {}

  void start(v1::WorkerService::Stub& stub) {
    self_ = shared_from_this();
    stub.async()->OpenSession(&context_, this);
    // Writes start from outside of reactions, so the call must not end between them by itself.
    AddHold();
    StartRead(&incoming_);
    StartCall();
  }

  // Leaves when the handler that is running has returned, together with what it says besides.
  void send(v1::OpenSessionRequest request) {
    if (ended_) return;
    outgoing_.push_back(std::move(request));
    if (std::exchange(pump_posted_, true)) return;
    boost::asio::post(io_, [self = shared_from_this()] {
      self->pump_posted_ = false;
      self->pump();
    });
  }

  void send_batches() { batches_ = true; }

  void finish() {
    handlers_ = {};
    if (ended_) return;
    finishing_ = true;
    finish_timer_.expires_after(kFinishTimeout);
    finish_timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
      if (!error) self->context_.TryCancel();
    });
    pump();
  }

  void close() {
    handlers_ = {};
    context_.TryCancel();
    end();
  }

  void OnReadDone(bool ok) override {
    boost::asio::post(io_, [this, ok] {
      if (!ok) return end();
      // A copy: the handler may close the session and with it the handlers.
      if (const auto received = handlers_.received) received(incoming_);
      if (!ended_) StartRead(&incoming_);
    });
  }

  void OnWriteDone(bool ok) override {
    boost::asio::post(io_, [this, ok] {
      writing_ = false;
      if (!ok) return end();
      pump();
    });
  }

  void OnDone(const grpc::Status& status) override {
    boost::asio::post(io_, [this, status] {
      if (handlers_.closed) {
        std::exchange(handlers_, {})
            .closed(status.ok() ? "the server ended it"
                                : fmt::format("{} (gRPC code {})", status.error_message(),
                                              static_cast<int>(status.error_code())));
      }
      finish_timer_.cancel();
      work_.reset();
      self_.reset();
    });
  }

 private:
  void pump() {
    if (ended_ || writing_) return;
    if (!outgoing_.empty()) {
      writing_ = true;
      take_message();
      StartWrite(&message_);
    } else if (finishing_ && !std::exchange(writes_done_, true)) {
      StartWritesDone();
    }
  }

  // The next message: one statement, or as many as fit.
  void take_message() {
    message_ = std::move(outgoing_.front());
    outgoing_.pop_front();
    if (!batches_ || outgoing_.empty()) return;
    std::size_t bytes = message_.ByteSizeLong();
    v1::OpenSessionRequest batch;
    auto& statements = *batch.mutable_batch()->mutable_statements();
    *statements.Add() = std::move(message_);
    while (!outgoing_.empty() && statements.size() < kBatchStatementsMax) {
      bytes += outgoing_.front().ByteSizeLong();
      if (bytes > kBatchBytesMax) break;
      *statements.Add() = std::move(outgoing_.front());
      outgoing_.pop_front();
    }
    message_ = std::move(batch);
  }

  // No operation is started any more; OnDone follows.
  void end() {
    if (std::exchange(ended_, true)) return;
    RemoveHold();
  }

  boost::asio::io_context& io_;
  // The io_context runs at least until gRPC has let go of this object.
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  Handlers handlers_;
  grpc::ClientContext context_;
  v1::OpenSessionResponse incoming_;
  std::deque<v1::OpenSessionRequest> outgoing_;
  v1::OpenSessionRequest message_;  // Being written.
  bool batches_ = false;
  bool pump_posted_ = false;
  bool writing_ = false;
  bool ended_ = false;
  bool finishing_ = false;
  bool writes_done_ = false;
  boost::asio::steady_timer finish_timer_;
  std::shared_ptr<Reactor> self_;
};

Session::Session(boost::asio::io_context& io, v1::WorkerService::Stub& stub, Handlers handlers)
    : reactor_(std::make_shared<Reactor>(io, std::move(handlers))) {
  reactor_->start(stub);
}

Session::~Session() {
  reactor_->close();
}

void Session::finish() {
  reactor_->finish();
}

void Session::send_batches() {
  reactor_->send_batches();
}

void Session::send(v1::OpenSessionRequest request) {
  reactor_->send(std::move(request));
}

}  // namespace bitrung::agent
