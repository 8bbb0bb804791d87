// A coordinator for tests: answers every worker statement as the protocol wants and keeps what it
// was told.
//
// Decides nothing by itself: the test offers, cancels, fences, and cuts connections. Thread-safe.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <grpcpp/server.h>

#include "bitrung/v1/artifact_service.grpc.pb.h"
#include "bitrung/v1/worker_service.grpc.pb.h"

namespace bitrung::agent {

// "12-3".
std::string key_text(const v1::AttemptKey& key);

// What the server was told about an attempt.
struct AttemptRecord {
  int started = 0;
  std::uint32_t resumed_epoch = 0;
  std::vector<double> points;  // Values, in the order of their sequence numbers.
  std::vector<std::string> lines;
  std::vector<v1::Checkpoint> checkpoints;
  std::vector<v1::Outcome> outcomes;
  v1::Progress progress;
};

class FakeServer {
 public:
  explicit FakeServer(std::filesystem::path socket);
  ~FakeServer();

  void start();
  // As a crash: every call ends. What was recorded stays.
  void stop();

  // In the current session.
  void offer(const v1::Offer& offer);
  // As one message.
  void offer_together(const std::vector<v1::Offer>& offers);
  void cancel(const std::string& key);
  void fence(const std::string& key);
  // Ends the current session, not the server.
  void drop_session();

  // Points are recorded but their replies are withheld.
  void hold_replies(bool hold);
  // Outcomes are recorded but their replies are withheld.
  void hold_outcome_replies(bool hold);
  void set_term(std::int64_t term);
  void fence_in_welcome(const std::string& key);

  std::string put_artifact(const std::string& bytes);
  std::string artifact(const std::string& sha256) const;
  // Under a digest that is not its own.
  void put_artifact_as(const std::string& sha256, const std::string& bytes);
  // As an interrupted upload left it.
  void put_partial(const std::string& sha256, const std::string& bytes);
  std::uint64_t uploads() const;
  std::uint64_t last_upload_offset() const;
  std::uint64_t last_download_offset() const;

  // Waits until the condition holds for what is known; false after a minute.
  bool wait(const std::function<bool(const FakeServer&)>& condition);

  // For conditions and, with the worker idle, for expectations.
  const AttemptRecord& attempt(const std::string& key) const;
  std::size_t sessions() const { return hellos_.size(); }
  bool connected() const { return stream_ != nullptr; }
  bool stopping() const { return stopping_; }
  // Heartbeats heard in all sessions. A worker sends none before it is welcomed.
  std::size_t heartbeats() const { return heartbeats_; }
  const v1::Hello& hello() const { return hellos_.back(); }
  const std::vector<std::string>& mistakes() const { return mistakes_; }
  const std::vector<v1::Dataset>& datasets() const { return datasets_; }

 private:
  using Stream = grpc::ServerReaderWriter<v1::OpenSessionResponse, v1::OpenSessionRequest>;
  class Sessions;
  class Artifacts;

  void handle(const v1::OpenSessionRequest& request, Stream* stream);
  void say(const v1::OpenSessionResponse& response);

  const std::filesystem::path socket_;
  std::unique_ptr<Sessions> sessions_service_;
  std::unique_ptr<Artifacts> artifacts_service_;
  std::unique_ptr<grpc::Server> server_;

  mutable std::recursive_mutex mutex_;
  std::condition_variable_any changed_;
  Stream* stream_ = nullptr;
  grpc::ServerContext* context_ = nullptr;
  std::int64_t term_ = 1;
  bool stopping_ = false;
  std::size_t heartbeats_ = 0;
  bool hold_replies_ = false;
  bool hold_outcome_replies_ = false;
  std::set<std::string> fenced_;
  std::vector<v1::Hello> hellos_;
  std::vector<v1::Dataset> datasets_;
  std::map<std::string, AttemptRecord> attempts_;
  std::map<std::string, std::string> artifacts_;
  std::map<std::string, std::string> partials_;
  std::uint64_t uploads_ = 0;
  std::uint64_t last_upload_offset_ = 0;
  std::uint64_t last_download_offset_ = 0;
  std::vector<std::string> mistakes_;
};

}  // namespace bitrung::agent
