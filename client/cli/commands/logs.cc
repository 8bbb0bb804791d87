#include <fmt/format.h>

#include <chrono>
#include <limits>
#include <ostream>
#include <thread>
#include <utility>

#include "client/cli/commands/commands.h"
#include "client/cli/json_shapes.h"
#include "client/cli/references.h"
#include "client/cli/session.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

constexpr std::chrono::seconds kPatience{30};
constexpr std::chrono::milliseconds kPause{500};

// Prints lines in the mode asked for; lines seen before are dropped, which a repeated stream begins
// with.
class LogPrinter {
 public:
  LogPrinter(Streams& streams, OutputMode mode) : streams_(streams), mode_(mode) {
    if (mode_ == OutputMode::kTsv) {
      streams_.out << tsv_line({"attempt", "line", "time_ms", "text"});
    }
  }

  void print(const v1::LogLine& line) {
    const std::pair<std::uint32_t, std::uint64_t> position{line.attempt(), line.line()};
    if (position <= last_) return;
    // People see where one try ends and the next begins.
    if (mode_ == OutputMode::kText && last_.first != 0 && last_.first != line.attempt()) {
      streams_.out << streams_.out_terminal.style.paint(Tone::kFaint,
                                                        fmt::format("attempt {}", line.attempt()))
                   << '\n';
    }
    last_ = position;
    switch (mode_) {
      case OutputMode::kText:
        streams_.out << printable(line.text()) << '\n';
        break;
      case OutputMode::kTsv:
        streams_.out << tsv_line({fmt::format("{}", line.attempt()), fmt::format("{}", line.line()),
                                  fmt::format("{}", line.time_ms()), line.text()});
        break;
      case OutputMode::kJson:
        streams_.out << json_line(log_line_json(line));
        break;
    }
  }

  bool any() const { return last_.first != 0; }

 private:
  Streams& streams_;
  const OutputMode mode_;
  std::pair<std::uint32_t, std::uint64_t> last_{0, 0};
};

}  // namespace

absl::StatusOr<ExitCode> logs_command(const Arguments& arguments, Streams& streams) {
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint32_t>::max();
  BITRUNG_ASSIGN_OR_RETURN(const auto attempt, arguments.number("--attempt", 1, kMax));
  BITRUNG_ASSIGN_OR_RETURN(const auto tail, arguments.number("--tail", 1, kMax));
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open(choice));
  Connection& connection = session->connection();
  BITRUNG_ASSIGN_OR_RETURN(
      const v1::JobReference job,
      one_job_of(connection, "logs", arguments.positionals, arguments.value("--experiment")));

  v1::StreamLogsRequest request;
  *request.mutable_job() = job;
  request.set_attempt(static_cast<std::uint32_t>(attempt.value_or(0)));
  request.set_tail(static_cast<std::uint32_t>(tail.value_or(0)));
  request.set_follow(arguments.has("--follow"));
  const OutputMode mode = arguments.output_mode(streams.out_terminal.interactive);
  LogPrinter printer(streams, mode);
  StreamStop stop;
  auto heard = std::chrono::steady_clock::now();
  while (true) {
    const absl::Status status =
        connection.stream_logs(request, stop, [&](const v1::StreamLogsResponse& response) {
          for (const v1::LogLine& line : response.lines()) printer.print(line);
          streams.out.flush();
          heard = std::chrono::steady_clock::now();
        });
    if (status.ok()) break;
    // The stream's lifetime ran out: nothing is wrong.
    const bool renew = absl::IsDeadlineExceeded(status);
    const bool broken = absl::IsUnavailable(status) || absl::IsInternal(status);
    if (!request.follow() || (!renew && !broken)) return status;
    if (broken && std::chrono::steady_clock::now() - heard > kPatience + kStreamLifetime) {
      return status;
    }
    std::this_thread::sleep_for(kPause);
  }
  if (!printer.any() && mode == OutputMode::kText) {
    streams.err << fmt::format("no log line of {}/{}; see bitrung explain {}/{}\n",
                               job.experiment(), job.job(), job.experiment(), job.job());
  }
  return ExitCode::kDone;
}

}  // namespace bitrung::cli
