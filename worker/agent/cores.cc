#include "worker/agent/cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>

namespace bitrung::agent {
namespace {

// "200000 100000" in one file or in two: microseconds of processor time, of how many. Without a
// limit the first is "max" or negative.
std::optional<double> quota_in(const std::filesystem::path& quota_file,
                               const std::filesystem::path& period_file) {
  double quota = 0;
  double period = 0;
  std::ifstream in(quota_file);
  if (!(in >> quota) || quota <= 0) return std::nullopt;
  if (period_file.empty()) {
    in >> period;
  } else {
    std::ifstream(period_file) >> period;
  }
  if (!(period > 0)) return std::nullopt;
  return quota / period;
}

}  // namespace

std::optional<int> processor_quota(const std::filesystem::path& root) {
  std::optional<double> least;
  const auto consider = [&least](std::optional<double> quota) {
    if (quota && (!least || *quota < *least)) least = quota;
  };
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // "0::/path" for version 2, "4:cpu,cpuacct:/path" for version 1.
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool is_unified = controllers == ",,";
    if (!is_unified && controllers.find(",cpu,") == std::string::npos) continue;
    const std::filesystem::path base = root / (is_unified ? "sys/fs/cgroup" : "sys/fs/cgroup/cpu");
    std::filesystem::path group = std::filesystem::path(line.substr(second + 1)).relative_path();
    while (true) {
      const std::filesystem::path folder = base / group;
      consider(is_unified ? quota_in(folder / "cpu.max", {})
                          : quota_in(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"));
      if (group.empty()) break;
      group = group.parent_path();
    }
  }
  if (!least) return std::nullopt;
  return std::max(1, static_cast<int>(std::ceil(std::min(*least, 1e6))));
}

Cores usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  Cores cores;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(static_cast<std::size_t>(core), &set)) cores.numbers.push_back(core);
    }
  }
  cores.count = static_cast<std::uint32_t>(cores.numbers.size());
  if (const std::optional<int> quota = processor_quota("/")) {
    cores.count = std::min(cores.count, static_cast<std::uint32_t>(*quota));
  }
  return cores;
}

}  // namespace bitrung::agent
