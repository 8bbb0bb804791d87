// A server stream that reads what to send when it is told that something changed, and when the last
// message is out. A slow reader thus gets fewer, fuller messages and nothing queues up. A stream
// whose caller has lost his access ends with its next message.
//
// produce() runs on the pool, never twice at once. wake() may be called from any thread. The object
// deletes itself.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include <grpcpp/support/server_callback.h>
#include <grpcpp/support/status.h>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>

#include "server/auth/authority.h"
#include "server/engine/publisher.h"

namespace bitrung::rpc {

template <typename Response>
class PullStream : public grpc::ServerWriteReactor<Response> {
 public:
  PullStream(boost::asio::thread_pool& pool, auth::Caller caller)
      : pool_(pool), caller_(std::move(caller)) {}

  // Something may have changed.
  void wake() {
    const std::lock_guard lock(mutex_);
    dirty_ = true;
    if (busy_ || finished_) return;
    busy_ = true;
    boost::asio::post(pool_, [this] { pump(); });
  }

 protected:
  enum class Next { kMessage, kIdle, kEnd };
  // Fills `message` and says kMessage; or kIdle until the next wake(); or sets `end` and says kEnd.
  virtual Next produce(Response& message, grpc::Status& end) = 0;

  const auth::Caller& caller() const { return caller_; }

  // Kept until the stream is done.
  std::unique_ptr<engine::Publisher::Subscription> subscription_;

 private:
  void pump() {
    while (true) {
      {
        const std::lock_guard lock(mutex_);
        dirty_ = false;
        if (cancelled_) return finish_locked(grpc::Status::CANCELLED);
        if (!caller_.is_valid()) {
          return finish_locked({grpc::StatusCode::UNAUTHENTICATED, "the login was revoked"});
        }
      }
      message_.Clear();
      grpc::Status end;
      const Next next = produce(message_, end);
      if (next == Next::kMessage) return this->StartWrite(&message_);
      const std::lock_guard lock(mutex_);
      if (next == Next::kEnd) return finish_locked(end);
      if (!dirty_ && !cancelled_) {
        busy_ = false;
        return;
      }
    }
  }

  void finish_locked(const grpc::Status& status) {
    finished_ = true;
    this->Finish(status);
  }

  void OnWriteDone(bool ok) override {
    if (ok) {
      boost::asio::post(pool_, [this] { pump(); });
    } else {
      const std::lock_guard lock(mutex_);
      finish_locked(grpc::Status::CANCELLED);
    }
  }

  void OnCancel() override {
    {
      const std::lock_guard lock(mutex_);
      cancelled_ = true;
    }
    wake();
  }

  void OnDone() override {
    subscription_.reset();
    delete this;
  }

  boost::asio::thread_pool& pool_;
  const auth::Caller caller_;
  std::mutex mutex_;
  bool busy_ = false;   // pump() is queued or running, or a write is under way.
  bool dirty_ = false;  // Woken since the last produce().
  bool cancelled_ = false;
  bool finished_ = false;
  Response message_;
};

// Ends a stream at once, for calls that are refused.
template <typename Response>
class RefusedStream final : public grpc::ServerWriteReactor<Response> {
 public:
  explicit RefusedStream(const grpc::Status& status) { this->Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace bitrung::rpc
