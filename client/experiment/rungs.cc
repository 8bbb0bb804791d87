#include "client/experiment/rungs.h"

#include <fmt/format.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "db/base/check.h"

namespace bitrung::client {

void make_ladder(Axis& rungs) {
  for (std::size_t i = 1; i < rungs.values.size(); ++i) rungs.values[i].teachers = {i - 1};
}

std::uint64_t path_count(std::size_t rungs) {
  BITRUNG_CHECK(rungs > 0);
  return rungs > 64 ? std::numeric_limits<std::uint64_t>::max() : std::uint64_t{1} << (rungs - 1);
}

void make_paths(Axis& rungs) {
  BITRUNG_CHECK(path_count(rungs.values.size()) <= kJobsMax);
  // A path that is to be written down: its last rung, and the position of the path before it.
  struct Step {
    std::size_t rung = 0;
    std::vector<std::size_t> teachers;
  };
  std::vector<AxisValue> paths;
  std::vector<Step> steps = {Step{}};
  while (!steps.empty()) {
    Step step = std::move(steps.back());
    steps.pop_back();
    AxisValue path = rungs.values[step.rung];
    if (!step.teachers.empty()) {
      const AxisValue& before = paths[step.teachers.front()];
      path.label = fmt::format("{}-{}", before.label, path.label);
      path.canonical = fmt::format("{};{}", before.canonical, path.canonical);
    }
    path.teachers = std::move(step.teachers);
    // Last in, first out: the next rung comes directly after this one.
    for (std::size_t next = rungs.values.size() - 1; next > step.rung; --next) {
      steps.push_back({next, {paths.size()}});
    }
    paths.push_back(std::move(path));
  }
  rungs.values = std::move(paths);
  rungs.option = "path";
}

void make_best_path(Axis& rungs) {
  std::vector<AxisValue> edges;
  std::vector<std::vector<std::size_t>> at_rung;  // Positions in `edges`.
  for (const AxisValue& rung : rungs.values) {
    std::vector<std::size_t>& own = at_rung.emplace_back();
    if (at_rung.size() == 1) {
      own.push_back(edges.size());
      edges.push_back(rung);
      continue;
    }
    for (std::size_t above = 0; above + 1 < at_rung.size(); ++above) {
      AxisValue edge = rung;
      edge.label = fmt::format("{}.from={}", rung.label, rungs.values[above].label);
      edge.canonical = fmt::format("{};from {}", rung.canonical, rungs.values[above].canonical);
      edge.teachers = at_rung[above];
      own.push_back(edges.size());
      edges.push_back(std::move(edge));
    }
  }
  rungs.values = std::move(edges);
  rungs.option = "best-path";
  rungs.key = "bits";
}

}  // namespace bitrung::client
