// Exit codes of the command line, and the one place that says which error gives which.
#pragma once

#include "absl/status/status.h"

namespace bitrung::cli {

enum class ExitCode : int {
  kDone = 0,
  kFailed = 1,
  kUsage = 2,
  kNotFound = 3,
  kNotAuthenticated = 4,
  kRefused = 5,      // A limit or a missing right.
  kJobFailed = 6,    // run and wait: the command worked, a job did not.
  kUnreachable = 7,  // No answer from the server, or from the host of a download.
  kInterrupted = 130,
};

ExitCode exit_code(const absl::Status& status);

// For errors of local files: their status codes speak of a disk, so that a full or broken disk does
// not read as "unreachable" or "refused". NOT_FOUND and INVALID_ARGUMENT stay, everything else
// becomes INTERNAL (exit code 1).
absl::Status local_error(const absl::Status& status);

}  // namespace bitrung::cli
