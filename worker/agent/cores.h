// Which cores of the host this process may use, and how much of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace bitrung::agent {

struct Cores {
  std::vector<int> numbers;  // That sched_getaffinity() allows, ascending.
  // How many of them are worth using at once: all, or what the quota of processor time is worth,
  // since more threads would only be throttled.
  std::uint32_t count = 0;

  // With a quota the kernel chooses among all of them, since others do that have one, too.
  bool may_bind() const { return count == numbers.size(); }
};
Cores usable_cores();

// Processors' worth of time that the control groups of this process may use, at least 1, the
// smallest limit from its own group up to the root; nothing without a limit. Both versions of
// control groups. `root` is "/" but in tests.
std::optional<int> processor_quota(const std::filesystem::path& root);

}  // namespace bitrung::agent
