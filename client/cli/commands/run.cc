#include <fmt/format.h>

#include <csignal>
#include <filesystem>
#include <ostream>
#include <set>
#include <string>

#include "client/cli/commands/commands.h"
#include "client/cli/dataset_check.h"
#include "client/cli/environment.h"
#include "client/cli/follow.h"
#include "client/cli/private_fleet.h"
#include "client/cli/render_results.h"
#include "client/cli/session.h"
#include "client/cli/submission.h"
#include "client/cli/words.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

constexpr std::uint64_t kSlotsMax = 1024;
constexpr int kJoinTriesMax = 3;

absl::Status check_datasets(const client::Graph& graph, const std::filesystem::path& directory) {
  std::set<std::string> checked;
  for (const client::Job& job : graph.jobs) {
    if (!checked.insert(job.dataset).second) continue;
    BITRUNG_RETURN_IF_ERROR(check_dataset(job.dataset, directory));
  }
  return absl::OkStatus();
}

// What `run` does once there is a server: the same with a private and with a named one.
class Study {
 public:
  Study(const client::Graph& graph, const Arguments& arguments, Streams& streams, Signals& signals)
      : graph_(graph),
        arguments_(arguments),
        streams_(streams),
        signals_(signals),
        quiet_(arguments.has("--quiet")),
        display_(streams.err, streams.err_terminal) {}

  void note(std::string_view line) {
    if (!quiet_) display_.note(line);
  }

  // Submits and watches to the end.
  absl::StatusOr<FollowEnd> work(const std::shared_ptr<Connection>& connection,
                                 const std::filesystem::path& pending_directory,
                                 const std::function<absl::Status(bool)>& on_tick,
                                 const std::function<bool()>& may_explain) {
    BITRUNG_RETURN_IF_ERROR(upload_files(*connection, graph_));
    BITRUNG_ASSIGN_OR_RETURN(
        const v1::SubmitExperimentResponse submitted,
        submit_once(*connection, make_submit_request(graph_, /*join_active=*/true),
                    pending_directory));
    const v1::Experiment& experiment = submitted.experiment();
    experiment_ = experiment_argument(experiment);
    note(fmt::format("{} #{}: {}{}", experiment.name(), experiment_, describe(graph_),
                     submitted.already_submitted() ? "; continued" : ""));
    FollowOptions options;
    options.experiment = experiment_;
    options.progress = !quiet_;
    options.on_tick = on_tick;
    options.may_explain = may_explain;
    return follow(connection, options, signals_, display_, view_);
  }

  // The results as asked for, kept until everything is stopped.
  absl::Status fetch_results(Connection& connection) {
    v1::GetResultsRequest request;
    request.set_experiment(experiment_);
    BITRUNG_ASSIGN_OR_RETURN(results_, connection.get_results(request));
    return absl::OkStatus();
  }

  ExitCode print_results() {
    const OutputMode mode = arguments_.output_mode(streams_.out_terminal.interactive);
    // Apart from the live view that stays above it.
    if (mode == OutputMode::kText && display_.interactive() && !quiet_) streams_.out << '\n';
    streams_.out << render_results(results_, mode, streams_.out_terminal.style);
    const v1::ExperimentState state = results_.experiment().state();
    if (state == v1::EXPERIMENT_STATE_SUCCEEDED) return ExitCode::kDone;
    return state == v1::EXPERIMENT_STATE_FAILED ? ExitCode::kJobFailed : ExitCode::kFailed;
  }

  std::uint32_t running() const { return view_.count(v1::JOB_STATE_RUNNING); }
  const std::string& experiment() const { return experiment_; }

 private:
  const client::Graph& graph_;
  const Arguments& arguments_;
  Streams& streams_;
  Signals& signals_;
  const bool quiet_;
  LiveDisplay display_;
  ExperimentView view_;
  std::string experiment_;
  v1::GetResultsResponse results_;
};

absl::StatusOr<ExitCode> run_on_named_server(const ServerChoice& choice, Study& study,
                                             Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  const std::shared_ptr<Connection> connection = session->shared_connection();
  BITRUNG_ASSIGN_OR_RETURN(const FollowEnd end,
                           study.work(connection, user_state_directory() / "pending", {}, {}));
  if (end == FollowEnd::kInterrupted) {
    streams.err << fmt::format("the experiment goes on at {}; watch it: bitrung watch {}\n",
                               connection->address(), study.experiment());
    return ExitCode::kInterrupted;
  }
  BITRUNG_RETURN_IF_ERROR(study.fetch_results(*connection));
  return study.print_results();
}

absl::StatusOr<ExitCode> run_privately(PrivateFleet& fleet, const StateDirectory& directory,
                                       Study& study, const std::string& command, Streams& streams) {
  absl::StatusOr<FollowEnd> end = FollowEnd::kInterrupted;
  absl::Status status = fleet.start();
  // A server that was joined may belong to a command that is just ending.
  for (int tries = 0; status.ok(); ++tries) {
    end = study.work(
        fleet.connection(), directory.pending_directory(),
        [&](bool lost) { return fleet.supervise(lost); }, [&] { return fleet.worker_is_ready(); });
    if (!absl::IsUnavailable(end.status()) || fleet.owns_server() || tries == kJoinTriesMax) break;
    status = fleet.start();
  }
  if (status.ok()) {
    status = end.status();
    if (end.ok() && *end == FollowEnd::kTerminal) status = study.fetch_results(*fleet.connection());
  }
  const bool interrupted =
      absl::IsCancelled(status) || (status.ok() && *end == FollowEnd::kInterrupted);
  if (interrupted && !fleet.owns_server() && !fleet.owns_worker()) {
    if (!study.experiment().empty()) {  // Else nothing was submitted yet.
      streams.err << fmt::format(
          "the experiment goes on in the other command; watch it: bitrung watch {}\n",
          study.experiment());
    }
    return ExitCode::kInterrupted;
  }
  if (interrupted) {
    const std::uint32_t running = study.running();
    // The terminal has written ^C at the start of the line.
    if (streams.err_terminal.interactive) streams.err << "\r\x1b[K";
    streams.err << fmt::format("stopping{}; Ctrl-C again kills; the same command continues\n",
                               running == 0 ? std::string()
                                            : fmt::format(": {} to a resume state, within 30 s",
                                                          format_plural(running, "running job")));
    streams.err.flush();
  }
  const bool stopped = fleet.stop();
  if (interrupted) {
    streams.err << (stopped ? "stopped; continue with: " : "killed; continue with: ") << command
                << '\n';
    return ExitCode::kInterrupted;
  }
  if (!status.ok()) return status;
  return study.print_results();
}

// The command as a person would type it again.
std::string command_again(const Arguments& arguments) {
  std::string command = "bitrung run " + arguments.positionals.front();
  for (const auto& [option, values] : arguments.options) {
    if (values.empty()) command += fmt::format(" {}", option);
    for (const std::string& value : values) {
      const bool plain = value.find_first_of(" \t'\"\\$&|;<>(){}[]*?#~`!") == std::string::npos;
      command +=
          plain ? fmt::format(" {} {}", option, value) : fmt::format(" {} '{}'", option, value);
    }
  }
  return command;
}

}  // namespace

absl::StatusOr<ExitCode> run_command(const Arguments& arguments, Streams& streams) {
  // First of all, so that bad input fails before anything is started or created.
  BITRUNG_ASSIGN_OR_RETURN(const client::Graph graph, load_graph(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::optional<std::uint64_t> slots,
                           arguments.number("--slots", 1, kSlotsMax));
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice,
                           choose_server(arguments, SavedLogin::kMayNotChoose));
  // A reader that goes away must not leave the private programs without their orderly end.
  std::signal(SIGPIPE, SIG_IGN);
  Signals signals;
  Study study(graph, arguments, streams, signals);
  if (choice.address) return run_on_named_server(choice, study, streams);

  const std::optional<std::string> named = arguments.value("--data-dir");
  std::error_code error;
  const std::filesystem::path data_directory = std::filesystem::absolute(
      named ? std::filesystem::path(*named) : default_data_directory(), error);
  PrivateFleet fleet({.directory = choice.state_directory,
                      .worker = {.data_directory = data_directory, .slots = slots},
                      .check_worker = [&] { return check_datasets(graph, data_directory); },
                      .note = [&](std::string_view line) { study.note(line); }},
                     signals);
  return run_privately(fleet, choice.state_directory, study, command_again(arguments), streams);
}

}  // namespace bitrung::cli
