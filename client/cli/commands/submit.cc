#include <fmt/format.h>

#include <ostream>

#include "client/cli/commands/commands.h"
#include "client/cli/environment.h"
#include "client/cli/json_shapes.h"
#include "client/cli/render_results.h"
#include "client/cli/session.h"
#include "client/cli/submission.h"
#include "client/cli/words.h"
#include "db/base/status.h"

namespace bitrung::cli {

absl::StatusOr<ExitCode> submit_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const client::Graph graph, load_graph(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  Connection& connection = session->connection();
  BITRUNG_RETURN_IF_ERROR(upload_files(connection, graph));
  BITRUNG_ASSIGN_OR_RETURN(
      const v1::SubmitExperimentResponse response,
      submit_once(connection, make_submit_request(graph, /*join_active=*/false),
                  choice.address ? user_state_directory() / "pending"
                                 : choice.state_directory.pending_directory()));
  const v1::Experiment& experiment = response.experiment();
  const std::string id = experiment_argument(experiment);
  switch (arguments.output_mode(streams.out_terminal.interactive)) {
    case OutputMode::kText:
      streams.out << fmt::format("{} #{}: {}\n{}\nnext: bitrung watch {}   bitrung explain {}/{}\n",
                                 experiment.name(), id, describe(graph), count_line(experiment), id,
                                 id, graph.jobs.empty() ? "JOB" : graph.jobs.front().name);
      break;
    case OutputMode::kTsv:
      streams.out << tsv_line({"experiment_id", "experiment", "state", "jobs"})
                  << tsv_line({id, experiment.name(), state_name(experiment.state()),
                               fmt::format("{}", experiment.job_count())});
      break;
    case OutputMode::kJson: {
      Json json = experiment_json(experiment);
      json["already_submitted"] = response.already_submitted();
      streams.out << json_text(json);
      break;
    }
  }
  return ExitCode::kDone;
}

}  // namespace bitrung::cli
