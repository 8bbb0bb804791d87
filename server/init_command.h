// `bitrung-server init`: the words around auth::make_authority().
#pragma once

#include <functional>

#include <CLI/App.hpp>

namespace bitrung {

// Adds it to the program. After the parsing, `chosen` is what to run if it was named; it returns
// the exit code.
void add_init_command(CLI::App& app, std::function<int()>& chosen);

}  // namespace bitrung
