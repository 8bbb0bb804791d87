#include "server/engine/publisher.h"

#include <utility>

namespace bitrung::engine {

Publisher::Subscription::~Subscription() {
  const std::lock_guard lock(publisher_.mutex_);
  const auto found = publisher_.listeners_.find(number(experiment_));
  if (found == publisher_.listeners_.end()) return;
  found->second.erase(id_);
  if (found->second.empty()) publisher_.listeners_.erase(found);
}

std::unique_ptr<Publisher::Subscription> Publisher::subscribe(ExperimentId experiment,
                                                              Listener listener) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t id = next_id_++;
  listeners_[number(experiment)].emplace(id, std::move(listener));
  return std::make_unique<Subscription>(*this, experiment, id);
}

void Publisher::call(ExperimentId experiment, const std::function<void(const Listener&)>& each) {
  const std::lock_guard lock(mutex_);
  const auto found = listeners_.find(number(experiment));
  if (found == listeners_.end()) return;
  for (const auto& [id, listener] : found->second) each(listener);
}

void Publisher::jobs_changed(ExperimentId experiment) {
  call(experiment, [](const Listener& listener) {
    if (listener.on_jobs) listener.on_jobs();
  });
}

void Publisher::points_recorded(ExperimentId experiment, const RecordedPoints& recorded) {
  call(experiment, [&](const Listener& listener) {
    if (listener.on_points) listener.on_points(recorded);
  });
}

void Publisher::logs_recorded(ExperimentId experiment, JobId job) {
  call(experiment, [job](const Listener& listener) {
    if (listener.on_logs) listener.on_logs(job);
  });
}

void Publisher::progress_changed(ExperimentId experiment, JobId job, const Progress& progress) {
  {
    const std::lock_guard lock(progress_mutex_);
    progress_[number(job)] = progress;
  }
  call(experiment, [job](const Listener& listener) {
    if (listener.on_progress) listener.on_progress(job);
  });
}

void Publisher::forget_progress(JobId job) {
  const std::lock_guard lock(progress_mutex_);
  progress_.erase(number(job));
}

std::optional<Progress> Publisher::progress(JobId job) const {
  const std::lock_guard lock(progress_mutex_);
  const auto found = progress_.find(number(job));
  if (found == progress_.end()) return std::nullopt;
  return found->second;
}

}  // namespace bitrung::engine
