// What a watcher knows of an experiment: the jobs as last heard, and what is left to do. Fed with
// the messages of the watch stream; no clock and no output here. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bitrung/v1/experiment_service.pb.h"

namespace bitrung::cli {

class ExperimentView {
 public:
  // Takes a message in. Returns the jobs whose state, attempt or outcome differs from what was
  // known, in submit order; of those that were not known, the ones that do more than wait.
  std::vector<v1::Job> apply(const v1::WatchExperimentResponse& message);

  const v1::Experiment& experiment() const { return experiment_; }
  // By number, which is submit order.
  const std::map<std::int64_t, v1::Job>& jobs() const { return jobs_; }
  bool terminal() const;
  std::int64_t cursor() const { return cursor_; }

  // Seconds until all jobs are done at the pace measured so far: the longest chain, or the whole of
  // the work divided by the number of jobs that ran at once, whichever is more. Nothing before
  // there is a pace.
  std::optional<double> remaining_seconds() const;

  // Parents of the job that are not done yet, by name.
  std::vector<std::string> unfinished_parents(const v1::Job& job) const;

  std::uint32_t count(v1::JobState state) const;

 private:
  const v1::Job* find(const std::string& name) const;

  v1::Experiment experiment_;
  std::map<std::int64_t, v1::Job> jobs_;
  std::map<std::string, std::int64_t> by_name_;  // Names and aliases.
  std::int64_t cursor_ = 0;
  std::uint32_t concurrent_max_ = 1;
};

}  // namespace bitrung::cli
