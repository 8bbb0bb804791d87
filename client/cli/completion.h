// Completion scripts for shells, made from the command table.
#pragma once

#include <string>
#include <string_view>

namespace bitrung::cli {

// For "bash", "zsh" or "fish"; empty for any other shell.
std::string completion_script(std::string_view shell);

}  // namespace bitrung::cli
