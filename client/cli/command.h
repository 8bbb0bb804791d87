// The command table: the one description of the command line that parsing, help and shell
// completion read.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/arguments.h"
#include "client/cli/exit_code.h"
#include "client/cli/output.h"

namespace bitrung::cli {

// What a shell may offer for a value.
enum class Completes { kNothing, kFile, kDirectory };

struct OptionSpec {
  std::string_view name;   // "--state-dir"
  std::string_view value;  // "DIR"; empty for a flag.
  std::string_view help;
  char letter = '\0';  // "-o", or none.
  bool repeated = false;
  std::vector<std::string_view> choices = {};
  Completes completes = Completes::kNothing;
};

struct PositionalSpec {
  std::string_view name;  // "FILE"
  std::string_view help;
  bool required = true;
  bool repeated = false;  // Only the last one.
  std::vector<std::string_view> choices = {};
  Completes completes = Completes::kNothing;
};

struct Example {
  std::string_view line;
  std::string_view what;
};

struct CommandSpec {
  std::string_view name;
  std::string_view summary;
  std::vector<PositionalSpec> positionals;
  std::vector<OptionSpec> options;
  std::vector<Example> examples;
  // An error is printed as one line on standard error and decides the exit code.
  absl::StatusOr<ExitCode> (*function)(const Arguments&, Streams&);
};

// In the order in which help lists them.
std::span<const CommandSpec> command_table();

// "bitrung run FILE [OPTIONS]"
std::string usage_line(const CommandSpec& command);
std::string command_help(const CommandSpec& command, const Style& style);
std::string overview(const Style& style);

}  // namespace bitrung::cli
