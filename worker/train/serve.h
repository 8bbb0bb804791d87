// The warm trainer: commands from one descriptor, events to another, one training at a time.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace bitrung::train {

struct ServeOptions {
  std::string device = "cpu";
  int threads = 1;
  std::filesystem::path cache_dir;  // Shared with other trainers of the host; empty for none.
  int commands_fd = 0;
  int events_fd = 1;
};

// Serves commands until they end or SIGTERM comes; then leaves the process at once with status 0,
// even in the middle of a training. Leaves with kExitDeviceFault after a fault of a GPU, which this
// process could not use again. Trains in the calling thread, reads commands in one of its own.
[[noreturn]] void serve(const ServeOptions& options);

inline constexpr int kExitDeviceFault = 3;

struct AloneOptions {
  std::string device = "cpu";
  int threads = 1;
  int events_fd = 1;
  std::filesystem::path spec_path;
  std::filesystem::path data_dir;
  std::filesystem::path cache_dir;
  std::filesystem::path work_dir;
  std::vector<std::filesystem::path> teachers;
  std::optional<std::filesystem::path> init;
  std::optional<std::filesystem::path> source;
  std::optional<std::filesystem::path> resume;
};

// Trains the one job whose spec lies in a file. Progress for people goes to standard error. Returns
// the exit status: 0 if the training succeeded, 1 if not.
int train_alone(const AloneOptions& options);

}  // namespace bitrung::train
