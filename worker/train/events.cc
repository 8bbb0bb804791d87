#include "worker/train/events.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>

namespace bitrung::train {

namespace {

using nlohmann::json;

// Paths and messages may hold any bytes; a line is always UTF-8.
std::string line_of(const json& event) {
  return event.dump(-1, ' ', false, json::error_handler_t::replace);
}

template <typename Value>
json or_null(const std::optional<Value>& value) {
  return value ? json(*value) : json(nullptr);
}

// Returns false once the reader has gone.
bool write_all(int fd, const std::string& bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (count >= 0) {
      done += static_cast<std::size_t>(count);
    } else if (errno == EAGAIN) {  // Somebody made the descriptor non-blocking.
      pollfd polled{fd, POLLOUT, 0};
      ::poll(&polled, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace

void EventWriter::write_line(std::string line) {
  line += '\n';
  const std::lock_guard lock(mutex_);
  if (!write_all(fd_, line)) {
    std::_Exit(0);
  }
}

void EventWriter::ready(const std::string& torch_version, const std::string& device, int threads) {
  write_line(line_of({{"event", "ready"},
                      {"numerics", kNumerics},
                      {"torch", torch_version},
                      {"device", device},
                      {"threads", threads}}));
}

void EventWriter::started(const std::string& key, std::int64_t resumed_epoch, std::int64_t epochs,
                          std::int64_t steps) {
  write_line(line_of({{"event", "started"},
                      {"key", key},
                      {"resumed_epoch", resumed_epoch},
                      {"epochs", epochs},
                      {"steps", steps}}));
}

void EventWriter::points(const std::string& key, std::span<const Point> points) {
  json list = json::array();
  for (const Point& point : points) {
    list.push_back(json::array({point.series, point.step, point.value}));
  }
  write_line(line_of({{"event", "points"}, {"key", key}, {"points", list}}));
}

void EventWriter::progress(const std::string& key, const Progress& progress) {
  write_line(line_of({{"event", "progress"},
                      {"key", key},
                      {"epoch", progress.epoch},
                      {"epochs", progress.epochs},
                      {"step", progress.step},
                      {"steps", progress.steps},
                      {"images_per_second", progress.images_per_second},
                      {"accuracy", or_null(progress.accuracy)},
                      {"eta_seconds", or_null(progress.eta_seconds)}}));
}

void EventWriter::checkpoint(const std::string& key, std::int64_t epochs_done,
                             const std::filesystem::path& path) {
  write_line(line_of(
      {{"event", "checkpoint"}, {"key", key}, {"epoch", epochs_done}, {"path", path.string()}}));
}

void EventWriter::succeeded(const std::string& key, const std::filesystem::path& path,
                            const TrainingResult& result, const std::string& report) {
  write_line(line_of({{"event", "succeeded"},
                      {"key", key},
                      {"path", path.string()},
                      {"result",
                       {{"test_accuracy", result.test_accuracy},
                        {"validation_accuracy", or_null(result.validation_accuracy)},
                        {"test_loss", result.test_loss},
                        {"best_epoch", result.best_epoch},
                        {"duration_seconds", result.duration_seconds},
                        {"images_per_second", result.images_per_second}}},
                      {"report", json::parse(report)}}));
}

void EventWriter::failed(const std::string& key, FailureClass failure_class,
                         const std::string& message) {
  write_line(line_of({{"event", "failed"},
                      {"key", key},
                      {"class", failure_class_name(failure_class)},
                      {"message", message}}));
}

void EventWriter::cancelled(const std::string& key) {
  write_line(line_of({{"event", "cancelled"}, {"key", key}}));
}

void EventWriter::preempted(const std::string& key, std::int64_t epochs_done,
                            const std::filesystem::path& path) {
  write_line(line_of({{"event", "preempted"},
                      {"key", key},
                      {"epoch", epochs_done},
                      {"path", path.empty() ? json(nullptr) : json(path.string())}}));
}

void EventWriter::exit_between_lines(int status) {
  // Never released: no line may follow.
  static_cast<void>(mutex_.try_lock_for(std::chrono::milliseconds(100)));
  std::_Exit(status);
}

void log_line(const std::string& text) {
  // One write, so that lines of several threads do not mix. A standard error that is gone is no
  // reason to stop.
  static_cast<void>(write_all(STDERR_FILENO, "trainer: " + text + "\n"));
}

}  // namespace bitrung::train
