#include "client/cli/cli.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <ostream>

#include "client/cli/commands/commands.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

int fail(const absl::Status& status, Streams& streams) {
  // An interrupted command has said so already, and the person knows.
  if (!absl::IsCancelled(status)) {
    streams.err << streams.err_terminal.style.paint(Tone::kBad, "bitrung:") << ' '
                << printable(message(status)) << std::endl;
  }
  return static_cast<int>(exit_code(status));
}

absl::Status unknown_command(const std::string& word) {
  std::vector<std::string> names;
  for (const CommandSpec& command : command_table()) names.emplace_back(command.name);
  if (word.starts_with('-')) {
    return absl::InvalidArgumentError(fmt::format(
        "unknown option {}; options come after the command: bitrung COMMAND {}", word, word));
  }
  const auto near = nearest(word, names);
  return absl::InvalidArgumentError(
      near ? fmt::format("unknown command \"{}\"; did you mean \"bitrung {}\"?", word, *near)
           : fmt::format("unknown command \"{}\"; see bitrung --help", word));
}

int dispatch(const std::vector<std::string>& words, Streams& streams) {
  if (words.empty()) {
    streams.err << overview(streams.err_terminal.style);
    return static_cast<int>(ExitCode::kUsage);
  }
  std::string name = words.front();
  std::vector<std::string> rest(words.begin() + 1, words.end());
  if (name == "help" && !rest.empty()) {  // "bitrung help run" is "bitrung run --help".
    name = rest.front();
    rest = {"--help"};
  }
  if (name == "--help" || name == "-h" || name == "help") {
    streams.out << overview(streams.out_terminal.style);
    return static_cast<int>(ExitCode::kDone);
  }
  if (name == "--version") name = "version";
  const auto table = command_table();
  const auto command = std::ranges::find(table, name, &CommandSpec::name);
  if (command == table.end()) return fail(unknown_command(name), streams);

  const absl::StatusOr<std::optional<Arguments>> arguments = parse_arguments(*command, rest);
  if (!arguments.ok()) return fail(arguments.status(), streams);
  if (!arguments->has_value()) {
    streams.out << command_help(*command, streams.out_terminal.style);
    return static_cast<int>(ExitCode::kDone);
  }
  const absl::StatusOr<ExitCode> code = command->function(**arguments, streams);
  streams.out.flush();
  if (!code.ok()) return fail(code.status(), streams);
  if (!streams.out) {
    return fail(absl::InternalError("standard output cannot be written; is the disk full?"),
                streams);
  }
  return static_cast<int>(*code);
}

}  // namespace

int run_cli(const std::vector<std::string>& words, Streams& streams) {
  try {
    return dispatch(words, streams);
  } catch (const std::exception& error) {
    // Out of memory, a path that no file system takes: nothing the commands foresee.
    return fail(absl::InternalError(error.what()), streams);
  }
}

}  // namespace bitrung::cli
