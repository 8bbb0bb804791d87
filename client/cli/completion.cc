#include "client/cli/completion.h"

#include <fmt/format.h>

#include <vector>

#include "client/cli/command.h"

namespace bitrung::cli {
namespace {

std::string words(const std::vector<std::string_view>& list) {
  std::string text;
  for (const std::string_view word : list)
    text += fmt::format("{}{}", text.empty() ? "" : " ", word);
  return text;
}

// Inside single quotes of a POSIX shell.
std::string quoted(std::string_view text) {
  std::string out = "'";
  for (const char letter : text) {
    if (letter == '\'') {
      out += "'\\''";
    } else {
      out += letter;
    }
  }
  return out + "'";
}

// zsh reads colons and brackets in descriptions as syntax.
std::string zsh_text(std::string_view text) {
  std::string out;
  for (const char letter : text) {
    if (letter == ':' || letter == '[' || letter == ']' || letter == '\\') out += '\\';
    out += letter;
  }
  return out;
}

std::string all_commands() {
  std::string text;
  for (const CommandSpec& command : command_table()) {
    text += fmt::format("{}{}", text.empty() ? "" : " ", command.name);
  }
  return text;
}

std::string bash_script() {
  std::string out =
      "# Completion of bitrung for bash.\n"
      "_bitrung() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= i\n"
      "  local options= words= values= files=\n"
      "  COMPREPLY=()\n"
      "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
      "    if [[ ${COMP_WORDS[i]} != -* ]]; then command=${COMP_WORDS[i]}; break; fi\n"
      "  done\n";
  out += fmt::format(
      "  if [[ -z $command ]]; then\n"
      "    COMPREPLY=($(compgen -W '{} --help --version' -- \"$word\"))\n"
      "    return\n"
      "  fi\n"
      "  case $command in\n",
      all_commands());
  for (const CommandSpec& command : command_table()) {
    std::string options = "--help";
    for (const OptionSpec& option : command.options) options += fmt::format(" {}", option.name);
    std::string choices;
    std::string files;
    for (const PositionalSpec& positional : command.positionals) {
      if (!positional.choices.empty()) {
        choices += fmt::format("{}{}", choices.empty() ? "" : " ", words(positional.choices));
      }
      if (positional.completes == Completes::kFile) files = "-f";
    }
    out += fmt::format("    {}) options='{}' words='{}' files='{}' ;;\n", command.name, options,
                       choices, files);
  }
  out += "  esac\n  case $before in\n";
  // Options mean the same in every command, so one list serves all.
  std::vector<std::string_view> seen;
  for (const CommandSpec& command : command_table()) {
    for (const OptionSpec& option : command.options) {
      if (option.value.empty()) continue;
      bool known = false;
      for (const std::string_view name : seen) known = known || name == option.name;
      if (known) continue;
      seen.push_back(option.name);
      std::string pattern(option.name);
      if (option.letter != '\0') pattern += fmt::format("|-{}", option.letter);
      if (!option.choices.empty()) {
        out += fmt::format("    {}) COMPREPLY=($(compgen -W '{}' -- \"$word\")); return ;;\n",
                           pattern, words(option.choices));
      } else if (option.completes == Completes::kNothing) {
        out += fmt::format("    {}) return ;;\n", pattern);
      } else {
        out += fmt::format(
            "    {}) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen {} -- \"$word\")); "
            "return ;;\n",
            pattern, option.completes == Completes::kDirectory ? "-d" : "-f");
      }
    }
  }
  out +=
      "  esac\n"
      "  if [[ $word == -* ]]; then\n"
      "    COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n"
      "  elif [[ -n $files ]]; then\n"
      "    compopt -o filenames 2>/dev/null\n"
      "    COMPREPLY=($(compgen -f -- \"$word\"))\n"
      "  else\n"
      "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
      "  fi\n"
      "}\n"
      "complete -F _bitrung bitrung\n";
  return out;
}

std::string zsh_action(std::string_view name, const std::vector<std::string_view>& choices,
                       Completes completes) {
  if (!choices.empty()) return fmt::format("{}:({})", name, words(choices));
  switch (completes) {
    case Completes::kFile:
      return fmt::format("{}:_files", name);
    case Completes::kDirectory:
      return fmt::format("{}:_files -/", name);
    case Completes::kNothing:
      break;
  }
  return fmt::format("{}: ", name);
}

std::string zsh_script() {
  std::string out =
      "#compdef bitrung\n"
      "# Completion of bitrung for zsh.\n"
      "_bitrung() {\n"
      "  local -a commands\n"
      "  commands=(\n";
  for (const CommandSpec& command : command_table()) {
    out += fmt::format("    {}\n",
                       quoted(fmt::format("{}:{}", command.name, zsh_text(command.summary))));
  }
  out +=
      "  )\n"
      "  if (( CURRENT == 2 )); then\n"
      "    _describe command commands\n"
      "    return\n"
      "  fi\n"
      "  local command=$words[2]\n"
      "  shift words\n"
      "  (( CURRENT-- ))\n"
      "  case $command in\n";
  for (const CommandSpec& command : command_table()) {
    out += fmt::format("    {})\n      _arguments", command.name);
    for (const OptionSpec& option : command.options) {
      std::string spec =
          fmt::format("{}{}[{}]", option.repeated ? "*" : "", option.name, zsh_text(option.help));
      if (!option.value.empty()) {
        spec += fmt::format(":{}", zsh_action(option.value, option.choices, option.completes));
      }
      out += fmt::format(" \\\n        {}", quoted(spec));
    }
    for (const PositionalSpec& positional : command.positionals) {
      out += fmt::format(" \\\n        {}",
                         quoted(fmt::format("{}{}",
                                            positional.repeated   ? "*:"
                                            : positional.required ? ":"
                                                                  : "::",
                                            zsh_action(positional.name, positional.choices,
                                                       positional.completes))));
    }
    out += " \\\n        '--help[this text]' ;;\n";
  }
  out +=
      "  esac\n"
      "}\n"
      "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _bitrung \"$@\"; else compdef _bitrung "
      "bitrung; fi\n";
  return out;
}

std::string fish_script() {
  std::string out =
      "# Completion of bitrung for fish.\n"
      "complete -c bitrung -f\n";
  for (const CommandSpec& command : command_table()) {
    out += fmt::format("complete -c bitrung -n __fish_use_subcommand -a {} -d {}\n", command.name,
                       quoted(command.summary));
  }
  for (const CommandSpec& command : command_table()) {
    const std::string here =
        fmt::format("complete -c bitrung -n '__fish_seen_subcommand_from {}'", command.name);
    for (const PositionalSpec& positional : command.positionals) {
      if (!positional.choices.empty()) {
        out += fmt::format("{} -a '{}'\n", here, words(positional.choices));
      }
      if (positional.completes == Completes::kFile) out += fmt::format("{} -F\n", here);
    }
    for (const OptionSpec& option : command.options) {
      out += fmt::format("{} -l {}", here, option.name.substr(2));
      if (option.letter != '\0') out += fmt::format(" -s {}", option.letter);
      if (!option.value.empty()) {
        out += " -r";
        if (!option.choices.empty()) out += fmt::format(" -a '{}'", words(option.choices));
        if (option.completes == Completes::kFile) out += " -F";
        if (option.completes == Completes::kDirectory) out += " -a '(__fish_complete_directories)'";
      }
      out += fmt::format(" -d {}\n", quoted(option.help));
    }
  }
  return out;
}

}  // namespace

std::string completion_script(std::string_view shell) {
  if (shell == "bash") return bash_script();
  if (shell == "zsh") return zsh_script();
  if (shell == "fish") return fish_script();
  return {};
}

}  // namespace bitrung::cli
