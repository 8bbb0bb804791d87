// How often something may happen: so many at once, and so many a second in the long run.
#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

namespace bitrung::auth {

using Time = std::chrono::steady_clock::time_point;

struct Rate {
  double burst = 1;
  double per_second = 1;
};

// A bucket of tokens. Not thread-safe.
class Bucket {
 public:
  explicit Bucket(const Rate& rate) : rate_(rate), tokens_(rate.burst) {}

  // Takes one, if there is one.
  bool take(Time now);
  // Seconds until there is one again; 0 if there is.
  double wait_seconds(Time now) const;
  bool full(Time now) const;

 private:
  double tokens_at(Time now) const;

  Rate rate_;
  double tokens_;
  Time at_{};
};

// Logins that failed, by address. Thread-safe; bounded: when there are too many addresses, those
// that have waited long enough are forgotten, and if none has, all.
class FailedLogins {
 public:
  static constexpr Rate kRate{.burst = 10, .per_second = 10.0 / 60};
  static constexpr std::size_t kAddressesMax = 10'000;

  // Seconds that this address has to wait before it may try again; 0 for none.
  double wait_seconds(std::string_view address, Time now);
  void add(std::string_view address, Time now);

 private:
  std::mutex mutex_;
  std::unordered_map<std::string, Bucket> buckets_;
};

}  // namespace bitrung::auth
