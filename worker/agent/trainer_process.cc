#include "worker/agent/trainer_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <optional>
#include <system_error>

#include <fmt/format.h>
#include <boost/asio/buffer.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>

#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung::agent {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr int kEventsFd = 3;
// Longer lines are protocol errors; they are passed on in pieces.
constexpr std::size_t kLineMax = std::size_t{1} << 20;
// Pipes of a dead process may be held open by a child of its own; it is not waited for longer.
constexpr milliseconds kDrainTimeout{1000};

struct Pipe {
  FileDescriptor read;
  FileDescriptor write;
};

absl::StatusOr<Pipe> make_pipe() {
  std::array<int, 2> fds{};
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) return errno_status("create", "a pipe", errno);
  return Pipe{FileDescriptor(fds[0]), FileDescriptor(fds[1])};
}

cpu_set_t set_of(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) CPU_SET(static_cast<std::size_t>(core), &set);
  return set;
}

struct Child {
  pid_t pid = -1;
  FileDescriptor standard_input;
  FileDescriptor events;
  FileDescriptor standard_error;
};

// Everything the child does between fork and exec must be async-signal-safe: other threads of ours
// may hold locks.
[[noreturn]] void become_trainer(const std::array<int, 4>& fds, char* const* arguments,
                                 const cpu_set_t* cores, pid_t parent, int report) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  // Schedulers and terminals signal all processes at once. The agent ends its trainers itself, at
  // a checkpoint if there is time; if it dies, so do they.
  for (const int number : {SIGINT, SIGTERM, SIGUSR2}) ::signal(number, SIG_IGN);
  if (cores != nullptr) ::sched_setaffinity(0, sizeof *cores, cores);
  // Every descriptor in the way of 0 to 3 is first moved out of it.
  std::array<int, 4> moved{};
  for (std::size_t i = 0; i < fds.size(); ++i) moved[i] = ::fcntl(fds[i], F_DUPFD_CLOEXEC, 10);
  const int moved_report = ::fcntl(report, F_DUPFD_CLOEXEC, 10);
  for (std::size_t i = 0; i < moved.size(); ++i) {
    if (moved[i] < 0 || ::dup2(moved[i], static_cast<int>(i)) < 0) ::_exit(127);
  }
  ::execv(arguments[0], arguments);
  const int error = errno;
  [[maybe_unused]] const ssize_t told = ::write(moved_report, &error, sizeof error);
  ::_exit(127);
}

absl::StatusOr<Child> fork_trainer(const TrainerLaunch& launch, bool with_events) {
  BITRUNG_ASSIGN_OR_RETURN(Pipe in, make_pipe());
  BITRUNG_ASSIGN_OR_RETURN(Pipe events, make_pipe());
  BITRUNG_ASSIGN_OR_RETURN(Pipe errors, make_pipe());
  BITRUNG_ASSIGN_OR_RETURN(Pipe report, make_pipe());
  FileDescriptor null(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  if (!null.valid()) return errno_status("open", "/dev/null", errno);

  std::vector<std::string> words{launch.program.string()};
  words.insert(words.end(), launch.arguments.begin(), launch.arguments.end());
  if (with_events) {
    words.emplace_back("--events-fd");
    words.push_back(std::to_string(kEventsFd));
  }
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const cpu_set_t cores = set_of(launch.cores);
  // Without events the inventory is read from standard output.
  const std::array<int, 4> fds{in.read.get(), with_events ? null.get() : events.write.get(),
                               errors.write.get(), with_events ? events.write.get() : null.get()};

  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return errno_status("start a process for", launch.program, errno);
  if (pid == 0) {
    become_trainer(fds, arguments.data(), launch.cores.empty() ? nullptr : &cores, parent,
                   report.write.get());
  }
  report.write.reset();
  int error = 0;
  ssize_t got = 0;
  do {
    got = ::read(report.read.get(), &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  if (got == static_cast<ssize_t>(sizeof error)) {
    ::waitpid(pid, nullptr, 0);
    return errno_status("run", launch.program, error);
  }
  return Child{pid, std::move(in.write), std::move(events.read), std::move(errors.read)};
}

std::string describe_status(int status) {
  if (WIFSIGNALED(status)) {
    const char* name = ::sigabbrev_np(WTERMSIG(status));
    return name != nullptr ? fmt::format("was killed by SIG{}", name)
                           : fmt::format("was killed by signal {}", WTERMSIG(status));
  }
  return fmt::format("exited with code {}", WEXITSTATUS(status));
}

void append_last_line(std::string& description, const std::string& last_line) {
  if (!last_line.empty()) description += "; its last line was: " + to_utf8(last_line);
}

std::uint64_t counter_in(const std::filesystem::path& file, std::string_view key) {
  std::ifstream in(file);
  std::string word;
  std::uint64_t value = 0;
  while (in >> word >> value) {
    if (word == key) return value;
  }
  return 0;
}

}  // namespace

OomCounts read_oom_counts(const std::filesystem::path& root) {
  OomCounts counts;
  counts.host = counter_in(root / "proc/vmstat", "oom_kill");
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // "0::/path" for version 2, "4:memory:/path" for version 1.
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    const std::filesystem::path base = root / "sys/fs/cgroup";
    if (controllers.empty()) {
      counts.group += counter_in(base / path.substr(1) / "memory.events", "oom_kill");
    } else if (controllers == "memory") {
      counts.group +=
          counter_in(base / "memory" / path.substr(1) / "memory.oom_control", "oom_kill");
    }
  }
  return counts;
}

class TrainerProcess::Impl : public std::enable_shared_from_this<TrainerProcess::Impl> {
 public:
  Impl(asio::io_context& io, Child child, int pidfd, Handlers handlers, std::filesystem::path root)
      : handlers_(std::move(handlers)),
        root_(std::move(root)),
        oom_before_(read_oom_counts(root_)),
        pid_(child.pid),
        standard_input_(io, child.standard_input.release()),
        events_{asio::posix::stream_descriptor(io, child.events.release()), {}, {}, false},
        errors_{asio::posix::stream_descriptor(io, child.standard_error.release()), {}, {}, false},
        exited_(io, pidfd),
        drain_timer_(io) {}

  void start() {
    standard_input_.non_blocking(true);
    events_.pipe.non_blocking(true);
    errors_.pipe.non_blocking(true);
    read_events();
    read_errors();
    exited_.async_wait(asio::posix::stream_descriptor::wait_read,
                       [self = shared_from_this()](const error_code& error) {
                         if (!error) self->reap();
                       });
  }

  void write(std::string bytes) {
    if (input_broken_) return;
    input_.push_back(std::move(bytes));
    if (input_.size() == 1) write_next();
  }

  void kill() {
    if (!status_) ::kill(-pid_, SIGKILL);
  }

  void abandon() {
    handlers_ = {};
    kill();
    if (!status_) {
      int status = 0;
      ::waitpid(pid_, &status, 0);
      status_ = status;
    }
    finish_io();
  }

  pid_t pid() const { return pid_; }

 private:
  struct Reader {
    asio::posix::stream_descriptor pipe;
    std::array<char, 65536> buffer;
    std::string partial;
    bool closed = false;
  };

  void write_next() {
    asio::async_write(standard_input_, asio::buffer(input_.front()),
                      [self = shared_from_this()](const error_code& error, std::size_t) {
                        if (error) {
                          // It does not read any more; its exit tells the rest.
                          self->input_broken_ = true;
                          self->input_.clear();
                          return;
                        }
                        self->input_.pop_front();
                        if (!self->input_.empty()) self->write_next();
                      });
  }

  template <typename Handler>
  static void deliver(Reader& reader, std::string_view bytes, const Handler& handler) {
    while (!bytes.empty()) {
      const std::size_t end = bytes.find('\n');
      reader.partial += bytes.substr(0, end);
      if (end == std::string_view::npos) {
        if (reader.partial.size() > kLineMax) handler(std::exchange(reader.partial, {}));
        return;
      }
      bytes.remove_prefix(end + 1);
      handler(std::exchange(reader.partial, {}));
    }
  }

  void read_events() {
    events_.pipe.async_read_some(
        asio::buffer(events_.buffer),
        [self = shared_from_this()](const error_code& error, std::size_t size) {
          self->on_events(error, size);
        });
  }

  void on_events(const error_code& error, std::size_t size) {
    // What it printed before it wrote the event belongs to the same attempt, so the log is read
    // first.
    drain_errors();
    deliver(events_, std::string_view(events_.buffer.data(), size),
            [this](const std::string& line) {
              if (handlers_.event) handlers_.event(line);
            });
    if (error) {
      events_.closed = true;
      return check_gone();
    }
    read_events();
  }

  void read_errors() {
    errors_.pipe.async_wait(asio::posix::stream_descriptor::wait_read,
                            [self = shared_from_this()](const error_code& error) {
                              if (error) {
                                self->errors_.closed = true;
                              } else {
                                self->drain_errors();
                              }
                              if (self->errors_.closed) return self->check_gone();
                              self->read_errors();
                            });
  }

  void drain_errors() {
    while (!errors_.closed) {
      error_code error;
      const std::size_t size = errors_.pipe.read_some(asio::buffer(errors_.buffer), error);
      deliver(errors_, std::string_view(errors_.buffer.data(), size),
              [this](std::string line) { say_line(std::move(line)); });
      if (error == asio::error::would_block || error == asio::error::try_again) return;
      if (error) {
        errors_.closed = true;
        if (!errors_.partial.empty()) say_line(std::exchange(errors_.partial, {}));
      }
    }
  }

  void say_line(std::string line) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (handlers_.line) handlers_.line(line);
    if (!line.empty()) last_line_ = std::move(line);
  }

  void reap() {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return;
    status_ = status;
    // Whatever it started goes with it.
    ::kill(-pid_, SIGKILL);
    drain_timer_.expires_after(kDrainTimeout);
    drain_timer_.async_wait([self = shared_from_this()](const error_code& error) {
      if (error) return;
      self->events_.closed = true;
      self->errors_.closed = true;
      self->check_gone();
    });
    check_gone();
  }

  void check_gone() {
    if (!status_ || !events_.closed || !errors_.closed || !handlers_.exit) return;
    std::string description = describe_status(*status_);
    append_last_line(description, last_line_);
    bool out_of_memory = false;
    if (WIFSIGNALED(*status_) && WTERMSIG(*status_) == SIGKILL) {
      const OomCounts now = read_oom_counts(root_);
      out_of_memory = now.host > oom_before_.host || now.group > oom_before_.group;
      if (out_of_memory) description = "was killed by the kernel because memory ran out";
    }
    finish_io();
    const auto exit = std::exchange(handlers_, {}).exit;
    exit(std::move(description), out_of_memory);
  }

  void finish_io() {
    error_code ignored;  // Closing a pipe of a dead process has no failure that matters.
    standard_input_.close(ignored);
    events_.pipe.close(ignored);
    errors_.pipe.close(ignored);
    exited_.close(ignored);
    drain_timer_.cancel();
    input_broken_ = true;
  }

  Handlers handlers_;
  std::filesystem::path root_;
  OomCounts oom_before_;
  pid_t pid_;
  std::optional<int> status_;
  asio::posix::stream_descriptor standard_input_;
  std::deque<std::string> input_;
  bool input_broken_ = false;
  Reader events_;
  Reader errors_;
  asio::posix::stream_descriptor exited_;
  asio::steady_timer drain_timer_;
  std::string last_line_;
};

TrainerProcess::TrainerProcess(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<TrainerProcess>> TrainerProcess::spawn(
    asio::io_context& io, const TrainerLaunch& launch, Handlers handlers,
    const std::filesystem::path& root) {
  BITRUNG_ASSIGN_OR_RETURN(Child child, fork_trainer(launch, true));
  // Not through <sys/pidfd.h>: Debian 12's glibc declares it without C linkage.
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0));
  if (pidfd < 0) {
    const absl::Status status = errno_status("watch the process of", launch.program, errno);
    ::kill(child.pid, SIGKILL);
    ::waitpid(child.pid, nullptr, 0);
    return status;
  }
  auto impl = std::make_shared<Impl>(io, std::move(child), pidfd, std::move(handlers), root);
  impl->start();
  return std::unique_ptr<TrainerProcess>(new TrainerProcess(std::move(impl)));
}

TrainerProcess::~TrainerProcess() {
  impl_->abandon();
}
void TrainerProcess::write(std::string bytes) {
  impl_->write(std::move(bytes));
}
absl::Status TrainerProcess::bind(const std::vector<int>& cores) {
  const cpu_set_t set = set_of(cores);
  std::error_code error;
  for (std::filesystem::directory_iterator thread(fmt::format("/proc/{}/task", pid()), error), end;
       !error && thread != end; thread.increment(error)) {
    const std::string name = thread->path().filename().string();
    pid_t id = 0;
    std::from_chars(name.data(), name.data() + name.size(), id);
    // One that has ended meanwhile needs no core.
    if (::sched_setaffinity(id, sizeof set, &set) != 0 && errno != ESRCH) {
      return errno_status("bind to its cores", "a thread of the trainer", errno);
    }
  }
  if (error) return errno_status("list", "the threads of the trainer", error.value());
  return absl::OkStatus();
}
void TrainerProcess::kill() {
  impl_->kill();
}
int TrainerProcess::pid() const {
  return impl_->pid();
}

absl::StatusOr<std::string> run_trainer(const TrainerLaunch& launch, milliseconds timeout) {
  BITRUNG_ASSIGN_OR_RETURN(Child child, fork_trainer(launch, false));
  child.standard_input.reset();
  const Time deadline = std::chrono::steady_clock::now() + timeout;
  std::string output;
  std::string errors;
  bool in_time = true;
  bool output_open = true;
  bool errors_open = true;
  while (output_open || errors_open) {
    const auto left =
        std::chrono::duration_cast<milliseconds>(deadline - std::chrono::steady_clock::now())
            .count();
    if (left <= 0) {
      in_time = false;
      break;
    }
    std::array<pollfd, 2> polled{pollfd{output_open ? child.events.get() : -1, POLLIN, 0},
                                 pollfd{errors_open ? child.standard_error.get() : -1, POLLIN, 0}};
    if (::poll(polled.data(), polled.size(), static_cast<int>(left)) < 0 && errno != EINTR) break;
    std::array<char, 4096> buffer{};
    for (std::size_t i = 0; i < polled.size(); ++i) {
      if (polled[i].revents == 0) continue;
      const ssize_t got = ::read(polled[i].fd, buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        (i == 0 ? output_open : errors_open) = false;
      } else if (output.size() + errors.size() < kLineMax) {
        (i == 0 ? output : errors).append(buffer.data(), static_cast<std::size_t>(got));
      }
    }
  }
  if (!in_time) ::kill(-child.pid, SIGKILL);
  int status = 0;
  while (::waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
  }
  const std::string command =
      fmt::format("{} {}", launch.program.string(), fmt::join(launch.arguments, " "));
  if (!in_time) {
    return absl::DeadlineExceededError(
        fmt::format("{} did not end within {} ms", command, timeout.count()));
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    while (!errors.empty() && errors.back() == '\n') errors.pop_back();
    const std::size_t last = errors.rfind('\n');
    std::string description = describe_status(status);
    append_last_line(description, last == std::string::npos ? errors : errors.substr(last + 1));
    return absl::UnavailableError(fmt::format("{} {}", command, description));
  }
  return output;
}

absl::StatusOr<std::filesystem::path> find_program(const std::string& wanted,
                                                   std::string_view name) {
  const auto runs = [](const std::filesystem::path& path) {
    return ::access(path.c_str(), X_OK) == 0;
  };
  if (!wanted.empty()) {
    if (runs(wanted)) return std::filesystem::absolute(wanted);
    return errno_status("run", wanted, errno);
  }
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error && runs(self.parent_path() / name)) return self.parent_path() / name;
  const char* search = std::getenv("PATH");
  std::string_view rest = search == nullptr ? "" : search;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    const std::filesystem::path candidate = std::filesystem::path(rest.substr(0, end)) / name;
    if (end > 0 && runs(candidate)) return std::filesystem::absolute(candidate);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return absl::NotFoundError(fmt::format(
      "{} is neither beside {} nor in PATH; give it with --trainer", name, self.string()));
}

}  // namespace bitrung::agent
