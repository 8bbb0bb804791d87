#include "tests/unit/server/core/stored.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <variant>

namespace bitrung::core {
namespace {

template <typename... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};
template <typename... Visitors>
Overloaded(Visitors...) -> Overloaded<Visitors...>;

bool is_live(AttemptState state) {
  return state == AttemptState::kOffered || state == AttemptState::kRunning;
}

}  // namespace

void Stored::expect_specs(std::vector<db::JobSpecRow> specs) {
  new_specs_ = std::move(specs);
}

void Stored::apply(const Effects& effects, const Core& core) {
  for (const Effect& effect : effects) {
    std::visit(
        Overloaded{
            [&](const AddExperiment& add) {
              ASSERT_EQ(add.job_count, new_specs_.size());
              for (std::uint32_t i = 0; i < add.job_count; ++i) {
                db::JobSpecRow& spec = new_specs_[i];
                spec.id = JobId{number(add.first_job) + i};
                spec.experiment = add.id;
                for (db::InputRow& input : spec.inputs) {
                  if (input.parent.has_value()) {  // Written as a position until now.
                    input.parent = JobId{number(add.first_job) + number(*input.parent)};
                  }
                }
                ASSERT_FALSE(jobs_.contains(spec.id));
                jobs_[spec.id].spec = spec;
              }
              finished_[add.id] = 0;
            },
            [&](const SaveJob& save) {
              ASSERT_TRUE(jobs_.contains(save.job));
              db::JobStateRow& row = jobs_[save.job].state;
              const bool had_won = row.state == JobState::kSucceeded;
              const auto result = row.result;
              const std::vector<std::uint32_t> chosen = row.chosen;
              row = core.row(save.job);
              ASSERT_TRUE(std::ranges::includes(row.chosen, chosen)) << "a choice was taken back";
              if (had_won) {
                ASSERT_EQ(row.state, JobState::kSucceeded);
                ASSERT_EQ(row.result, result);
              }
            },
            [&](const SaveAttempt& save) { save_attempt(save.row); },
            [&](const SavePin& save) {
              ASSERT_TRUE(finished_.contains(save.row.experiment));
              ASSERT_TRUE(
                  pins_.emplace(std::pair(save.row.experiment, save.row.dataset), save.row.sha256)
                      .second)
                  << "the data set was pinned already";
            },
            [&](const SaveReport& save) {
              ASSERT_TRUE(jobs_.contains(save.job));
              ASSERT_FALSE(jobs_[save.job].state.cached_from.has_value());
              ASSERT_TRUE(reports_.emplace(save.job, save.report_json).second)
                  << "the job has a report already";
            },
            [&](const SaveWorker& save) {
              const auto worker = core.worker(save.worker_id);
              ASSERT_TRUE(worker.has_value());
              workers_[save.worker_id] = {worker->worker_id, worker->name,         worker->version,
                                          worker->draining,  worker->last_seen_ms, ""};
            },
            [&](const SaveExperimentFinished& save) {
              ASSERT_NE(finished_.at(save.id) == 0, save.finished_at_ms == 0);
              finished_[save.id] = save.finished_at_ms;
            },
            [](const Send&) {},
        },
        effect);
  }
}

void Stored::save_attempt(const db::AttemptRow& row) {
  const std::pair key(row.job, row.attempt);
  const auto found = attempts_.find(key);
  if (found == attempts_.end()) {
    ASSERT_EQ(row.state, AttemptState::kOffered);
    ASSERT_TRUE(row.attempt == 1 || attempts_.contains({row.job, row.attempt - 1}));
  } else {
    ASSERT_TRUE(is_live(found->second.state)) << "an attempt that has ended is final";
  }
  attempts_[key] = row;
  int winners = 0;
  int live = 0;
  for (auto each = attempts_.lower_bound({row.job, 0});
       each != attempts_.end() && each->first.first == row.job; ++each) {
    winners += each->second.state == AttemptState::kSucceeded ? 1 : 0;
    live += is_live(each->second.state) ? 1 : 0;
  }
  ASSERT_LE(winners, 1);
  ASSERT_LE(live, 1);
  ASSERT_LE(winners + live, 1);
}

db::Snapshot Stored::snapshot() const {
  db::Snapshot snapshot;
  for (const auto& [id, job] : jobs_) {
    snapshot.jobs.push_back(job);
    const auto attempt = attempts_.find({id, job.state.attempt});
    if (attempt != attempts_.end() && is_live(attempt->second.state)) {
      snapshot.jobs.back().live_attempt = attempt->second;
    }
  }
  for (const auto& [key, sha256] : pins_) {
    snapshot.pins.push_back({key.first, key.second, sha256});
  }
  for (const auto& [id, worker] : workers_) {
    snapshot.workers.push_back(worker);
  }
  snapshot.next_job_id = jobs_.empty() ? 1 : number(jobs_.rbegin()->first) + 1;
  snapshot.next_experiment_id = finished_.empty() ? 1 : number(finished_.rbegin()->first) + 1;
  return snapshot;
}

}  // namespace bitrung::core
