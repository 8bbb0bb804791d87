// Checks of what the program itself promises; on in every build. Header only, standard library
// only.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace bitrung {

// Prints the broken promise and aborts. Never returns.
[[noreturn]] inline void check_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, expression);
  std::abort();
}

}  // namespace bitrung

// Aborts unless the condition holds. For programmer errors only; expected failures are
// absl::Status.
#define BITRUNG_CHECK(condition)                               \
  do {                                                         \
    if (!(condition)) [[unlikely]] {                           \
      ::bitrung::check_failed(#condition, __FILE__, __LINE__); \
    }                                                          \
  } while (false)
