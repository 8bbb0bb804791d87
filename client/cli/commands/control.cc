// Commands that change something on the server: cancel, retry, drain.
#include <fmt/format.h>

#include <ostream>

#include "client/cli/commands/commands.h"
#include "client/cli/json_shapes.h"
#include "client/cli/references.h"
#include "client/cli/render_lists.h"
#include "client/cli/session.h"
#include "db/base/status.h"
#include "db/base/wall_clock.h"

namespace bitrung::cli {
namespace {

void print_changed(std::uint32_t changed, const Arguments& arguments, Streams& streams,
                   std::string_view text) {
  switch (arguments.output_mode(streams.out_terminal.interactive)) {
    case OutputMode::kText:
      streams.out << text << '\n';
      break;
    case OutputMode::kTsv:
      streams.out << tsv_line({"changed"}) << tsv_line({fmt::format("{}", changed)});
      break;
    case OutputMode::kJson: {
      Json json;
      json["changed"] = changed;
      streams.out << json_text(json);
      break;
    }
  }
}

}  // namespace

absl::StatusOr<ExitCode> cancel_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const Selection selection, parse_selection(arguments.positionals));
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  v1::CancelExperimentRequest request;
  request.set_experiment(selection.experiment);
  for (const std::string& job : selection.jobs) request.add_jobs(job);
  BITRUNG_ASSIGN_OR_RETURN(const std::uint32_t changed, session->connection().cancel(request));
  print_changed(
      changed, arguments, streams,
      changed == 0
          ? fmt::format("nothing to cancel in {}: every job named has ended", selection.experiment)
          : fmt::format("{} cancelled\nnext: bitrung status {}   bitrung retry {}",
                        format_plural(changed, "job"), selection.experiment, selection.experiment));
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> retry_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const Selection selection, parse_selection(arguments.positionals));
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  v1::RetryExperimentRequest request;
  request.set_experiment(selection.experiment);
  for (const std::string& job : selection.jobs) request.add_jobs(job);
  BITRUNG_ASSIGN_OR_RETURN(const std::uint32_t changed, session->connection().retry(request));
  print_changed(changed, arguments, streams,
                changed == 0 ? fmt::format("nothing to retry in {}: no job named has failed, was "
                                           "cancelled or was skipped",
                                           selection.experiment)
                             : fmt::format("{} again\nnext: bitrung watch {}",
                                           format_plural(changed, "job"), selection.experiment));
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> drain_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  const bool drain = !arguments.has("--off");
  BITRUNG_ASSIGN_OR_RETURN(const v1::Worker worker,
                           session->connection().drain(arguments.positionals.front(), drain));
  const OutputMode mode = arguments.output_mode(streams.out_terminal.interactive);
  if (mode != OutputMode::kText) {
    streams.out << render_workers({worker}, mode, streams.out_terminal.style, wall_clock_ms());
    return ExitCode::kDone;
  }
  const std::string name = printable(worker.name());
  if (drain) {
    streams.out << fmt::format(
        "worker {} gets no new jobs; it still holds {}\nnext: bitrung drain {} --off\n", name,
        format_plural(static_cast<std::uint64_t>(worker.jobs_size()), "job"), name);
  } else {
    streams.out << fmt::format("worker {} gets jobs again\n", name);
  }
  return ExitCode::kDone;
}

}  // namespace bitrung::cli
