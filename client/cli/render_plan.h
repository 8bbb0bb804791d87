// What an experiment file would do, as text, TSV and JSON. Pure: the plan is put together by the
// command.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "client/cli/output.h"

namespace bitrung::cli {

struct PlanJob {
  std::string name;
  std::vector<std::string> aliases;
  std::vector<std::string> parents;  // Jobs by name, outside files by path, "best of a, b".
  std::string kind = "train";        // Or "quantize", "evaluate".
  std::string model;
  std::string dataset;
  std::string method;
  int weight_bits = 32;
  int activation_bits = 32;
  std::uint64_t seed = 0;
  int epochs = 0;  // 0 where nothing is trained.
  double flops = 0;
  bool cached = false;
  std::string cached_from;
  std::string reason;  // Why it is not cached.
  std::optional<double> estimated_seconds;
};

struct Plan {
  std::string experiment;
  std::vector<PlanJob> jobs;  // In file order.
  std::size_t edges = 0;
  std::vector<std::string> critical_path;  // The longest chain, first job first.
  bool cache_known = false;                // A server was asked.
};

std::string render_plan(const Plan& plan, OutputMode mode, const Style& style);

}  // namespace bitrung::cli
