// A program started by this one, in a process group of its own so that the terminal's Ctrl-C does
// not reach it.
//
// Not thread-safe. Start children from the main thread only: a child that asks to die with its
// parent dies with the thread that started it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/files.h"

namespace bitrung::cli {

class ChildProcess {
 public:
  // Standard input is /dev/null; standard error is appended to the log; standard output goes to the
  // log too, or to a pipe when `pipe_output` is set.
  static absl::StatusOr<ChildProcess> start(const std::vector<std::string>& arguments,
                                            const std::filesystem::path& log, bool pipe_output);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  // Kills what still runs: an owner that wants a clean end calls stop first.
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  // Reading end of the child's standard output; invalid without pipe_output.
  int output() const { return output_.get(); }

  // How it ended, e.g. "exit code 1" or "signal 9"; nothing while it runs.
  const std::optional<std::string>& ended();

  // SIGTERM to the program alone: it ends its own children in its own way.
  void terminate();
  // SIGKILL to its whole process group.
  void kill();
  // Waits for the end; false if it still runs after that time.
  bool wait(std::chrono::milliseconds timeout);
  // SIGTERM, then SIGKILL after the time; returns when it is gone.
  void stop(std::chrono::milliseconds patience);

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}

  pid_t pid_ = -1;
  FileDescriptor output_;
  std::optional<std::string> ended_;
};

// Beside the running executable, else in PATH; NOT_FOUND with the places looked at.
absl::StatusOr<std::filesystem::path> find_program(const std::string& name);

// Last line of the file that is not blank; empty if there is none.
std::string last_line(const std::filesystem::path& file);

}  // namespace bitrung::cli
