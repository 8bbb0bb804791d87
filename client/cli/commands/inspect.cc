// Commands that look into results: inspect shows one network, compare two.
#include <fmt/format.h>

#include <ostream>

#include "client/cli/commands/commands.h"
#include "client/cli/references.h"
#include "client/cli/render_compare.h"
#include "client/cli/render_inspect.h"
#include "client/cli/session.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

// "E/NAME", or NAME of the experiment that was named, or an experiment, or NAME of the newest one.
absl::StatusOr<v1::JobReference> parse_side(Connection& connection, const std::string& word,
                                            const std::optional<std::string>& experiment) {
  v1::JobReference side;
  const std::size_t slash = word.find('/');
  if (slash != std::string::npos) {
    side.set_experiment(word.substr(0, slash));
    side.set_job(word.substr(slash + 1));
    if (side.experiment().empty() || side.job().empty() ||
        side.job().find('/') != std::string::npos) {
      return absl::InvalidArgumentError(
          fmt::format("\"{}\" names no jobs; EXPERIMENT/JOB, EXPERIMENT/ENTRY or EXPERIMENT is "
                      "expected, e.g. 3/alone.bits=4",
                      word));
    }
    return side;
  }
  if (experiment) {
    side.set_experiment(*experiment);
    side.set_job(word);
    return side;
  }
  const auto whole = connection.get_experiment(word);
  if (whole.ok()) {
    side.set_experiment(word);
    return side;
  }
  if (!absl::IsNotFound(whole.status())) return whole.status();
  BITRUNG_ASSIGN_OR_RETURN(*side.mutable_experiment(), newest_experiment(connection));
  side.set_job(word);
  return side;
}

}  // namespace

absl::StatusOr<ExitCode> inspect_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  Connection& connection = session->connection();
  BITRUNG_ASSIGN_OR_RETURN(
      const v1::JobReference job,
      one_job_of(connection, "inspect", arguments.positionals, arguments.value("--experiment")));
  BITRUNG_ASSIGN_OR_RETURN(const v1::GetReportResponse report, connection.get_report(job));
  const InspectOptions options{.layer_pattern = arguments.value("--layer").value_or(""),
                               .activations = arguments.has("--activations"),
                               .confusion = arguments.has("--confusion")};
  BITRUNG_ASSIGN_OR_RETURN(
      const std::string text,
      render_inspection(report, job.experiment(), options,
                        arguments.output_mode(streams.out_terminal.interactive),
                        streams.out_terminal.style));
  streams.out << text;
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> compare_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  Connection& connection = session->connection();
  const std::optional<std::string> experiment = arguments.value("--experiment");
  v1::CompareRequest request;
  BITRUNG_ASSIGN_OR_RETURN(*request.mutable_a(),
                           parse_side(connection, arguments.positionals[0], experiment));
  BITRUNG_ASSIGN_OR_RETURN(*request.mutable_b(),
                           parse_side(connection, arguments.positionals[1], experiment));
  BITRUNG_ASSIGN_OR_RETURN(const v1::CompareResponse comparison, connection.compare(request));
  streams.out << render_comparison(comparison,
                                   arguments.output_mode(streams.out_terminal.interactive),
                                   streams.out_terminal.style);
  return ExitCode::kDone;
}

}  // namespace bitrung::cli
