// What a store would hold after the effects of the core: applies them, defends the store's own
// rules (one winner, one live attempt per job, attempts that have ended stay as they are), and
// gives back a snapshot to start from.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "db/rows.h"
#include "server/core/core.h"

namespace bitrung::core {

class Stored {
 public:
  // Rows of the experiment that the next AddExperiment names, in the order of its jobs.
  void expect_specs(std::vector<db::JobSpecRow> specs);
  // Applies the effects of one step; `core` has taken it.
  void apply(const Effects& effects, const Core& core);

  db::Snapshot snapshot() const;
  const std::map<JobId, db::Snapshot::Job>& jobs() const { return jobs_; }
  const std::map<std::pair<JobId, std::uint32_t>, db::AttemptRow>& attempts() const {
    return attempts_;
  }
  const db::AttemptRow& attempt(AttemptKey key) const {
    return attempts_.at({key.job, key.attempt});
  }
  const std::map<std::pair<ExperimentId, std::string>, Digest>& pins() const { return pins_; }
  const std::map<std::string, db::WorkerRow>& workers() const { return workers_; }
  const std::map<JobId, std::string>& reports() const { return reports_; }
  // 0 while it is not finished.
  std::int64_t finished_at_ms(ExperimentId id) const { return finished_.at(id); }

 private:
  void save_attempt(const db::AttemptRow& row);

  std::vector<db::JobSpecRow> new_specs_;
  std::map<JobId, db::Snapshot::Job> jobs_;
  std::map<std::pair<JobId, std::uint32_t>, db::AttemptRow> attempts_;
  std::map<std::pair<ExperimentId, std::string>, Digest> pins_;
  std::map<std::string, db::WorkerRow> workers_;
  std::map<ExperimentId, std::int64_t> finished_;
  std::map<JobId, std::string> reports_;
};

}  // namespace bitrung::core
