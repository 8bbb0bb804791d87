// `bitrung-server backup` and `bitrung-server restore`: the words around db/backup.h.
#pragma once

#include <functional>

#include <CLI/App.hpp>

namespace bitrung {

// Adds both to the program. After the parsing, `chosen` is what to run if one of them was named; it
// returns the exit code.
void add_backup_commands(CLI::App& app, std::function<int()>& chosen);

}  // namespace bitrung
