// Random worlds: workers that come and go, lose offers, repeat themselves and speak out of turn;
// people who cancel and retry; restarts and jumps of time. World checks its invariants after every
// step; here are the ones that need the step before, and that everything ends once nothing goes
// wrong any more.
//
// Whoever makes one decides what is random: a generator, or the bytes of a fuzzer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/server/core/world.h"

namespace bitrung::core {

class RandomWorld {
 public:
  // `below(n)` is a number from 0 to n-1.
  using Below = std::function<std::uint32_t(std::size_t)>;

  explicit RandomWorld(Below below);

  void step();
  // Everybody is there, nothing fails: every job ends.
  void run_to_the_end();

 private:
  void submit();
  void join(const std::string& worker);
  void heartbeat(const std::string& worker);
  void report(const std::string& worker, AttemptKey key);
  // Any worker, about any attempt that was ever or never handed out.
  void speak_out_of_turn();
  void retry();
  std::vector<JobId> some_jobs();
  AttemptSucceeded success(const std::string& worker, AttemptKey key);
  void take_messages();
  void check_terminal();
  bool all_terminal() const;
  std::string text(const std::set<AttemptKey>& keys) const;
  bool one_in(std::size_t n) { return below_(n) == 0; }
  template <typename Container>
  auto pick(const Container& from) {
    return *std::next(from.begin(), below_(from.size()));
  }

  const Below below_;
  World world_;
  bool calm_ = false;  // Nothing is lost any more.
  std::size_t experiments_ = 0;
  std::map<std::string, std::set<AttemptKey>> held_;  // What each worker believes to hold.
  std::set<AttemptKey> to_cancel_;
  std::set<AttemptKey> spoken_;
  std::map<JobId, JobState> states_;
  std::map<JobId, std::uint32_t> latest_attempt_;
};

}  // namespace bitrung::core
