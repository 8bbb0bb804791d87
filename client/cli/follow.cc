#include "client/cli/follow.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <set>

#include "client/cli/progress_view.h"
#include "client/cli/text.h"
#include "client/cli/watch_thread.h"
#include "client/cli/words.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

using Clock = std::chrono::steady_clock;

// Drawing more often than this shows nothing more to a person.
constexpr std::chrono::milliseconds kDrawInterval{100};
constexpr std::chrono::milliseconds kTick{500};
// A job that could run and does not start within this time has a reason worth telling.
constexpr std::chrono::seconds kStuckAfter{5};
constexpr std::chrono::seconds kExplainDeadline{3};
constexpr std::chrono::seconds kExplainPause{1};
constexpr std::chrono::seconds kExplainAfter{30};

// Notices that nothing runs though something could, once per job.
class StuckJob {
 public:
  explicit StuckJob(const std::function<bool()>& may_explain) : may_explain_(may_explain) {}

  // The job to explain now, if any.
  const v1::Job* check(const ExperimentView& view, Clock::time_point now) {
    const v1::Job* ready = nullptr;
    for (const auto& [id, job] : view.jobs()) {
      if (job.state() == v1::JOB_STATE_RUNNING || job.state() == v1::JOB_STATE_OFFERED ||
          job.state() == v1::JOB_STATE_CANCELLING) {
        ready = nullptr;
        break;
      }
      if (job.state() == v1::JOB_STATE_READY && ready == nullptr) ready = &job;
    }
    if (ready == nullptr) {
      waiting_ = false;
      return nullptr;
    }
    if (!waiting_) {
      waiting_ = true;
      since_ = now;
      asked_ = now;
    }
    if (now - since_ < kStuckAfter || told_.contains(ready->job_id())) return nullptr;
    if (may_explain_ && now - since_ < kExplainAfter) {
      if (now - asked_ < kExplainPause) return nullptr;
      asked_ = now;
      if (!may_explain_()) return nullptr;
    }
    told_.insert(ready->job_id());
    return ready;
  }

 private:
  const std::function<bool()>& may_explain_;
  bool waiting_ = false;
  Clock::time_point since_{};  // When waiting_ is set: since when nothing runs.
  Clock::time_point asked_{};
  std::set<std::int64_t> told_;
};

void explain_to(LiveDisplay& display, Connection& connection, const ExperimentView& view,
                const v1::Job& job) {
  v1::JobReference reference;
  reference.set_experiment(fmt::format("{}", view.experiment().experiment_id()));
  reference.set_job(job.name());
  const auto explanation = connection.explain(reference, kExplainDeadline);
  if (!explanation.ok()) return;  // The watch stream tells of a server that is away.
  display.note(fmt::format("{} has not started:", job.name()));
  for (const std::string& line : explanation->lines()) {
    display.note("  " + printable(line));
  }
}

}  // namespace

absl::StatusOr<FollowEnd> follow(const std::shared_ptr<Connection>& connection,
                                 const FollowOptions& options, Signals& signals,
                                 LiveDisplay& display, ExperimentView& view) {
  const Clock::time_point started = Clock::now();
  Clock::time_point drawn{};
  bool lost = false;
  Clock::time_point lost_since{};  // When lost is set.
  absl::Status lost_status;
  StuckJob stuck(options.may_explain);
  bool waiting_told = false;
  WatchThread thread(connection, options.experiment);
  const auto draw = [&](Clock::time_point now) {
    if (!options.progress || !display.interactive() || view.jobs().empty()) return;
    const std::chrono::duration<double> elapsed = now - started;
    display.draw(progress_lines(view, elapsed.count(), display.terminal()));
    drawn = now;
  };

  while (true) {
    const Clock::time_point before = Clock::now();
    // Messages that come faster than the display are gathered until the next picture is due.
    const auto since_drawn = std::chrono::duration_cast<std::chrono::milliseconds>(before - drawn);
    const std::chrono::milliseconds timeout =
        since_drawn < kDrawInterval ? kDrawInterval - since_drawn : kTick;
    std::array<pollfd, 2> waiting{pollfd{thread.fd(), POLLIN, 0}, pollfd{signals.fd(), POLLIN, 0}};
    ::poll(waiting.data(), waiting.size(), static_cast<int>(timeout.count()));
    signals.drain();
    const Clock::time_point now = Clock::now();

    for (WatchThread::Event& event : thread.take()) {
      if (auto* refused = std::get_if<WatchThread::Refused>(&event)) {
        display.close();
        return refused->status;
      }
      if (auto* broken = std::get_if<WatchThread::Lost>(&event)) {
        lost = true;
        lost_since = now;
        lost_status = broken->status;
        continue;
      }
      if (waiting_told) display.note("the server is back");
      waiting_told = false;
      lost = false;
      for (const v1::Job& job : view.apply(std::get<v1::WatchExperimentResponse>(event))) {
        if (options.on_change) options.on_change(job);
        if (!options.progress || display.interactive()) continue;
        if (const std::string line = change_line(job); !line.empty()) display.note(line);
      }
    }
    if (view.terminal()) {
      draw(now);
      display.close();
      return FollowEnd::kTerminal;
    }
    if (signals.interrupts() > 0) {
      display.close();
      return FollowEnd::kInterrupted;
    }
    if (options.on_tick) {
      if (const absl::Status status = options.on_tick(lost); !status.ok()) {
        display.close();
        if (absl::IsCancelled(status)) return FollowEnd::kInterrupted;
        return status;
      }
    }
    if (lost) {
      if (now - lost_since > options.patience) {
        display.close();
        return absl::UnavailableError(
            fmt::format("{}; gave up after {} s", message(lost_status), options.patience.count()));
      }
      if (!waiting_told && now - lost_since > std::chrono::seconds(1) && options.progress) {
        display.note("lost the server, trying again");
        waiting_told = true;
      }
    } else if (options.progress) {
      if (const v1::Job* job = stuck.check(view, now)) explain_to(display, *connection, view, *job);
    }
    if (signals.take_resized()) display.set_terminal(inspect_terminal(STDERR_FILENO));
    if (signals.take_suspend()) {
      display.close();
      suspend_self();
    }
    if (now - drawn >= kDrawInterval) draw(now);
  }
}

}  // namespace bitrung::cli
