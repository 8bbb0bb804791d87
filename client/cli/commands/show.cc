// Commands that ask once and show the answer: list, status, results, workers, explain.
#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "client/cli/commands/commands.h"
#include "client/cli/references.h"
#include "client/cli/render_lists.h"
#include "client/cli/render_results.h"
#include "client/cli/session.h"
#include "db/base/status.h"
#include "db/base/wall_clock.h"

namespace bitrung::cli {
namespace {

constexpr std::uint64_t kListedByDefault = 20;
constexpr std::uint64_t kListedMax = 1'000'000;

absl::StatusOr<std::unique_ptr<Session>> open_session(const Arguments& arguments) {
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  return Session::open(choice);
}

OutputMode mode_of(const Arguments& arguments, const Streams& streams) {
  return arguments.output_mode(streams.out_terminal.interactive);
}

}  // namespace

absl::StatusOr<ExitCode> list_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const std::optional<std::uint64_t> limit,
                           arguments.number("--limit", 0, kListedMax));
  BITRUNG_ASSIGN_OR_RETURN(const auto session, open_session(arguments));
  const std::string name = arguments.positionals.empty() ? "" : arguments.positionals.front();
  BITRUNG_ASSIGN_OR_RETURN(
      const std::vector<v1::Experiment> experiments,
      session->connection().list_experiments(name, limit.value_or(kListedByDefault)));
  streams.out << render_experiments(experiments, mode_of(arguments, streams),
                                    streams.out_terminal.style, wall_clock_ms());
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> status_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const auto session, open_session(arguments));
  Connection& connection = session->connection();
  BITRUNG_ASSIGN_OR_RETURN(const std::string name,
                           experiment_of(connection, arguments.positionals));
  BITRUNG_ASSIGN_OR_RETURN(const v1::Experiment experiment, connection.get_experiment(name));
  // By number: a newer experiment may take the name between the two calls.
  BITRUNG_ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs,
                           connection.list_jobs(experiment_argument(experiment)));
  streams.out << render_status(experiment, jobs, mode_of(arguments, streams),
                               streams.out_terminal.style);
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> results_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const auto session, open_session(arguments));
  Connection& connection = session->connection();
  v1::GetResultsRequest request;
  for (const std::string& list : arguments.values("--group-by")) {
    for (std::size_t begin = 0; begin <= list.size();) {
      const std::size_t end = std::min(list.find(',', begin), list.size());
      if (end == begin) {
        return absl::InvalidArgumentError(
            fmt::format("--group-by \"{}\" has an empty name; names of options with commas "
                        "between are expected, e.g. bits,distill.temperature",
                        list));
      }
      request.add_group_by(list.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  request.set_metric(arguments.value("--metric").value_or(""));
  BITRUNG_ASSIGN_OR_RETURN(*request.mutable_experiment(),
                           experiment_of(connection, arguments.positionals));
  BITRUNG_ASSIGN_OR_RETURN(const v1::GetResultsResponse results, connection.get_results(request));
  streams.out << render_results(results, mode_of(arguments, streams), streams.out_terminal.style);
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> workers_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const auto session, open_session(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::vector<v1::Worker> workers,
                           session->connection().list_workers());
  streams.out << render_workers(workers, mode_of(arguments, streams), streams.out_terminal.style,
                                wall_clock_ms());
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> explain_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const auto session, open_session(arguments));
  Connection& connection = session->connection();
  BITRUNG_ASSIGN_OR_RETURN(
      const v1::JobReference job,
      one_job_of(connection, "explain", arguments.positionals, arguments.value("--experiment")));
  BITRUNG_ASSIGN_OR_RETURN(const v1::ExplainJobResponse explanation, connection.explain(job));
  streams.out << render_explanation(job, explanation, mode_of(arguments, streams),
                                    streams.out_terminal.style);
  return ExitCode::kDone;
}

}  // namespace bitrung::cli
