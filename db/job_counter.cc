#include "db/job_counter.h"

#include "db/base/check.h"

namespace bitrung::db {
namespace {

// A longer gap between two numbers is not worth its empty places.
constexpr std::int64_t kGapMax = 1'000'000;

}  // namespace

const JobCounter::Note* JobCounter::find(JobId job) const {
  const std::int64_t position = number(job) - first_;
  if (position >= 0 && position < std::ssize(notes_)) {
    const Note& note = notes_[static_cast<std::size_t>(position)];
    if (note.experiment != kUnknown) return &note;
  }
  const auto far = far_notes_.find(number(job));
  return far == far_notes_.end() ? nullptr : &far->second;
}

void JobCounter::add(const Note& note, int sign) {
  const auto state = static_cast<std::size_t>(note.state);
  Count& count = experiments_[note.experiment].counts[state];
  count.jobs += static_cast<std::uint32_t>(sign);
  if (note.cached) count.cached += static_cast<std::uint32_t>(sign);
  changed_.emplace(note.experiment, state);
}

void JobCounter::insert(JobId job, ExperimentId experiment, JobState state, bool cached) {
  const auto [entry, is_new] =
      positions_.try_emplace(number(experiment), static_cast<std::uint32_t>(experiments_.size()));
  if (is_new) experiments_.emplace_back().id = experiment;
  BITRUNG_CHECK(!contains(job));
  const Note note{entry->second, state, cached};
  if (notes_.empty()) first_ = number(job);
  const std::int64_t position = number(job) - first_;
  if (position < 0 || position > std::ssize(notes_) + kGapMax) {
    far_notes_[number(job)] = note;
  } else {
    if (position >= std::ssize(notes_)) notes_.resize(static_cast<std::size_t>(position) + 1);
    notes_[static_cast<std::size_t>(position)] = note;
  }
  add(note, 1);
}

void JobCounter::update(JobId job, JobState state, bool cached) {
  Note* const found = find(job);
  BITRUNG_CHECK(found != nullptr);
  Note& note = *found;
  if (note.state == state && note.cached == cached) return;
  add(note, -1);
  note.state = state;
  note.cached = cached;
  add(note, 1);
}

JobCounter::Count JobCounter::count(ExperimentId experiment, JobState state) const {
  const auto found = positions_.find(number(experiment));
  if (found == positions_.end()) return {};
  return experiments_[found->second].counts[static_cast<std::size_t>(state)];
}

}  // namespace bitrung::db
