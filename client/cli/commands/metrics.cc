#include <ostream>

#include "client/cli/commands/commands.h"
#include "client/cli/references.h"
#include "client/cli/render_series.h"
#include "client/cli/session.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

constexpr std::uint64_t kBucketsMax = 10'000;
// A list with sparklines needs no more; a bucket's extremes are exact however few there are.
constexpr std::uint32_t kBucketsOfText = 64;

}  // namespace

absl::StatusOr<ExitCode> metrics_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const auto buckets, arguments.number("--buckets", 1, kBucketsMax));
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  Connection& connection = session->connection();
  BITRUNG_ASSIGN_OR_RETURN(
      const std::vector<v1::JobReference> jobs,
      jobs_of(connection, arguments.positionals, arguments.value("--experiment")));
  const OutputMode mode = arguments.output_mode(streams.out_terminal.interactive);
  v1::GetSeriesRequest request;
  for (const v1::JobReference& job : jobs) *request.add_jobs() = job;
  for (const std::string& name : arguments.values("--name")) request.add_names(name);
  request.set_buckets_max(
      static_cast<std::uint32_t>(buckets.value_or(mode == OutputMode::kText ? kBucketsOfText : 0)));
  BITRUNG_ASSIGN_OR_RETURN(const v1::GetSeriesResponse response, connection.get_series(request));
  streams.out << render_series(response, mode, streams.out_terminal.style);
  return ExitCode::kDone;
}

}  // namespace bitrung::cli
