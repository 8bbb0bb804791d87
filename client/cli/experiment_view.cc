#include "client/cli/experiment_view.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "client/cli/words.h"

namespace bitrung::cli {
namespace {

// Jobs that take about the same time per epoch.
using Kind = std::tuple<std::string, std::string, bool>;

Kind kind_of(const v1::Job& job) {
  return {job.model(), job.dataset(), !job.teacher().empty()};
}

struct Pace {
  double seconds = 0;
  double epochs = 0;
};

// Seconds of training that a running job has had and will have, by its own estimate.
std::optional<double> expected_seconds(const v1::Job& job) {
  const v1::Progress& progress = job.progress();
  if (!progress.has_eta_seconds() || progress.steps() == 0 || progress.step() >= progress.steps()) {
    return std::nullopt;
  }
  const double left =
      1.0 - static_cast<double>(progress.step()) / static_cast<double>(progress.steps());
  return progress.eta_seconds() / left;
}

bool same_news(const v1::Job& a, const v1::Job& b) {
  return a.state() == b.state() && a.attempts() == b.attempts() && a.error() == b.error() &&
         a.cached() == b.cached();
}

}  // namespace

std::vector<v1::Job> ExperimentView::apply(const v1::WatchExperimentResponse& message) {
  std::vector<v1::Job> news;
  for (const v1::Job& job : message.jobs()) {
    const auto found = jobs_.find(job.job_id());
    if (message.progress_only()) {
      if (found != jobs_.end()) *found->second.mutable_progress() = job.progress();
      continue;
    }
    // A job met for the first time is news only if something has happened to it: a large experiment
    // arrives in parts.
    const bool changed = found == jobs_.end() ? job.state() != v1::JOB_STATE_BLOCKED &&
                                                    job.state() != v1::JOB_STATE_READY
                                              : !same_news(found->second, job);
    if (changed) news.push_back(job);
    v1::Job merged = job;
    // A change of something else must not make the progress vanish until the next report.
    if (found != jobs_.end() && !merged.has_progress() && found->second.has_progress() &&
        merged.state() == v1::JOB_STATE_RUNNING && merged.attempts() == found->second.attempts()) {
      *merged.mutable_progress() = found->second.progress();
    }
    by_name_[job.name()] = job.job_id();
    for (const std::string& alias : job.aliases()) by_name_[alias] = job.job_id();
    jobs_[job.job_id()] = std::move(merged);
  }
  if (message.has_experiment()) experiment_ = message.experiment();
  if (!message.progress_only()) cursor_ = std::max(cursor_, message.cursor());
  concurrent_max_ = std::max(concurrent_max_, count(v1::JOB_STATE_RUNNING));
  std::ranges::sort(news, {}, &v1::Job::job_id);
  return news;
}

bool ExperimentView::terminal() const {
  return is_terminal(experiment_.state());
}

std::uint32_t ExperimentView::count(v1::JobState state) const {
  return static_cast<std::uint32_t>(std::ranges::count_if(
      jobs_, [state](const auto& entry) { return entry.second.state() == state; }));
}

const v1::Job* ExperimentView::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &jobs_.at(found->second);
}

std::vector<std::string> ExperimentView::unfinished_parents(const v1::Job& job) const {
  std::vector<std::string> names;
  for (const std::string& parent : job.parents()) {
    const v1::Job* found = find(parent);
    if (found == nullptr || found->state() != v1::JOB_STATE_SUCCEEDED) names.push_back(parent);
  }
  return names;
}

std::optional<double> ExperimentView::remaining_seconds() const {
  std::map<Kind, Pace> paces;
  Pace overall;
  for (const auto& [id, job] : jobs_) {
    double seconds = 0;
    if (job.state() == v1::JOB_STATE_SUCCEEDED && !job.cached() && job.has_result()) {
      seconds = job.result().duration_seconds();
    } else if (job.state() == v1::JOB_STATE_RUNNING) {
      seconds = expected_seconds(job).value_or(0);
    }
    if (seconds <= 0 || job.epochs() == 0) continue;
    for (Pace* pace : {&paces[kind_of(job)], &overall}) {
      pace->seconds += seconds;
      pace->epochs += job.epochs();
    }
  }
  if (overall.epochs <= 0) return std::nullopt;

  std::map<std::int64_t, double> own;  // Seconds left in the job itself.
  double total = 0;
  for (const auto& [id, job] : jobs_) {
    if (is_terminal(job.state())) continue;
    double seconds = 0;
    if (job.state() == v1::JOB_STATE_RUNNING && job.progress().has_eta_seconds()) {
      seconds = job.progress().eta_seconds();
    } else {
      const auto pace = paces.find(kind_of(job));
      const Pace& measured = pace == paces.end() ? overall : pace->second;
      seconds = measured.seconds / measured.epochs * job.epochs();
    }
    own[id] = seconds;
    total += seconds;
  }

  // Longest chain that ends in each job; parents first, without recursion, as a ladder may be long.
  std::map<std::int64_t, double> chain;
  double longest = 0;
  std::vector<std::int64_t> stack;
  for (const auto& [start, seconds] : own) {
    stack.push_back(start);
    while (!stack.empty()) {
      const std::int64_t id = stack.back();
      if (chain.contains(id)) {
        stack.pop_back();
        continue;
      }
      double before = 0;
      bool complete = true;
      for (const std::string& name : jobs_.at(id).parents()) {
        const v1::Job* parent = find(name);
        if (parent == nullptr || !own.contains(parent->job_id())) continue;
        const auto known = chain.find(parent->job_id());
        if (known != chain.end()) {
          before = std::max(before, known->second);
        } else if (stack.size() <=
                   jobs_.size()) {  // The server refuses cycles; do not hang on one.
          stack.push_back(parent->job_id());
          complete = false;
        }
      }
      if (!complete) continue;
      chain[id] = before + own[id];
      longest = std::max(longest, chain[id]);
      stack.pop_back();
    }
  }
  return std::max(longest, total / static_cast<double>(concurrent_max_));
}

}  // namespace bitrung::cli
