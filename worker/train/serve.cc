#include "worker/train/serve.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <exception>
#include <fstream>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <thread>

#include "worker/train/events.h"
#include "worker/train/job.h"
#include "worker/train/runtime.h"

namespace bitrung::train {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kLineBytesMax = 1024 * 1024;
// The agent sends the next job when the last one is answered; this much is for one that hurries.
constexpr std::size_t kWaitingJobsMax = 16;
constexpr std::chrono::seconds kTerminalInterval{5};
constexpr int kThreadsMax = 1024;

// The fields of a `train` command. The spec is parsed later, so that a wrong one fails its own
// attempt.
struct TrainCommand {
  std::string key;
  std::string spec;
  fs::path work_dir;
  fs::path data_dir;
  std::vector<fs::path> teachers;
  std::optional<fs::path> init;
  std::optional<fs::path> source;
  std::optional<fs::path> resume;
  std::optional<int> threads = {};  // Otherwise as many as the process was started with.
  bool stop_at_start = false;       // It was preempted while it waited.
};

// What the two threads share: jobs that wait, the key of the one that runs, and whether it shall
// stop.
class Inbox {
 public:
  // Reader's side. False if too many wait.
  bool add(TrainCommand command) {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() == kWaitingJobsMax) {
      return false;
    }
    waiting_.push_back(std::move(command));
    changed_.notify_one();
    return true;
  }

  enum class StopAnswer { kRunning, kTakenFromQueue, kUnknownKey };

  StopAnswer stop(const std::string& key, StopRequest request) {
    const std::lock_guard lock(mutex_);
    if (running_key_ == key) {
      // A cancel outranks a preempt, whichever came first.
      if (stop_.load() != StopRequest::kCancel) {
        stop_ = request;
      }
      return StopAnswer::kRunning;
    }
    const auto found = std::find_if(waiting_.begin(), waiting_.end(),
                                    [&key](const TrainCommand& c) { return c.key == key; });
    if (found == waiting_.end()) {
      return StopAnswer::kUnknownKey;
    }
    if (request == StopRequest::kPreempt) {
      // It is preempted once it has begun and has a state to keep.
      found->stop_at_start = true;
      return StopAnswer::kRunning;
    }
    waiting_.erase(found);
    return StopAnswer::kTakenFromQueue;
  }

  // Trainer's side. Waits for a job and marks it as the one that runs.
  TrainCommand take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !waiting_.empty(); });
    TrainCommand command = std::move(waiting_.front());
    waiting_.pop_front();
    running_key_ = command.key;
    stop_ = command.stop_at_start ? StopRequest::kPreempt : StopRequest::kNone;
    return command;
  }

  void done() {
    const std::lock_guard lock(mutex_);
    running_key_.reset();
  }

  StopRequest stop_requested() const { return stop_.load(std::memory_order_relaxed); }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<TrainCommand> waiting_;
  std::optional<std::string> running_key_;
  std::atomic<StopRequest> stop_{StopRequest::kNone};
};

// Turns the training's reports into events under the attempt's key.
class EventObserver : public Observer {
 public:
  EventObserver(EventWriter& events, std::string key, const Inbox* inbox)
      : events_(events), key_(std::move(key)), inbox_(inbox) {}

  StopRequest stop_requested() override {
    return inbox_ == nullptr ? StopRequest::kNone : inbox_->stop_requested();
  }
  void started(std::int64_t resumed_epoch, std::int64_t epochs, std::int64_t steps) override {
    events_.started(key_, resumed_epoch, epochs, steps);
  }
  void points(std::span<const Point> points) override { events_.points(key_, points); }
  void progress(const Progress& progress) override { events_.progress(key_, progress); }
  void checkpoint(std::int64_t epochs_done, const fs::path& path) override {
    events_.checkpoint(key_, epochs_done, path);
  }
  void log(const std::string& text) override { log_line(key_ + ": " + text); }

 private:
  EventWriter& events_;
  const std::string key_;
  const Inbox* const inbox_;
};

// Trains and says how it ended. The one place where what goes wrong becomes an event. Returns false
// if the device is lost to this process.
bool train_and_report(const TrainCommand& command, const std::string& device,
                      DatasetCache& datasets, EventWriter& events, Observer& observer,
                      bool& succeeded) {
  succeeded = false;
  try {
    const Job job{parse_spec(command.spec),
                  command.work_dir,
                  command.data_dir,
                  command.teachers,
                  command.init,
                  command.source,
                  command.resume};
    const Outcome outcome = run_job(job, device, datasets, observer);
    switch (outcome.ending) {
      case Ending::kSucceeded:
        events.succeeded(command.key, outcome.path, outcome.result.value(), outcome.report);
        succeeded = true;
        break;
      case Ending::kCancelled:
        events.cancelled(command.key);
        break;
      case Ending::kPreempted:
        events.preempted(command.key, outcome.epochs_done, outcome.path);
        break;
    }
    return true;
  } catch (const Failure& failure) {
    events.failed(command.key, failure.failure_class(), failure.what());
    return failure.failure_class() != FailureClass::kDeviceFault || device == "cpu";
  } catch (const std::exception& error) {
    events.failed(command.key, FailureClass::kUserError,
                  std::string("unexpected: ") + error.what());
    return true;
  }
}

std::optional<fs::path> path_or_null(const json& command, const char* field) {
  const auto found = command.find(field);
  if (found == command.end() || found->is_null()) {
    return std::nullopt;
  }
  return fs::path(found->get<std::string>());
}

TrainCommand parse_train(const json& command) {
  TrainCommand result;
  result.key = command.at("key").get<std::string>();
  result.spec = command.at("spec").dump();
  result.work_dir = command.at("work_dir").get<std::string>();
  result.data_dir = path_or_null(command, "data_dir").value_or(fs::path());
  for (const json& teacher : command.value("teachers", json::array())) {
    result.teachers.emplace_back(teacher.get<std::string>());
  }
  result.init = path_or_null(command, "init");
  result.source = path_or_null(command, "source");
  result.resume = path_or_null(command, "resume");
  if (const auto threads = command.find("threads"); threads != command.end()) {
    result.threads = std::clamp(threads->get<int>(), 1, kThreadsMax);
  }
  return result;
}

// Reads commands. A line that is not understood is logged and passed over: the training that runs
// is worth more.
class CommandReader {
 public:
  CommandReader(const ServeOptions& options, Inbox& inbox, EventWriter& events, int term_fd)
      : options_(options), inbox_(inbox), events_(events), term_fd_(term_fd) {}

  // Ends the process at the end of input or at SIGTERM.
  [[noreturn]] void run() {
    std::array<pollfd, 2> polled = {{{options_.commands_fd, POLLIN, 0}, {term_fd_, POLLIN, 0}}};
    std::array<char, 64 * 1024> buffer{};
    while (true) {
      if (::poll(polled.data(), polled.size(), -1) < 0) {
        if (errno == EINTR) {
          continue;
        }
        log_line(std::string("poll: ") + std::strerror(errno));
        events_.exit_between_lines(1);
      }
      if (polled[1].revents != 0) {
        events_.exit_between_lines(0);
      }
      if (polled[0].revents == 0) {
        continue;
      }
      const ssize_t count = ::read(options_.commands_fd, buffer.data(), buffer.size());
      if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
        continue;
      }
      if (count <= 0) {
        events_.exit_between_lines(0);
      }
      take_bytes({buffer.data(), static_cast<std::size_t>(count)});
    }
  }

 private:
  void take_bytes(std::string_view bytes) {
    while (!bytes.empty()) {
      const std::size_t end = bytes.find('\n');
      const std::string_view part = bytes.substr(0, end);
      if (line_.size() + part.size() > kLineBytesMax) {
        too_long_ = true;
        line_.clear();
      } else if (!too_long_) {
        line_ += part;
      }
      if (end == std::string_view::npos) {
        return;
      }
      if (too_long_) {
        log_line("ignored a command of more than " + std::to_string(kLineBytesMax) + " bytes");
      } else if (!line_.empty()) {
        take_line(line_);
      }
      line_.clear();
      too_long_ = false;
      bytes.remove_prefix(end + 1);
    }
  }

  void take_line(const std::string& line) {
    try {
      take_command(json::parse(line));
    } catch (const json::exception& error) {
      log_line("ignored a command that is not understood: " + std::string(error.what()));
    }
  }

  void take_command(const json& command) {
    const auto name = command.at("command").get<std::string>();
    if (name == "train") {
      TrainCommand parsed = parse_train(command);
      const std::string key = parsed.key;
      if (!inbox_.add(std::move(parsed))) {
        events_.failed(
            key, FailureClass::kUserError,
            std::to_string(kWaitingJobsMax) + " jobs wait already; a trainer trains one at a time");
      }
    } else if (name == "cancel" || name == "preempt") {
      stop(command.at("key").get<std::string>(),
           name == "cancel" ? StopRequest::kCancel : StopRequest::kPreempt);
    } else {
      log_line("ignored the unknown command " + command.at("command").dump());
    }
  }

  void stop(const std::string& key, StopRequest request) {
    switch (inbox_.stop(key, request)) {
      case Inbox::StopAnswer::kRunning:
        break;
      case Inbox::StopAnswer::kTakenFromQueue:
        events_.cancelled(key);
        break;
      case Inbox::StopAnswer::kUnknownKey:
        log_line("ignored a stop of " + key + ", which neither runs nor waits");
        break;
    }
  }

  const ServeOptions& options_;
  Inbox& inbox_;
  EventWriter& events_;
  const int term_fd_;
  std::string line_;
  bool too_long_ = false;
};

// Where the handler of SIGTERM writes. A handler and not a blocked signal: libraries start threads
// before main(), and one that does not block the signal would be ended by it.
int term_write_fd = -1;

void on_term(int) {
  const int saved_errno = errno;
  const ssize_t ignored = ::write(term_write_fd, "t", 1);  // A full pipe is readable already.
  static_cast<void>(ignored);
  errno = saved_errno;
}

// SIGTERM makes the returned descriptor readable, unless whoever started us lets us ignore it.
int open_term_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw std::system_error(errno, std::generic_category(), "pipe2");
  }
  term_write_fd = ends[1];
  struct sigaction action {};
  action.sa_handler = on_term;
  action.sa_flags = SA_RESTART;
  struct sigaction inherited {};
  ::sigaction(SIGTERM, nullptr, &inherited);
  if (inherited.sa_handler != SIG_IGN) ::sigaction(SIGTERM, &action, nullptr);
  return ends[0];
}

// Prints a line for people now and then.
class TerminalObserver : public EventObserver {
 public:
  using EventObserver::EventObserver;

  void started(std::int64_t resumed_epoch, std::int64_t epochs, std::int64_t steps) override {
    EventObserver::started(resumed_epoch, epochs, steps);
    log_line("training " + std::to_string(epochs) + " epochs, " + std::to_string(steps) + " steps" +
             (resumed_epoch > 0 ? ", resumed after epoch " + std::to_string(resumed_epoch) : ""));
  }

  void points(std::span<const Point> points) override {
    EventObserver::points(points);
    std::string line;
    for (const Point& point : points) {
      if (point.series.ends_with("accuracy") || point.series == "test_loss") {
        std::array<char, 64> text{};
        std::snprintf(text.data(), text.size(), " %.4g", point.value);
        line += (line.empty() ? "" : ", ") + std::string(point.series) + text.data();
      }
    }
    if (!line.empty()) {
      log_line("step " + std::to_string(points.front().step) + ": " + line);
    }
  }

  void progress(const Progress& progress) override {
    EventObserver::progress(progress);
    if (std::chrono::steady_clock::now() - last_line_ < kTerminalInterval) {
      return;
    }
    last_line_ = std::chrono::steady_clock::now();
    std::array<char, 160> text{};
    std::snprintf(text.data(), text.size(),
                  "epoch %lld of %lld, step %lld of %lld, %.0f images/s, %.0f s left",
                  static_cast<long long>(progress.epoch), static_cast<long long>(progress.epochs),
                  static_cast<long long>(progress.step), static_cast<long long>(progress.steps),
                  progress.images_per_second, progress.eta_seconds.value_or(0.0));
    log_line(text.data());
  }

 private:
  std::chrono::steady_clock::time_point last_line_;
};

}  // namespace

void serve(const ServeOptions& options) {
  ::signal(SIGPIPE, SIG_IGN);
  const int term_fd = open_term_pipe();
  prepare_process(options.threads);
  EventWriter events(options.events_fd);
  Inbox inbox;
  DatasetCache datasets(options.cache_dir);
  events.ready(libtorch_version(), options.device, options.threads);
  CommandReader reader(options, inbox, events, term_fd);
  // The reader ends with the process, and only with it.
  std::thread([&reader] { reader.run(); }).detach();
  while (true) {
    const TrainCommand command = inbox.take();
    EventObserver observer(events, command.key, &inbox);
    bool succeeded = false;
    use_threads(command.threads.value_or(options.threads));
    if (!train_and_report(command, options.device, datasets, events, observer, succeeded)) {
      log_line("leaving: after a fault of " + options.device + " this process cannot use it again");
      events.exit_between_lines(kExitDeviceFault);
    }
    inbox.done();
  }
}

int train_alone(const AloneOptions& options) {
  prepare_process(options.threads);
  EventWriter events(options.events_fd);
  std::ifstream stream(options.spec_path);
  const std::string spec((std::istreambuf_iterator<char>(stream)),
                         std::istreambuf_iterator<char>());
  if (!stream) {
    log_line(options.spec_path.string() + ": cannot be read");
    return 1;
  }
  const TrainCommand command{"alone",          spec,         options.work_dir, options.data_dir,
                             options.teachers, options.init, options.source,   options.resume};
  TerminalObserver observer(events, command.key, nullptr);
  DatasetCache datasets(options.cache_dir);
  bool succeeded = false;
  train_and_report(command, options.device, datasets, events, observer, succeeded);
  return succeeded ? 0 : 1;
}

}  // namespace bitrung::train
