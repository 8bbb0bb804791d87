// Writes the trainer's events: one JSON object a line on a file descriptor (PROTOCOL.md, "Events").
//
// Any thread may call; each line is written whole. When the reader has gone, the process ends:
// nobody is left to train for.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <string>

#include "worker/train/failure.h"
#include "worker/train/job.h"

namespace bitrung::train {

class EventWriter {
 public:
  explicit EventWriter(int fd) : fd_(fd) {}

  void ready(const std::string& torch_version, const std::string& device, int threads);
  void started(const std::string& key, std::int64_t resumed_epoch, std::int64_t epochs,
               std::int64_t steps);
  void points(const std::string& key, std::span<const Point> points);
  void progress(const std::string& key, const Progress& progress);
  void checkpoint(const std::string& key, std::int64_t epochs_done,
                  const std::filesystem::path& path);
  void succeeded(const std::string& key, const std::filesystem::path& path,
                 const TrainingResult& result, const std::string& report);
  void failed(const std::string& key, FailureClass failure_class, const std::string& message);
  void cancelled(const std::string& key);
  // An empty path: nothing is kept, the job begins anew.
  void preempted(const std::string& key, std::int64_t epochs_done,
                 const std::filesystem::path& path);

  // Ends the process at once, but not in the middle of a line unless the reader does not read.
  [[noreturn]] void exit_between_lines(int status);

 private:
  void write_line(std::string line);

  const int fd_;
  std::timed_mutex mutex_;
};

// A line of log text for people, on standard error.
void log_line(const std::string& text);

}  // namespace bitrung::train
