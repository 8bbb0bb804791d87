// Virtual time: what happens when, in one order. Two things at one instant happen in the order in
// which they were planned.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

namespace bitrung::sim {

// Microseconds since the simulation began, by a clock that nobody in it can read.
using Micros = std::int64_t;
inline constexpr Micros kMilli = 1'000;
inline constexpr Micros kSecond = 1'000'000;

class Loop {
 public:
  Micros now() const { return now_; }
  void at(Micros when, std::function<void()> what) {
    queue_.push_back({std::max(when, now_), next_++, std::move(what)});
    std::push_heap(queue_.begin(), queue_.end(), Later{});
  }
  void after(Micros delay, std::function<void()> what) { at(now_ + delay, std::move(what)); }
  // False when nothing is planned.
  bool run_one() {
    if (queue_.empty()) return false;
    std::pop_heap(queue_.begin(), queue_.end(), Later{});
    Planned planned = std::move(queue_.back());
    queue_.pop_back();
    now_ = planned.when;
    planned.what();
    return true;
  }
  std::size_t planned() const { return queue_.size(); }

 private:
  struct Planned {
    Micros when = 0;
    std::uint64_t order = 0;
    std::function<void()> what;
  };
  struct Later {
    bool operator()(const Planned& a, const Planned& b) const {
      return std::pair(a.when, a.order) > std::pair(b.when, b.order);
    }
  };

  Micros now_ = 0;
  std::uint64_t next_ = 0;
  std::vector<Planned> queue_;  // A heap.
};

// A process that may stand still: what reaches it meanwhile waits, in order.
class Standstill {
 public:
  explicit Standstill(Loop& loop) : loop_(loop) {}

  void extend(Micros until) {
    until_ = std::max(until_, until);
    loop_.at(until_, [this] {
      if (until_ <= loop_.now()) go_on();
    });
  }
  // Keeps `what` for later if the process stands still.
  bool holds(std::function<void()> what) {
    if (going_on_ || (!is_on() && waiting_.empty())) return false;
    waiting_.push_back(std::move(what));
    return true;
  }
  bool is_on() const { return until_ > loop_.now(); }
  // The process has ended, and with it what waited.
  void forget() {
    waiting_.clear();
    until_ = 0;
  }

 private:
  void go_on() {
    going_on_ = true;
    while (!waiting_.empty()) {
      const std::function<void()> next = std::move(waiting_.front());
      waiting_.pop_front();
      next();
    }
    going_on_ = false;
  }

  Loop& loop_;
  Micros until_ = 0;
  bool going_on_ = false;
  std::deque<std::function<void()>> waiting_;
};

// A machine's monotonic clock: starts anywhere, runs a little too fast or too slow, never jumps.
class HostClock {
 public:
  HostClock(std::int64_t offset_ms, std::int64_t rate_ppm)
      : offset_ms_(offset_ms), rate_ppm_(rate_ppm) {}
  std::chrono::milliseconds local(Micros now) const {
    return std::chrono::milliseconds(offset_ms_ + (now + now * rate_ppm_ / 1'000'000) / 1'000);
  }
  // The first instant at which it shows that much.
  Micros when(std::chrono::milliseconds shown) const {
    const double wanted = static_cast<double>(shown.count() - offset_ms_) * 1'000.0;
    Micros guess = static_cast<Micros>(wanted / (1.0 + static_cast<double>(rate_ppm_) / 1e6)) - 3;
    guess = std::max<Micros>(guess, 0);
    while (local(guess) < shown) ++guess;
    return guess;
  }

 private:
  std::int64_t offset_ms_;
  std::int64_t rate_ppm_;
};

}  // namespace bitrung::sim
