// The program `bitrung`.
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <iostream>

#include "client/cli/cli.h"
#include "db/base/tls13.h"

int main(int argc, char** argv) {
  bitrung::require_tls13();
  // Commands that wait for something handle signals in their loop; for the others an interrupt ends
  // the program with the code that says so. Private programs die with it.
  std::signal(SIGINT, [](int) { _exit(static_cast<int>(bitrung::cli::ExitCode::kInterrupted)); });
  std::ios::sync_with_stdio(false);
  bitrung::cli::Streams streams{std::cout, std::cerr, bitrung::cli::inspect_terminal(STDOUT_FILENO),
                                bitrung::cli::inspect_terminal(STDERR_FILENO)};
  const int code = bitrung::cli::run_cli(std::vector<std::string>(argv + 1, argv + argc), streams);
  // Threads of gRPC may still be about to connect: nothing is torn down below them.
  std::cout.flush();
  std::cerr.flush();
  std::_Exit(code);
}
