// The only file that knows the parsing library.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <algorithm>

#include "client/cli/cli.h"

namespace bitrung::cli {
namespace {

absl::Status usage_error(const CommandSpec& command, std::string_view what) {
  return absl::InvalidArgumentError(fmt::format("{}; see bitrung {} --help", what, command.name));
}

template <class Choices>
std::string listed(const Choices& choices) {
  std::string text;
  for (const auto& choice : choices) text += fmt::format("{}{}", text.empty() ? "" : ", ", choice);
  return text;
}

absl::Status unknown(const CommandSpec& command, const std::string& word) {
  if (!word.starts_with('-')) {
    return usage_error(command, fmt::format("unexpected argument \"{}\"", word));
  }
  const std::string name = word.substr(0, word.find('='));
  std::vector<std::string> known;
  for (const OptionSpec& option : command.options) known.emplace_back(option.name);
  const auto near = nearest(name, known);
  return usage_error(command, near ? fmt::format("unknown option {}; did you mean {}?", name, *near)
                                   : fmt::format("unknown option {}", name));
}

absl::Status check_choice(const CommandSpec& command, std::string_view name,
                          const std::vector<std::string_view>& choices, const std::string& value) {
  if (choices.empty() || std::ranges::find(choices, value) != choices.end()) {
    return absl::OkStatus();
  }
  const std::vector<std::string> known(choices.begin(), choices.end());
  const auto near = nearest(value, known);
  return usage_error(command, fmt::format("{} \"{}\" is none of {}{}", name, value, listed(choices),
                                          near ? fmt::format("; did you mean {}?", *near) : ""));
}

absl::Status check_positionals(const CommandSpec& command,
                               const std::vector<std::string>& positionals) {
  for (std::size_t i = 0; i < command.positionals.size(); ++i) {
    const PositionalSpec& spec = command.positionals[i];
    if (i >= positionals.size()) {
      if (!spec.required) break;
      return usage_error(command, fmt::format("{} is missing: {}", spec.name, usage_line(command)));
    }
    const absl::Status status = check_choice(command, spec.name, spec.choices, positionals[i]);
    if (!status.ok()) return status;
  }
  const bool open_end = !command.positionals.empty() && command.positionals.back().repeated;
  if (!open_end && positionals.size() > command.positionals.size()) {
    return unknown(command, positionals[command.positionals.size()]);
  }
  for (const std::string& positional : positionals) {
    if (positional.empty()) return usage_error(command, "an argument is empty");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<Arguments>> parse_arguments(const CommandSpec& command,
                                                         const std::vector<std::string>& words) {
  CLI::App app;
  app.set_help_flag("-h,--help", "");
  app.allow_extras();  // Unknown words are named below, with a suggestion.

  Arguments arguments;
  std::vector<std::vector<std::string>> values(command.options.size());
  std::vector<std::size_t> counts(command.options.size());
  std::vector<CLI::Option*> options;
  for (std::size_t i = 0; i < command.options.size(); ++i) {
    const OptionSpec& spec = command.options[i];
    const std::string names = spec.letter == '\0' ? std::string(spec.name)
                                                  : fmt::format("-{},{}", spec.letter, spec.name);
    if (spec.value.empty()) {
      options.push_back(app.add_flag(names, counts[i]));
    } else {
      // One value per mention, or "--set a=1 FILE" would swallow the file.
      options.push_back(app.add_option(names, values[i])->allow_extra_args(false));
    }
  }
  if (!command.positionals.empty()) {
    app.add_option("ARGUMENTS", arguments.positionals)->expected(0, 1 << 20);
  }
  // The library takes words from the back.
  std::vector<std::string> reversed(words.rbegin(), words.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    return std::optional<Arguments>();
  } catch (const CLI::ArgumentMismatch&) {
    // Which option lacks its value: the last word, or the one before another option.
    for (std::size_t i = 0; i < words.size(); ++i) {
      for (const OptionSpec& spec : command.options) {
        const bool named = words[i] == spec.name ||
                           (spec.letter != '\0' && words[i] == fmt::format("-{}", spec.letter));
        if (named && !spec.value.empty() &&
            (i + 1 == words.size() || words[i + 1].starts_with("-"))) {
          return usage_error(
              command, fmt::format("{} needs a value: {} {}", spec.name, spec.name, spec.value));
        }
      }
    }
    return usage_error(command, "an option lacks its value");
  } catch (const CLI::ParseError& error) {
    return usage_error(command, error.what());
  }
  for (const std::string& extra : app.remaining()) {
    if (extra != "--") return unknown(command, extra);  // The library keeps the mark itself.
  }
  for (std::size_t i = 0; i < command.options.size(); ++i) {
    const OptionSpec& spec = command.options[i];
    if (options[i]->count() == 0) continue;
    for (const std::string& value : values[i]) {
      const absl::Status status = check_choice(command, spec.name, spec.choices, value);
      if (!status.ok()) return status;
    }
    if (!spec.repeated && values[i].size() > 1) {
      return usage_error(command, fmt::format("{} is given {} times, once is expected", spec.name,
                                              values[i].size()));
    }
    arguments.options[std::string(spec.name)] = values[i];
  }
  const absl::Status status = check_positionals(command, arguments.positionals);
  if (!status.ok()) return status;
  return std::optional(std::move(arguments));
}

}  // namespace bitrung::cli
