#include "client/cli/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>
#include <thread>
#include <utility>

#include "client/cli/environment.h"
#include "client/cli/exit_code.h"
#include "client/cli/text.h"
#include "db/base/check.h"

namespace bitrung::cli {
namespace {

constexpr std::chrono::milliseconds kWaitStep{10};

class SpawnSetup {
 public:
  SpawnSetup() {
    BITRUNG_CHECK(posix_spawn_file_actions_init(&actions) == 0);
    BITRUNG_CHECK(posix_spawnattr_init(&attributes) == 0);
    // The caller may hold signals blocked or ignored; the child starts with none of that.
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSetup() {
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
  }
  SpawnSetup(const SpawnSetup&) = delete;
  SpawnSetup& operator=(const SpawnSetup&) = delete;

  posix_spawn_file_actions_t actions{};
  posix_spawnattr_t attributes{};
};

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::start(const std::vector<std::string>& arguments,
                                                 const std::filesystem::path& log,
                                                 bool pipe_output) {
  BITRUNG_CHECK(!arguments.empty());
  const FileDescriptor log_fd(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log_fd.valid()) return local_error(errno_status("open log", log, errno));
  int ends[2] = {-1, -1};
  if (pipe_output && ::pipe2(ends, O_CLOEXEC) != 0) {
    return absl::InternalError(fmt::format("no pipe for {}: too many open files?", arguments[0]));
  }
  FileDescriptor reading(ends[0]);
  const FileDescriptor writing(ends[1]);

  SpawnSetup setup;
  posix_spawn_file_actions_addopen(&setup.actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&setup.actions, pipe_output ? writing.get() : log_fd.get(), 1);
  posix_spawn_file_actions_adddup2(&setup.actions, log_fd.get(), 2);

  std::vector<std::string> copies = arguments;  // posix_spawn wants them writable.
  std::vector<char*> argv;
  for (std::string& argument : copies) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t pid = -1;
  const int error =
      ::posix_spawn(&pid, argv[0], &setup.actions, &setup.attributes, argv.data(), environ);
  if (error != 0) return local_error(errno_status("start", arguments[0], error));
  ChildProcess child(pid);
  child.output_ = std::move(reading);
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      output_(std::move(other.output_)),
      ended_(std::move(other.ended_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    if (pid_ > 0 && !ended()) {
      kill();
      wait(std::chrono::seconds(5));
    }
    pid_ = std::exchange(other.pid_, -1);
    output_ = std::move(other.output_);
    ended_ = std::move(other.ended_);
  }
  return *this;
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0 && !ended()) {
    kill();
    wait(std::chrono::seconds(5));
  }
}

const std::optional<std::string>& ChildProcess::ended() {
  if (ended_ || pid_ <= 0) return ended_;
  int status = 0;
  const pid_t got = ::waitpid(pid_, &status, WNOHANG);
  if (got == pid_) {
    ended_ = WIFSIGNALED(status) ? fmt::format("signal {}", WTERMSIG(status))
                                 : fmt::format("exit code {}", WEXITSTATUS(status));
  } else if (got < 0 && errno == ECHILD) {
    ended_ = "an unknown end";
  }
  return ended_;
}

void ChildProcess::terminate() {
  if (pid_ > 0 && !ended()) ::kill(pid_, SIGTERM);
}

void ChildProcess::kill() {
  if (pid_ <= 0) return;
  // The group may outlive its leader; an empty group is no error worth telling.
  ::kill(-pid_, SIGKILL);
}

bool ChildProcess::wait(std::chrono::milliseconds timeout) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  while (!ended()) {
    if (pid_ <= 0) return true;
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(kWaitStep);
  }
  return true;
}

void ChildProcess::stop(std::chrono::milliseconds patience) {
  terminate();
  if (!wait(patience)) {
    kill();
    wait(std::chrono::seconds(5));
  }
}

absl::StatusOr<std::filesystem::path> find_program(const std::string& name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path beside = self.parent_path() / name;
  if (!error && ::access(beside.c_str(), X_OK) == 0) return beside;
  std::istringstream path(environment("PATH").value_or(""));
  for (std::string directory; std::getline(path, directory, ':');) {
    const std::filesystem::path candidate = std::filesystem::path(directory) / name;
    if (!directory.empty() && ::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return absl::NotFoundError(
      fmt::format("program {} is neither in {} nor in PATH; install it beside bitrung", name,
                  beside.parent_path().string()));
}

std::string last_line(const std::filesystem::path& file) {
  // The end of a log that may be long: 4 KiB hold its last line.
  constexpr off_t kTailBytes = 4096;
  const FileDescriptor fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return {};
  const off_t size = ::lseek(fd.get(), 0, SEEK_END);
  const off_t start = size > kTailBytes ? size - kTailBytes : 0;
  std::string tail(kTailBytes, '\0');
  const ssize_t got = ::pread(fd.get(), tail.data(), tail.size(), start);
  if (got <= 0) return {};
  tail.resize(static_cast<std::size_t>(got));
  std::istringstream lines(tail);
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    if (line.find_first_not_of(" \t\r") != std::string::npos) last = line;
  }
  return printable(last);
}

}  // namespace bitrung::cli
