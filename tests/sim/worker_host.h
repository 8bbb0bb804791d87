// A worker's machine: the real core of the agent, started again and again on one disk, with
// simulated trainers.
//
// What agent.cc does with each action: points and lines are appended to the spool at once and
// synced after a second; offers, outcomes, copies and removals go through one disk thread in order;
// transfers are calls over the network. What spool.cc gives back after a restart: every attempt
// whose offer is complete, its outcome if there is one, how far its points and lines were written
// and acknowledged, its newest resume state. A kill stops at any point between these; a power loss
// also takes what was not synced.
//
// A trainer speaks as PROTOCOL.md says: started, points, progress, resume states, an end. It may
// also crash, fall silent, run out of memory, diverge, ignore a cancel, or not come up.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tests/sim/loop.h"
#include "tests/sim/messages.h"
#include "tests/sim/network.h"
#include "worker/agent/core.h"

namespace bitrung::sim {

class Simulation;

class WorkerHost {
 public:
  // The slots share a core for each of them, or have their own.
  WorkerHost(Simulation& sim, std::size_t index, std::uint32_t slots, bool shares_cores,
             HostClock clock);
  ~WorkerHost();

  void start();
  void kill(bool power_loss, bool disk_loss);
  // The whole machine stands still, trainers included.
  void pause(Micros how_long);
  void shut_down();
  void find_datasets(std::vector<agent::DatasetEntry> datasets);
  void restore_datasets();
  bool is_up() const { return core_ != nullptr; }
  // Nothing in the spool, nothing in training.
  bool is_idle() const;
  const std::string& id() const { return id_; }
  std::uint64_t starts() const { return run_; }
  std::string describe() const;

  void receive(Connection& connection, const engine::ToWorker& message);
  void closed(Connection& connection, const char* why);

 private:
  struct SpoolEntry {
    agent::Offer offer;
    std::vector<agent::Point> points;
    std::vector<agent::LogLine> lines;
    bool offer_synced = false;
    std::size_t points_synced = 0;
    std::size_t lines_synced = 0;
    std::uint64_t points_acknowledged = 0;
    std::uint64_t lines_acknowledged = 0;
    std::optional<agent::Outcome> outcome;
    std::optional<agent::CheckpointFile> resume;
  };
  struct Trainer {
    enum class State : std::uint8_t { kNone, kStarting, kIdle, kTraining };
    State state = State::kNone;
    std::uint64_t process = 0;
    std::uint64_t run = 0;  // Rises with each process and each command: older plans are void.
    std::optional<agent::Offer> offer = std::nullopt;
    bool is_deaf = false;
    std::uint32_t epoch = 0;
    std::uint32_t epochs = 0;
    std::uint32_t fails_at = 0;  // The epoch in which `failure` happens; 0 for none.
    std::size_t failure = 0;
    Micros epoch_time = 0;
    std::optional<agent::CheckpointFile> newest = std::nullopt;
  };

  agent::Time local_now() const;
  // Runs it on this machine: not if the process has died since, later if the machine stands still.
  void in_process(Micros delay, std::function<void()> what);
  void on_disk(std::function<void()> what);
  void step(agent::Event event);
  void arm();
  bool spool_fails();

  void perform(const agent::OpenSession& action);
  void perform(const agent::CloseSession& action);
  void perform(const agent::PersistTerm& action);
  void perform(const agent::SendHeartbeat& action);
  void perform(const agent::SendStarted& action);
  void perform(const agent::SendPoints& action);
  void perform(const agent::SendLines& action);
  void perform(const agent::SendCheckpoint& action);
  void perform(const agent::SendOutcome& action);
  void perform(const agent::SendDatasets& action);
  void perform(const agent::SendStopping& action);
  void perform(const agent::PersistOffer& action);
  void perform(const agent::AppendPoints& action);
  void perform(const agent::AppendLine& action);
  void perform(const agent::RecordWatermarks& action);
  void perform(const agent::PersistOutcome& action);
  void perform(const agent::FetchInputs& action);
  void perform(const agent::StoreFile& action);
  void perform(const agent::Upload& action);
  void perform(const agent::DeleteAttempt& action);
  void perform(const agent::StartTrainer& action);
  void perform(const agent::KillTrainer& action);
  void perform(const agent::SendTrain& action);
  void perform(const agent::SendCancel& action);
  void perform(const agent::SendPreempt& action);
  void perform(const agent::LogText& action);
  void perform(const agent::Exit& action);

  void say(Statement statement);
  void sync_journal();
  void sync_soon(const agent::AttemptKey& key);
  // When a trainer that is told to stop now has stopped at the latest.
  Micros stopped_by(const agent::AttemptKey& key) const;
  void fetch_next(const agent::FetchInputs& fetch, std::size_t next,
                  std::map<Digest, std::string> paths);

  // ---- Trainers ----
  void train_epoch(std::uint32_t slot);
  void trainer_says(std::uint32_t slot, agent::TrainingEvent event);
  void trainer_exits(std::uint32_t slot, const char* how, bool out_of_memory);
  void training_over(Trainer& trainer);
  agent::CheckpointFile write_resume_state(Trainer& trainer);

  Simulation& sim_;
  const std::size_t index_;
  const std::uint32_t slots_;
  const std::uint32_t shared_cores_;
  const HostClock clock_;
  std::string id_;
  std::vector<agent::DatasetEntry> own_datasets_;

  std::unique_ptr<agent::Core> core_;
  std::uint64_t run_ = 0;
  std::deque<agent::Event> events_;
  bool stepping_ = false;
  std::optional<agent::Time> alarm_;
  std::uint64_t alarms_ = 0;
  Standstill standstill_;
  Micros disk_free_ = 0;
  Connection* connection_ = nullptr;
  std::vector<Trainer> trainers_;
  std::set<agent::AttemptKey> open_spools_;
  std::set<agent::AttemptKey> unsynced_;

  // On the disk.
  std::map<agent::AttemptKey, SpoolEntry> spool_;
  std::set<Digest> cache_;
  std::map<std::string, Digest> files_;  // Content by path.
  std::int64_t term_ = 0;
  std::uint64_t lives_ = 0;
  std::uint64_t files_written_ = 0;
};

}  // namespace bitrung::sim
