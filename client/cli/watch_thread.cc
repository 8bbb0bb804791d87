#include "client/cli/watch_thread.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "client/cli/words.h"
#include "db/base/check.h"

namespace bitrung::cli {
namespace {

constexpr std::chrono::milliseconds kPauseMin{100};
constexpr std::chrono::milliseconds kPauseMax{1000};

// A stream that breaks for these reasons may work the next time.
bool is_transient(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsInternal(status) || absl::IsUnknown(status) || absl::IsAborted(status) ||
         absl::IsCancelled(status);
}

}  // namespace

WatchThread::WatchThread(std::shared_ptr<Connection> connection, std::string experiment)
    : connection_(std::move(connection)),
      experiment_(std::move(experiment)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  BITRUNG_CHECK(wake_.valid());
  thread_ = std::thread([this] { read(); });
}

WatchThread::~WatchThread() {
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
  }
  ending_.notify_all();
  stop_.stop();
  thread_.join();
}

void WatchThread::push(Event event) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  const std::uint64_t one = 1;
  // The counter can only be full when the loop has not looked for 2^64 events.
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);
}

std::vector<WatchThread::Event> WatchThread::take() {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(wake_.get(), &count, sizeof count);
  const std::lock_guard lock(mutex_);
  std::vector<Event> events(std::make_move_iterator(events_.begin()),
                            std::make_move_iterator(events_.end()));
  events_.clear();
  return events;
}

bool WatchThread::pause(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  return !ending_.wait_for(lock, time, [this] { return end_; });
}

void WatchThread::read() {
  v1::WatchExperimentRequest request;
  request.set_experiment(experiment_);
  std::chrono::milliseconds wait = kPauseMin;
  bool lost = false;
  bool terminal = false;
  while (!stop_.stopped()) {
    bool heard = false;
    const absl::Status status =
        connection_->watch(request, stop_, [&](const v1::WatchExperimentResponse& message) {
          heard = true;
          lost = false;
          // Progress does not move the cursor; some servers leave it out there.
          if (!message.progress_only()) request.set_cursor(message.cursor());
          if (message.has_experiment()) terminal = is_terminal(message.experiment().state());
          push(message);
        });
    if (stop_.stopped() || terminal) return;
    if (!status.ok() && !is_transient(status)) {
      push(Refused{status});
      return;
    }
    // A stream that reached the end of its lifetime is simply opened again.
    const bool renewed = heard && (status.ok() || absl::IsDeadlineExceeded(status));
    if (!renewed && !lost) {
      lost = true;
      push(Lost{status.ok() ? absl::UnavailableError("the server closed the stream") : status});
    }
    wait = heard ? kPauseMin : std::min(wait * 2, kPauseMax);
    if (!pause(wait)) return;
  }
}

}  // namespace bitrung::cli
