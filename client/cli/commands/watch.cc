// Commands that stay until an experiment ends: watch and wait.
#include <fmt/format.h>

#include <ostream>

#include "client/cli/commands/commands.h"
#include "client/cli/follow.h"
#include "client/cli/json_shapes.h"
#include "client/cli/progress_view.h"
#include "client/cli/references.h"
#include "client/cli/render_results.h"
#include "client/cli/session.h"
#include "client/cli/words.h"
#include "db/base/status.h"
#include "db/base/wall_clock.h"

namespace bitrung::cli {
namespace {

ExitCode code_for(v1::ExperimentState state) {
  if (state == v1::EXPERIMENT_STATE_SUCCEEDED) return ExitCode::kDone;
  return state == v1::EXPERIMENT_STATE_FAILED ? ExitCode::kJobFailed : ExitCode::kFailed;
}

}  // namespace

absl::StatusOr<ExitCode> watch_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  Signals signals;
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  BITRUNG_ASSIGN_OR_RETURN(const std::string experiment,
                           experiment_of(session->connection(), arguments.positionals));
  const OutputMode mode = arguments.output_mode(streams.out_terminal.interactive);
  LiveDisplay display(streams.err, streams.err_terminal);
  ExperimentView view;
  FollowOptions options;
  options.experiment = experiment;
  // On a pipe the changes are the output; people see the live view on the terminal beside it.
  options.progress = mode == OutputMode::kText || display.interactive();
  if (mode == OutputMode::kTsv) streams.out << change_tsv_header() << std::flush;
  if (mode != OutputMode::kText) {
    options.on_change = [&](const v1::Job& job) {
      streams.out << (mode == OutputMode::kTsv ? change_tsv(job, wall_clock_ms())
                                               : change_json(job, wall_clock_ms()))
                  << std::flush;
    };
  }
  BITRUNG_ASSIGN_OR_RETURN(const FollowEnd end,
                           follow(session->shared_connection(), options, signals, display, view));
  if (end == FollowEnd::kInterrupted) return ExitCode::kInterrupted;
  if (mode == OutputMode::kText) {
    streams.out << fmt::format(
        "{} #{} {}\nnext: bitrung results {}\n", view.experiment().name(),
        view.experiment().experiment_id(),
        streams.out_terminal.style.paint(tone_of(view.experiment().state()),
                                         state_name(view.experiment().state())),
        experiment_argument(view.experiment()));
  }
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> wait_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  Signals signals;
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  BITRUNG_ASSIGN_OR_RETURN(const std::string experiment,
                           experiment_of(session->connection(), arguments.positionals));
  LiveDisplay display(streams.err, streams.err_terminal);
  ExperimentView view;
  FollowOptions options;
  options.experiment = experiment;
  options.progress = false;
  BITRUNG_ASSIGN_OR_RETURN(const FollowEnd end,
                           follow(session->shared_connection(), options, signals, display, view));
  if (end == FollowEnd::kInterrupted) return ExitCode::kInterrupted;
  const v1::Experiment& ended = view.experiment();
  switch (arguments.output_mode(streams.out_terminal.interactive)) {
    case OutputMode::kText:
      streams.out << fmt::format("{} #{} {}: {}\n", ended.name(), ended.experiment_id(),
                                 state_name(ended.state()), count_line(ended));
      break;
    case OutputMode::kTsv:
      streams.out << tsv_line({"experiment_id", "experiment", "state"})
                  << tsv_line(
                         {experiment_argument(ended), ended.name(), state_name(ended.state())});
      break;
    case OutputMode::kJson:
      streams.out << json_text(experiment_json(ended));
      break;
  }
  return code_for(ended.state());
}

}  // namespace bitrung::cli
