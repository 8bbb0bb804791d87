// Environment variables and directories that depend on them; read when asked, kept nowhere.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace bitrung::cli {

// The variable's value; nothing if it is not set or empty.
std::optional<std::string> environment(const char* name);

// $BITRUNG_DATA_DIR, else $XDG_CACHE_HOME/bitrung, else ~/.cache/bitrung.
std::filesystem::path default_data_directory();

// $XDG_CONFIG_HOME/bitrung, else ~/.config/bitrung.
std::filesystem::path user_config_directory();

// $XDG_STATE_HOME/bitrung, else ~/.local/state/bitrung.
std::filesystem::path user_state_directory();

}  // namespace bitrung::cli
