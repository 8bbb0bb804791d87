// The command line as a function: words in, exit code out. Finds the command, parses its arguments,
// runs it and turns an error into one line and an exit code.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/command.h"

namespace bitrung::cli {

// `words` without the program's name.
int run_cli(const std::vector<std::string>& words, Streams& streams);

// Nothing when help was asked for; INVALID_ARGUMENT with the nearest known word otherwise.
absl::StatusOr<std::optional<Arguments>> parse_arguments(const CommandSpec& command,
                                                         const std::vector<std::string>& words);

}  // namespace bitrung::cli
