// Commands about the program itself: version and completion.
#include <fmt/format.h>

#include <ostream>

#include "client/cli/commands/commands.h"
#include "client/cli/completion.h"
#include "client/cli/environment.h"
#include "client/cli/json_shapes.h"
#include "client/cli/session.h"
#include "db/base/status.h"

namespace bitrung::cli {

absl::StatusOr<ExitCode> version_command(const Arguments& arguments, Streams& streams) {
  std::optional<std::string> server;
  if (arguments.has("--server") || arguments.has("--login") || environment("BITRUNG_SERVER") ||
      environment("BITRUNG_LOGIN")) {
    BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
    BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
    BITRUNG_ASSIGN_OR_RETURN(const v1::GetServerResponse response,
                             session->connection().get_server());
    server = response.version();
  }
  switch (arguments.output_mode(streams.out_terminal.interactive)) {
    case OutputMode::kJson: {
      Json json;
      json["version"] = BITRUNG_VERSION;
      json["server_version"] = server ? Json(*server) : Json(nullptr);
      streams.out << json_text(json);
      break;
    }
    case OutputMode::kText:
    case OutputMode::kTsv:
      streams.out << fmt::format("bitrung {}\n", BITRUNG_VERSION);
      if (server) streams.out << fmt::format("bitrung-server {}\n", *server);
      break;
  }
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> completion_command(const Arguments& arguments, Streams& streams) {
  streams.out << completion_script(arguments.positionals.front());
  return ExitCode::kDone;
}

}  // namespace bitrung::cli
