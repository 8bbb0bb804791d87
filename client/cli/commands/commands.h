// The functions behind the command table, one per command.
#pragma once

#include "absl/status/statusor.h"
#include "client/cli/arguments.h"
#include "client/cli/exit_code.h"
#include "client/cli/output.h"

namespace bitrung::cli {

absl::StatusOr<ExitCode> run_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> plan_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> options_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> submit_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> list_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> status_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> watch_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> wait_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> results_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> compare_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> inspect_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> logs_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> metrics_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> explain_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> cancel_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> retry_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> export_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> import_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> workers_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> drain_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> login_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> token_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> enrol_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> audit_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> data_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> version_command(const Arguments& arguments, Streams& streams);
absl::StatusOr<ExitCode> completion_command(const Arguments& arguments, Streams& streams);

}  // namespace bitrung::cli
