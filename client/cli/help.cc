#include <fmt/format.h>

#include <algorithm>

#include "client/cli/command.h"

namespace bitrung::cli {
namespace {

std::string option_label(const OptionSpec& option) {
  std::string label =
      option.letter == '\0' ? std::string("    ") : fmt::format("-{}, ", option.letter);
  label += option.name;
  if (!option.value.empty()) label += fmt::format(" {}", option.value);
  return label;
}

// Two columns; a label that is too long gets a line of its own.
std::string definition(std::string_view label, std::size_t width, std::string_view text, Tone tone,
                       const Style& style) {
  const std::string painted = style.paint(tone, label);
  if (text.empty()) return fmt::format("  {}\n", painted);
  if (display_width(label) > width) {
    return fmt::format("  {}\n  {}  {}\n", painted, std::string(width, ' '), text);
  }
  return fmt::format("  {}{}  {}\n", painted, std::string(width - display_width(label), ' '), text);
}

}  // namespace

std::string usage_line(const CommandSpec& command) {
  std::string line = fmt::format("bitrung {}", command.name);
  for (const PositionalSpec& positional : command.positionals) {
    const std::string name = fmt::format("{}{}", positional.name, positional.repeated ? "…" : "");
    line += positional.required ? fmt::format(" {}", name) : fmt::format(" [{}]", name);
  }
  if (!command.options.empty()) line += " [OPTIONS]";
  return line;
}

std::string command_help(const CommandSpec& command, const Style& style) {
  constexpr std::size_t kWidth = 26;
  std::string usage = usage_line(command);
  if (!style.unicode) {
    while (usage.find("…") != std::string::npos) usage.replace(usage.find("…"), 3, "...");
  }
  std::string out = fmt::format("{}\n\nUsage: {}\n", command.summary, usage);
  if (!command.positionals.empty()) out += "\nArguments:\n";
  for (const PositionalSpec& positional : command.positionals) {
    std::string text(positional.help);
    if (!positional.choices.empty()) {
      std::string choices;
      for (const std::string_view choice : positional.choices) {
        choices += fmt::format("{}{}", choices.empty() ? "" : ", ", choice);
      }
      text += text.empty() ? choices : fmt::format(" ({})", choices);
    }
    out += definition(positional.name, kWidth, text, Tone::kStrong, style);
  }
  out += "\nOptions:\n";
  for (const OptionSpec& option : command.options) {
    out += definition(option_label(option), kWidth, option.help, Tone::kStrong, style);
  }
  out += definition("-h, --help", kWidth, "this text", Tone::kStrong, style);
  if (!command.examples.empty()) out += "\nExamples:\n";
  for (const Example& example : command.examples) {
    out += fmt::format("  {}{}\n", example.line,
                       example.what.empty()
                           ? std::string()
                           : style.paint(Tone::kFaint, fmt::format("   # {}", example.what)));
  }
  return out;
}

std::string overview(const Style& style) {
  constexpr std::size_t kWidth = 10;
  std::string out =
      "bitrung trains every bitwidth of a network, alone and taught by the one above, as one graph "
      "of jobs.\n\nUsage: bitrung COMMAND [ARGUMENTS] [OPTIONS]\n\nCommands:\n";
  for (const CommandSpec& command : command_table()) {
    out += definition(command.name, kWidth, command.summary, Tone::kStrong, style);
  }
  out +=
      "\nStart with:\n"
      "  bitrung run FILE          needs nothing else: a private server and worker in .bitrung\n"
      "  bitrung COMMAND --help    arguments, options and examples of a command\n"
      "\nExit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not authenticated, 5 refused,\n"
      "  6 a job failed (run, wait), 7 unreachable, 130 interrupted\n";
  return out;
}

}  // namespace bitrung::cli
