// Performs what the core decides: files, processes, connections, timers.
//
// One io_context thread owns everything here. Work that blocks runs elsewhere and comes back as an
// event: durable writes, copies and removals on one disk thread (so they keep their order),
// transfers on a small pool, reading data sets on a thread of their own.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/artifacts.h"
#include "worker/agent/core.h"
#include "worker/agent/dataset_catalog.h"
#include "worker/agent/journal.h"
#include "worker/agent/no_op.h"
#include "worker/agent/session.h"
#include "worker/agent/spool.h"
#include "worker/agent/state_directory.h"
#include "worker/agent/trainer_process.h"
#include "worker/agent/transfers.h"
#include "worker/agent/wire.h"

namespace bitrung::agent {

struct AgentOptions {
  ServerAddress server;
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  std::string name;
  std::string version;
  std::filesystem::path trainer;
  std::uint32_t numerics = 0;
  Layout layout;
  std::vector<std::filesystem::path> data_directories;
  LocateDataset locate;
  milliseconds silence_timeout = std::chrono::minutes(5);
  // Artifacts kept for the next jobs; a teacher serves all its students.
  std::uint64_t cache_bytes_max = std::uint64_t{20} << 30;
  milliseconds dataset_scan_interval = std::chrono::seconds(30);
  // Set: no trainer is started, and every attempt succeeds at once (see no_op.h).
  std::optional<NoOpOptions> no_op;
};

class Agent {
 public:
  // Reads the spool; the state directory must outlive the agent.
  static absl::StatusOr<std::unique_ptr<Agent>> create(boost::asio::io_context& io,
                                                       const StateDirectory& state,
                                                       AgentOptions options);
  ~Agent();

  // Begins; the io_context runs out of work once the agent has shut down.
  void start();
  // Gives everything back and leaves; see ShutdownRequested.
  void shut_down();
  // Called once, when the agent has nothing left to do.
  void on_exit(std::function<void()> handler) { exited_ = std::move(handler); }

 private:
  // Artifacts that attempts hold must not fall out of the cache. Shared by the io thread and the
  // disk thread.
  class Pins {
   public:
    void add(const AttemptKey& key, const Digest& artifact);
    void remove(const AttemptKey& key);
    bool has(const Digest& artifact) const;

   private:
    mutable std::mutex mutex_;
    std::map<AttemptKey, std::set<Digest>> pins_;
  };

  Agent(boost::asio::io_context& io, const StateDirectory& state, AgentOptions options,
        db::ArtifactStore cache, Journal journal, std::vector<RecoveredAttempt> recovered,
        std::map<AttemptKey, AttemptSpool> spools);

  // What is to be written to the journal, and what has to be done first.
  struct Note {
    Journal::Note note;
    std::vector<FileDescriptor> files;  // Synced before.
    std::filesystem::path directory;    // Made before, or removed afterwards; none if empty.
  };

  // Feeds the core and performs its actions; an event that an action causes is taken up after the
  // others.
  void step(Event event);
  void step_all(std::vector<Event> events);
  void arm_wake_up();

  void perform(const OpenSession& action);
  void perform(const CloseSession& action);
  void perform(const PersistTerm& action);
  void perform(const SendHeartbeat& action);
  void perform(const SendStarted& action);
  void perform(const SendPoints& action);
  void perform(const SendLines& action);
  void perform(const SendCheckpoint& action);
  void perform(const SendOutcome& action);
  void perform(const SendDatasets& action);
  void perform(const SendStopping& action);
  void perform(const PersistOffer& action);
  void perform(const AppendPoints& action);
  void perform(const AppendLine& action);
  void perform(const RecordWatermarks& action);
  void perform(const PersistOutcome& action);
  void perform(const FetchInputs& action);
  void perform(const StoreFile& action);
  void perform(const Upload& action);
  void perform(const DeleteAttempt& action);
  void perform(const StartTrainer& action);
  void perform(const KillTrainer& action);
  void perform(const SendTrain& action);
  void perform(const SendCancel& action);
  void perform(const SendPreempt& action);
  void perform(const LogText& action);
  void perform(const Exit& action);

  // The trainer's part of an attempt, without one.
  void do_nothing(const Offer& offer);

  void send(v1::OpenSessionRequest request);
  void received(SessionId session, const v1::OpenSessionResponse& response);
  // Notes of one turn are written together, and those that come meanwhile together after them.
  void write_notes();
  absl::Status prepare(const Note& note);
  // Its points and lines; made with the first of them.
  absl::StatusOr<AttemptSpool*> spool_of(const AttemptKey& key);
  void on_trainer_event(std::uint32_t slot, std::string_view line);
  void on_trainer_line(std::uint32_t slot, std::string_view line);
  void spool_failed(const AttemptKey& key, const absl::Status& status);
  // Runs `work` on the pool and its result, an event, on the io thread.
  template <typename Work>
  void run_on(boost::asio::thread_pool& pool, Work work);
  void sync_soon(const AttemptKey& key);
  void sync_spools();
  void scan_datasets();
  void shrink_cache();

  boost::asio::io_context& io_;
  const StateDirectory& state_;
  const AgentOptions options_;
  const SpoolLayout layout_;
  const Identity identity_;
  db::ArtifactStore cache_;
  Pins pins_;
  Core core_;
  std::vector<RecoveredAttempt> recovered_;

  std::shared_ptr<grpc::Channel> session_channel_;
  std::unique_ptr<v1::WorkerService::Stub> stub_;
  std::unique_ptr<Session> session_;
  Transfers transfers_;
  Journal journal_;  // The disk thread's.
  std::vector<Note> notes_;
  bool writing_notes_ = false;
  std::map<AttemptKey, AttemptSpool> spools_;
  std::set<AttemptKey> unsynced_;
  std::vector<std::unique_ptr<TrainerProcess>> trainers_;
  DatasetCatalog datasets_;
  std::set<std::string> dataset_problems_;  // Each is said once.
  std::optional<Digest> no_op_model_;       // Once it is in the cache.
  bool no_op_model_uploaded_ = false;
  std::map<AttemptKey, SendStarted> no_op_started_;
  std::ofstream no_op_trace_;  // Per attempt its job and when it began, in monotonic nanoseconds.

  std::deque<Event> events_;
  bool stepping_ = false;
  bool over_ = false;
  boost::asio::steady_timer wake_up_;
  boost::asio::steady_timer sync_timer_;
  boost::asio::steady_timer scan_timer_;
  std::function<void()> exited_;

  // Last, so that their threads end before what they use.
  boost::asio::thread_pool disk_{1};
  boost::asio::thread_pool network_{4};
  boost::asio::thread_pool reader_{1};
};

}  // namespace bitrung::agent
