// How many jobs each experiment has in each state, beside the rows of the jobs: what changed since
// the last commit is written as a few rows of table job_count. Not thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "db/words.h"

namespace bitrung::db {

class JobCounter {
 public:
  static constexpr std::size_t kStates = static_cast<std::size_t>(JobState::kSkipped) + 1;
  struct Count {
    std::uint32_t jobs = 0;
    std::uint32_t cached = 0;
    bool operator==(const Count&) const = default;
  };

  void insert(JobId job, ExperimentId experiment, JobState state, bool cached);
  // Must have been inserted.
  void update(JobId job, JobState state, bool cached);

  bool contains(JobId job) const { return find(job) != nullptr; }
  Count count(ExperimentId experiment, JobState state) const;

  // Calls visit(experiment, state, count) for each count that changed since the last call.
  template <typename Visit>
  void take_changes(Visit visit) {
    for (const auto& [number, state] : std::exchange(changed_, {})) {
      visit(experiments_[number].id, static_cast<JobState>(state),
            experiments_[number].counts[state]);
    }
  }

 private:
  struct Experiment {
    ExperimentId id{};
    std::array<Count, kStates> counts{};
  };
  static constexpr std::uint32_t kUnknown = 0xffff'ffff;
  struct Note {
    std::uint32_t experiment = kUnknown;  // Position in experiments_.
    JobState state{};
    bool cached = false;
  };

  const Note* find(JobId job) const;
  Note* find(JobId job) { return const_cast<Note*>(std::as_const(*this).find(job)); }
  void add(const Note& note, int sign);

  std::int64_t first_ = 0;                            // Number of the job of notes_[0].
  std::vector<Note> notes_;                           // Numbers of jobs are nearly consecutive.
  std::unordered_map<std::int64_t, Note> far_notes_;  // The few that are not.
  std::vector<Experiment> experiments_;
  std::unordered_map<std::int64_t, std::uint32_t> positions_;
  std::set<std::pair<std::uint32_t, std::size_t>> changed_;
};

}  // namespace bitrung::db
