#include <ctime>

#include "db/base/check.h"
#include "server/engine/engine.h"

namespace bitrung::engine {
namespace {

std::int64_t read_ms(clockid_t id) {
  timespec time{};
  BITRUNG_CHECK(::clock_gettime(id, &time) == 0);
  return std::int64_t{time.tv_sec} * 1000 + time.tv_nsec / 1'000'000;
}

class SystemClock final : public Clock {
 public:
  core::Now now() override {
    return {std::chrono::milliseconds(read_ms(CLOCK_BOOTTIME)), read_ms(CLOCK_REALTIME)};
  }
};

}  // namespace

std::unique_ptr<Clock> make_system_clock() {
  return std::make_unique<SystemClock>();
}

}  // namespace bitrung::engine
