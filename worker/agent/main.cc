// bitrung-worker: the composition root. Reads the command line, asks the trainer what devices there
// are, runs the agent.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>

#include "db/base/files.h"
#include "db/base/parent_process.h"
#include "db/base/status.h"
#include "db/base/tls13.h"
#include "worker/agent/agent.h"
#include "worker/agent/cores.h"
#include "worker/agent/enrolment.h"
#include "worker/train/data/locate.h"

namespace bitrung::agent {
namespace {

// LibTorch of a CUDA machine takes its time to load from a network file system.
constexpr milliseconds kInventoryTimeout = std::chrono::seconds(60);
// Beyond the core's own limit for a shutdown; a call that hangs in the kernel must not hold the
// process.
constexpr unsigned kExitSeconds = 30;
constexpr int kWarnDays = 30;

struct Flags {
  std::string server;
  std::string state_directory;
  std::string name;
  std::uint32_t slots = 0;
  std::vector<std::string> data_directories;
  std::string enrolment_file;
  std::string trainer;
  bool die_with_parent = false;
  double silence_timeout_seconds = 300;
  double stop_after_seconds = 0;
  std::string log_level = "info";
  bool no_op = false;
  std::uint32_t no_op_points = 0;
};

std::string host_name() {
  std::array<char, 256> buffer{};
  return ::gethostname(buffer.data(), buffer.size() - 1) == 0 ? buffer.data() : "worker";
}

std::vector<std::filesystem::path> data_directories(const Flags& flags) {
  std::vector<std::filesystem::path> directories(flags.data_directories.begin(),
                                                 flags.data_directories.end());
  if (const char* variable = std::getenv("BITRUNG_DATA_DIR");
      directories.empty() && variable != nullptr) {
    std::string_view rest = variable;
    while (!rest.empty()) {
      const std::string_view directory = rest.substr(0, rest.find(':'));
      if (!directory.empty()) directories.emplace_back(directory);
      rest.remove_prefix(std::min(directory.size() + 1, rest.size()));
    }
  }
  for (std::filesystem::path& directory : directories)
    directory = std::filesystem::absolute(directory);
  return directories;
}

LocatedFiles locate(std::string_view dataset, const std::filesystem::path& directory) {
  const datasets::LocatedDataset located = datasets::locate_dataset(dataset, directory);
  LocatedFiles files;
  for (const datasets::DatasetFile& file : located.files) files.files.push_back(file.path);
  files.error = located.error;
  return files;
}

// A certificate that ends soon is said while there is time.
void warn_of_expiry(const Enrolment& enrolment) {
  const auto left =
      std::chrono::system_clock::time_point(std::chrono::milliseconds(enrolment.expires_at_ms)) -
      std::chrono::system_clock::now();
  const auto days = std::chrono::floor<std::chrono::days>(left).count();
  if (days < kWarnDays) {
    spdlog::warn("this worker's certificate ends in {} days; enrol it again before", days);
  }
}

absl::Status enrol_with(const Flags& flags) {
  BITRUNG_ASSIGN_OR_RETURN(LoginFile file,
                           read_login_file(flags.enrolment_file, LoginFile::Kind::kEnrolment));
  if (!flags.server.empty()) file.server = flags.server;
  BITRUNG_ASSIGN_OR_RETURN(const StateDirectory state, StateDirectory::open(flags.state_directory));
  BITRUNG_ASSIGN_OR_RETURN(const Enrolment enrolment, enrol(state, file));
  fmt::print(
      "worker {} is enrolled at {}; the file {} is used up\n"
      "start it: bitrung-worker --state-dir {}\n",
      enrolment.name, enrolment.server, flags.enrolment_file, flags.state_directory);
  return absl::OkStatus();
}

// Fills in who trains and where; asks the trainer what there is.
absl::StatusOr<Inventory> find_slots(const Flags& flags, AgentOptions& options) {
  if (flags.no_op) {
    options.no_op = NoOpOptions{.points = flags.no_op_points};
    options.layout.slots = no_op_slots(std::max(flags.slots, 1U));
    return Inventory{.numerics = kNoOpNumerics, .torch = "none", .devices = {}};
  }
  BITRUNG_ASSIGN_OR_RETURN(options.trainer, find_program(flags.trainer, "bitrung-trainer"));
  BITRUNG_ASSIGN_OR_RETURN(const std::string text,
                           run_trainer({options.trainer, {"--inventory"}, {}}, kInventoryTimeout));
  BITRUNG_ASSIGN_OR_RETURN(Inventory inventory, parse_inventory(text));
  BITRUNG_ASSIGN_OR_RETURN(
      options.layout,
      lay_out_slots(inventory, usable_cores(),
                    flags.slots > 0 ? std::optional<std::uint32_t>(flags.slots) : std::nullopt));
  return inventory;
}

void say_layout(const Layout& layout) {
  if (layout.shared_cores > 0) {
    const Device& device = layout.slots.front().device;
    spdlog::info("{} slots: {} ({}); they share {} cores{}", layout.slots.size(), device.device,
                 device.name, layout.shared_cores,
                 layout.core_numbers.empty()
                     ? std::string(" by quota, and are bound to none")
                     : fmt::format(": {}", fmt::join(layout.core_numbers, ",")));
    return;
  }
  for (std::size_t i = 0; i < layout.slots.size(); ++i) {
    const Slot& slot = layout.slots[i];
    spdlog::info("slot {}: {} ({}), {} threads{}", i, slot.device.device, slot.device.name,
                 slot.threads,
                 slot.cores.empty() ? "" : fmt::format(", cores {}", fmt::join(slot.cores, ",")));
  }
}

absl::Status run(const Flags& flags) {
  AgentOptions options;
  BITRUNG_ASSIGN_OR_RETURN(const StateDirectory state, StateDirectory::open(flags.state_directory));
  BITRUNG_ASSIGN_OR_RETURN(const std::optional<Enrolment> enrolment, load_enrolment(state));
  if (flags.server.empty() && !enrolment) {
    return absl::InvalidArgumentError(
        "no server: pass --server unix:PATH, or enrol the worker at one with "
        "\"bitrung-worker enrol FILE\"");
  }
  const std::string server = flags.server.empty() ? enrolment->server : flags.server;
  BITRUNG_ASSIGN_OR_RETURN(options.server, parse_server_address(server));
  BITRUNG_ASSIGN_OR_RETURN(options.credentials, channel_credentials(server, enrolment));
  if (enrolment) warn_of_expiry(*enrolment);
  BITRUNG_ASSIGN_OR_RETURN(const Inventory inventory, find_slots(flags, options));
  // A server knows an enrolled worker by the name in its certificate.
  const std::string known_as = enrolment ? enrolment->name : host_name();
  options.name = flags.name.empty() ? known_as : flags.name;
  options.version = BITRUNG_VERSION;
  options.numerics = inventory.numerics;
  options.data_directories = data_directories(flags);
  options.locate = locate;
  options.silence_timeout = milliseconds{std::llround(flags.silence_timeout_seconds * 1000)};
  if (!options.no_op) say_layout(options.layout);

  spdlog::info("worker {} ({}), trainer {} with LibTorch {}, server {}", options.name,
               state.worker_id(), options.trainer.string(), inventory.torch, server);

  boost::asio::io_context io{1};
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Agent> agent,
                           Agent::create(io, state, std::move(options)));
  boost::asio::signal_set signals(io, SIGINT, SIGTERM, SIGUSR2);
  // A terminal's interrupt reaches parent and worker alike, and the parent then terminates the
  // worker: only the same signal a second time says that somebody does not want to wait.
  std::set<int> seen;
  std::function<void()> await_signal = [&] {
    signals.async_wait([&](const boost::system::error_code& error, int number) {
      if (error) return;
      if (!seen.insert(number).second) ::_exit(128 + number);
      if (seen.size() == 1) ::alarm(kExitSeconds);
      await_signal();
      agent->shut_down();
    });
  };
  await_signal();
  boost::asio::steady_timer end(io);
  if (flags.stop_after_seconds > 0) {
    end.expires_after(milliseconds{std::llround(flags.stop_after_seconds * 1000)});
    end.async_wait([&](const boost::system::error_code& error) {
      if (error) return;
      spdlog::info("the time of --stop-after is over: finishing");
      ::alarm(kExitSeconds);
      agent->shut_down();
    });
  }
  agent->on_exit([&] {
    signals.cancel();
    end.cancel();
  });
  agent->start();
  io.run();
  return absl::OkStatus();
}

int main_with(int argc, char** argv) {
  Flags flags;
  CLI::App app("Offers this host's devices to a bitrung server and trains what it is given.",
               "bitrung-worker");
  app.footer(
      "Examples:\n"
      "  bitrung-worker enrol gpu1.enrolment --state-dir /var/lib/bitrung-worker\n"
      "  bitrung-worker --state-dir /var/lib/bitrung-worker --data-dir /data\n"
      "  bitrung-worker --server unix:/srv/bitrung/server.sock --state-dir ~/worker --slots 2\n\n"
      "TERM, INT and USR2 end it cleanly: trainers stop at their last checkpoint and the jobs go "
      "to "
      "others. Exit codes: 0 stopped\nby a signal, 1 could not start, 2 wrong use.");
  app.add_option("--server", flags.server,
                 "unix:PATH or HOST:PORT (default: where it was enrolled)");
  app.add_option("--state-dir", flags.state_directory, "identity, spool and artifact cache");
  app.add_option("--name", flags.name, "name for people (default: the host's)");
  app.add_option("--slots", flags.slots,
                 "trainers at a time, which divide the CPU's cores once and for all (default: one "
                 "per GPU; without one as many as jobs wait, at most one per core)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--data-dir", flags.data_directories,
                 "directory of data sets, repeatable (default: BITRUNG_DATA_DIR)")
      ->allow_extra_args(false);
  app.add_option("--trainer", flags.trainer,
                 "program to train with (default: bitrung-trainer beside this one)");
  app.add_flag("--die-with-parent", flags.die_with_parent,
               "shut down when the parent process ends");
  app.add_option("--silence-timeout", flags.silence_timeout_seconds,
                 "seconds until a silent trainer is killed")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--stop-after", flags.stop_after_seconds,
                 "seconds after which it ends by itself, as if told to (default: never)")
      ->check(CLI::PositiveNumber);
  app.add_option("--log-level", flags.log_level, "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  // For benchmarks of the coordinator; in no help text, since nobody wants such results.
  app.add_flag("--no-op", flags.no_op)->group("");
  app.add_option("--no-op-points", flags.no_op_points)->group("");
  app.set_version_flag("--version", std::string("bitrung-worker ") + BITRUNG_VERSION);
  CLI::App* const enrol_command = app.add_subcommand(
      "enrol",
      "Gets this worker its certificate, in exchange for the file of \"bitrung enrol NAME\".");
  enrol_command->add_option("FILE", flags.enrolment_file, "file of the enrolment; used up by this")
      ->required();
  enrol_command->add_option("--state-dir", flags.state_directory, "the worker's state directory");
  enrol_command->add_option("--server", flags.server,
                            "another HOST:PORT than the file's, e.g. that of a tunnel");
  enrol_command->footer(
      "The key is made here and never leaves the state directory. An enrolment is good for 10 "
      "minutes and one worker.\n\nExample:\n"
      "  bitrung-worker enrol gpu1.enrolment --state-dir /var/lib/bitrung-worker");
  try {
    app.parse(argc, argv);
    if (flags.state_directory.empty()) throw CLI::RequiredError("--state-dir");
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  require_tls13();
  const pid_t parent = ::getppid();
  if (flags.die_with_parent && !end_with_parent(parent)) return 1;
  ::signal(SIGPIPE, SIG_IGN);
  spdlog::set_default_logger(spdlog::stderr_color_mt("bitrung-worker"));
  spdlog::set_level(spdlog::level::from_str(flags.log_level));

  const absl::Status status = enrol_command->parsed() ? enrol_with(flags) : run(flags);
  if (!status.ok()) {
    spdlog::error("{}", message(status));
    return absl::IsInvalidArgument(status) ? 2 : 1;
  }
  if (!enrol_command->parsed()) spdlog::info("worker stopped");
  return 0;
}

}  // namespace
}  // namespace bitrung::agent

int main(int argc, char** argv) {
  return bitrung::agent::main_with(argc, argv);
}
