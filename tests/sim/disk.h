// The server's disk: tables in memory with the rules of the schema, a transaction that a crash
// takes back, and the Store that the engine works on.
//
// It is a model, because opening an SQLite file for each of a thousand restarts would cost more
// than the rest of the simulation. It is kept honest by running beside the real one: with a
// directory given, every call also goes to db::Store on a file there, what both answer is compared,
// and after each restart both loads are compared row by row. A crash before the commit destroys
// both with their transaction open; lost sectors and torn pages are not modelled here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "db/store.h"

namespace bitrung::sim {

using AttemptId = std::pair<JobId, std::uint32_t>;

bool is_live(AttemptState state);

struct Tables {
  struct Job {
    db::JobSpecRow spec;
    db::JobStateRow state;
  };
  struct Attempt {
    db::AttemptRow row;
    std::vector<db::PointRow> points;
    std::vector<db::LogRow> lines;
  };
  std::int64_t term = 0;
  std::map<ExperimentId, db::ExperimentRow> experiments;
  struct Request {
    Digest sha256;
    ExperimentId id{};
  };
  std::map<std::string, Request, std::less<>> requests;
  std::vector<Job> jobs;  // Job n stands at n-1.
  std::map<AttemptId, Attempt> attempts;
  std::map<std::pair<ExperimentId, std::string>, Digest> pins;
  std::map<JobId, std::string> reports;
  std::map<std::string, db::WorkerRow> workers;
  std::map<Digest, std::uint64_t> artifacts;

  const Job& job(JobId id) const { return jobs.at(static_cast<std::size_t>(number(id) - 1)); }
  const Attempt* attempt(AttemptId id) const {
    const auto found = attempts.find(id);
    return found == attempts.end() ? nullptr : &found->second;
  }
};

// What a transaction changed: the rows as they were before it, nothing for new ones.
struct Changes {
  std::map<JobId, std::optional<db::JobStateRow>> jobs;
  std::map<AttemptId, std::optional<db::AttemptRow>> attempts;
};

enum class CommitFate { kDone, kDiesBefore, kDiesAfter, kFails };

// What the simulation wants to know and to decide.
struct DiskHooks {
  std::function<CommitFate()> on_commit;                 // Asked before each commit.
  std::function<void(const Changes&)> committed;         // Right after one.
  std::function<void(AttemptId)> appended;               // Points or lines, not committed yet.
  std::function<void(const std::string&)> disagreement;  // The model and SQLite differ.
};

class Disk {
 public:
  explicit Disk(DiskHooks hooks, std::optional<std::filesystem::path> directory);

  // As db::Store::open(): a new term. One at a time; destroying it without a commit rolls back.
  std::unique_ptr<db::Store> open_store();

  // Including the rows of an open transaction.
  const Tables& tables() const { return tables_; }
  bool in_transaction() const { return in_transaction_; }

 private:
  friend class SimStore;

  void roll_back();

  DiskHooks hooks_;
  std::optional<std::filesystem::path> directory_;
  Tables tables_;
  bool in_transaction_ = false;
  std::vector<std::function<void()>> undo_;
  Changes changes_;
};

}  // namespace bitrung::sim
