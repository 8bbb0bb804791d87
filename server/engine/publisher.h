// Tells readers that something was committed: watchers of experiments, followers of logs and
// series.
//
// A listener is called on the engine's thread, after the commit, and must only take note and
// return: it reads the store by itself. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "db/rows.h"
#include "server/core/core.h"

namespace bitrung::engine {

// Where a running attempt is, as its worker last said. Volatile.
struct Progress {
  std::uint32_t attempt = 0;
  std::uint32_t epoch = 0;
  std::uint32_t epochs = 0;
  std::uint64_t step = 0;
  std::uint64_t steps = 0;
  double images_per_second = 0;
  std::optional<double> accuracy;
  std::optional<double> eta_seconds;
};

// Points of one attempt that were just committed.
struct RecordedPoints {
  core::AttemptKey key;
  std::shared_ptr<const std::vector<db::PointRow>> points;
};

class Publisher {
 public:
  struct Listener {
    std::function<void()> on_jobs;           // A job of the experiment changed.
    std::function<void(JobId)> on_progress;  // Progress of a job of the experiment changed.
    std::function<void(const RecordedPoints&)>
        on_points;                       // Points of a job of the experiment were recorded.
    std::function<void(JobId)> on_logs;  // Log lines of a job of the experiment were recorded.
  };

  // Listens until the returned handle is destroyed; no call is made or in progress after that.
  class Subscription {
   public:
    Subscription(Publisher& publisher, ExperimentId experiment, std::uint64_t id)
        : publisher_(publisher), experiment_(experiment), id_(id) {}
    ~Subscription();
    Subscription(const Subscription&) = delete;
    Subscription& operator=(const Subscription&) = delete;

   private:
    Publisher& publisher_;
    const ExperimentId experiment_;
    const std::uint64_t id_;
  };
  std::unique_ptr<Subscription> subscribe(ExperimentId experiment, Listener listener);

  void jobs_changed(ExperimentId experiment);
  void points_recorded(ExperimentId experiment, const RecordedPoints& recorded);
  void logs_recorded(ExperimentId experiment, JobId job);
  void progress_changed(ExperimentId experiment, JobId job, const Progress& progress);
  // The attempt has ended; its progress is forgotten.
  void forget_progress(JobId job);
  std::optional<Progress> progress(JobId job) const;

 private:
  void call(ExperimentId experiment, const std::function<void(const Listener&)>& each);

  mutable std::mutex
      mutex_;  // Held while listeners run, so that a Subscription's end is a clean cut.
  std::uint64_t next_id_ = 1;
  std::unordered_map<std::int64_t, std::map<std::uint64_t, Listener>>
      listeners_;  // By experiment, by subscription.
  mutable std::mutex progress_mutex_;
  std::unordered_map<std::int64_t, Progress> progress_;  // By job.
};

}  // namespace bitrung::engine
