#include "server/core/graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

#include "db/base/check.h"

namespace bitrung::core {
namespace {

// A cycle can have as many jobs as the experiment; the first few say enough.
constexpr std::size_t kCycleJobsShown = 10;

std::vector<ChildLists::Edge> edges_of(const std::vector<NewJob>& jobs) {
  std::vector<ChildLists::Edge> edges;
  for (std::uint32_t child = 0; child < jobs.size(); ++child) {
    for (const NewJob::Input& input : jobs[child].inputs) {
      if (input.parent.has_value() && *input.parent < jobs.size()) {
        edges.push_back({*input.parent, child});
      }
    }
  }
  return edges;
}

absl::Status check_parent(const NewJob::Input& input, std::uint32_t position,
                          std::size_t job_count) {
  if (input.parent.has_value() == input.artifact.has_value()) {
    return absl::InvalidArgumentError(
        fmt::format("job {} has an input as {} that is not one of a job and an artifact", position,
                    name(input.role)));
  }
  if (!input.parent.has_value()) return absl::OkStatus();
  if (*input.parent >= job_count) {
    return absl::InvalidArgumentError(
        fmt::format("job {} names job {} as {}, the experiment has {} jobs counted from 0",
                    position, *input.parent, name(input.role), job_count));
  }
  if (*input.parent == position) {
    return absl::InvalidArgumentError(
        fmt::format("job {} names itself as {}", position, name(input.role)));
  }
  return absl::OkStatus();
}

// The candidates of a choice: at least two different jobs side by side.
absl::Status check_choice(std::span<const NewJob::Input> candidates, std::uint32_t position) {
  std::vector<std::uint32_t> parents;
  for (const NewJob::Input& candidate : candidates) {
    if (candidate.role != InputRole::kTeacher || !candidate.parent.has_value()) {
      return absl::InvalidArgumentError(fmt::format(
          "job {} chooses its {} out of several; only teachers that are jobs can be chosen",
          position, name(candidate.role)));
    }
    parents.push_back(*candidate.parent);
  }
  std::ranges::sort(parents);
  if (parents.size() < 2 || std::ranges::adjacent_find(parents) != parents.end()) {
    return absl::InvalidArgumentError(
        fmt::format("job {} chooses its teacher out of {} candidates, but they must be 2 or more "
                    "different jobs",
                    position, candidates.size()));
  }
  return absl::OkStatus();
}

absl::Status check_choices(const NewJob& job, std::uint32_t position) {
  const std::span<const NewJob::Input> inputs(job.inputs);
  std::size_t candidates = 0;
  std::vector<std::uint32_t> met;
  for (std::size_t begin = 0; begin < inputs.size();) {
    const std::uint32_t choice = inputs[begin].choice;
    std::size_t end = begin + 1;
    while (choice != 0 && end < inputs.size() && inputs[end].choice == choice) ++end;
    if (choice != 0) {
      candidates += end - begin;
      met.push_back(choice);
      if (const absl::Status status = check_choice(inputs.subspan(begin, end - begin), position);
          !status.ok()) {
        return status;
      }
    }
    begin = end;
  }
  if (candidates > kCandidatesPerJobMax) {
    return absl::ResourceExhaustedError(
        fmt::format("job {} chooses its teachers out of {} candidates, the limit is {}", position,
                    candidates, kCandidatesPerJobMax));
  }
  std::ranges::sort(met);
  if (std::ranges::adjacent_find(met) != met.end()) {
    return absl::InvalidArgumentError(fmt::format(
        "job {} has candidates of one choice that do not stand side by side", position));
  }
  return absl::OkStatus();
}

absl::Status check_inputs(const NewJob& job, std::uint32_t position, std::size_t job_count) {
  if (job.inputs.size() > kParentsPerJobMax) {
    return absl::ResourceExhaustedError(fmt::format(
        "job {} has {} inputs, the limit is {}", position, job.inputs.size(), kParentsPerJobMax));
  }
  for (const NewJob::Input& input : job.inputs) {
    if (const absl::Status status = check_parent(input, position, job_count); !status.ok()) {
      return status;
    }
  }
  for (const InputRole role : {InputRole::kInit, InputRole::kSource}) {
    const auto count = std::ranges::count(job.inputs, role, &NewJob::Input::role);
    if (count > 1) {
      return absl::InvalidArgumentError(fmt::format(
          "job {} has more than one input as {}; this role takes one", position, name(role)));
    }
    if (role == InputRole::kSource && count == 1 && job.inputs.size() > 1) {
      return absl::InvalidArgumentError(
          fmt::format("job {} has a source and other inputs; what is quantized or evaluated is not "
                      "trained",
                      position));
    }
  }
  if (const absl::Status status = check_choices(job, position); !status.ok()) return status;
  if (!std::isfinite(job.flops) || job.flops < 0) {
    return absl::InvalidArgumentError(
        fmt::format("job {} is estimated at {} operations; expected a finite number, 0 if unknown",
                    position, job.flops));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status check_graph(const std::vector<NewJob>& jobs) {
  if (jobs.empty()) {
    return absl::InvalidArgumentError("the experiment has no jobs; submit at least one");
  }
  if (jobs.size() > kJobsPerExperimentMax) {
    return absl::ResourceExhaustedError(
        fmt::format("the experiment has {} jobs, the limit is {}; split it", jobs.size(),
                    kJobsPerExperimentMax));
  }
  std::size_t edge_count = 0;
  std::vector<std::uint32_t> child_counts(jobs.size());
  for (std::uint32_t position = 0; position < jobs.size(); ++position) {
    if (const absl::Status status = check_inputs(jobs[position], position, jobs.size());
        !status.ok()) {
      return status;
    }
    const std::vector<NewJob::Input>& inputs = jobs[position].inputs;
    edge_count += static_cast<std::size_t>(std::ranges::count_if(
        inputs, [](const NewJob::Input& input) { return input.parent.has_value(); }));
    if (edge_count > kEdgesPerExperimentMax) {
      return absl::ResourceExhaustedError(
          fmt::format("the experiment has more than {} edges, which is the limit; split it",
                      kEdgesPerExperimentMax));
    }
    for (const NewJob::Input& input : inputs) {
      if (input.parent.has_value() && ++child_counts[*input.parent] > kChildrenPerJobMax) {
        return absl::ResourceExhaustedError(
            fmt::format("job {} has more than {} children, which is the limit; submit it alone and "
                        "hand its artifact to several experiments",
                        *input.parent, kChildrenPerJobMax));
      }
    }
  }
  const std::vector<std::uint32_t> cycle = find_cycle(jobs);
  if (!cycle.empty()) {
    std::string path;
    for (std::size_t i = 0; i < std::min(cycle.size(), kCycleJobsShown); ++i) {
      path += fmt::format("{} -> ", cycle[i]);
    }
    if (cycle.size() > kCycleJobsShown) {
      path += fmt::format("({} more) -> ", cycle.size() - kCycleJobsShown);
    }
    return absl::InvalidArgumentError(
        fmt::format("jobs form a cycle: {}{}; remove one of its inputs", path, cycle.front()));
  }
  return absl::OkStatus();
}

std::vector<std::uint32_t> find_cycle(const std::vector<NewJob>& jobs) {
  const std::vector<std::uint32_t> order = topological_order(child_lists(jobs));
  if (order.size() == jobs.size()) {
    return {};
  }
  std::vector<bool> ordered(jobs.size());
  for (const std::uint32_t position : order) {
    ordered[position] = true;
  }
  // Every job left out has a parent that is left out too, so walking up must come back to a job it
  // has passed.
  const auto parent_left_out = [&](std::uint32_t position) {
    for (const NewJob::Input& input : jobs[position].inputs) {
      if (input.parent.has_value() && *input.parent < jobs.size() && !ordered[*input.parent]) {
        return *input.parent;
      }
    }
    BITRUNG_CHECK(false && "a job outside the topological order has a parent outside it");
    return std::uint32_t{0};
  };
  const auto first = std::ranges::find(ordered, false);
  auto position = static_cast<std::uint32_t>(first - ordered.begin());
  std::vector<bool> passed(jobs.size());
  while (!passed[position]) {
    passed[position] = true;
    position = parent_left_out(position);
  }
  std::vector<std::uint32_t> cycle;
  const std::uint32_t end = position;
  do {
    cycle.push_back(position);
    position = parent_left_out(position);
  } while (position != end);
  std::ranges::reverse(cycle);  // It was walked from child to parent.
  return cycle;
}

ChildLists::ChildLists(std::size_t job_count, std::span<const Edge> edges)
    : begin_(job_count + 1), children_(edges.size()) {
  for (const Edge& edge : edges) {
    BITRUNG_CHECK(edge.parent < job_count && edge.child < job_count);
    ++begin_[edge.parent + 1];
  }
  for (std::size_t job = 0; job < job_count; ++job) {
    begin_[job + 1] += begin_[job];
  }
  std::vector<std::uint32_t> next(begin_.begin(), begin_.end() - 1);
  for (const Edge& edge : edges) {
    children_[next[edge.parent]++] = edge.child;
  }
}

ChildLists child_lists(const std::vector<NewJob>& jobs) {
  return ChildLists(jobs.size(), edges_of(jobs));
}

std::vector<std::uint32_t> topological_order(const ChildLists& children) {
  const auto job_count = static_cast<std::uint32_t>(children.job_count());
  std::vector<std::uint32_t> parents_left(job_count);
  for (std::uint32_t job = 0; job < job_count; ++job) {
    for (const std::uint32_t child : children.of(job)) {
      ++parents_left[child];
    }
  }
  std::vector<std::uint32_t> order;
  order.reserve(job_count);
  for (std::uint32_t job = 0; job < job_count; ++job) {
    if (parents_left[job] == 0) {
      order.push_back(job);
    }
  }
  for (std::size_t done = 0; done < order.size(); ++done) {
    for (const std::uint32_t child : children.of(order[done])) {
      if (--parents_left[child] == 0) {
        order.push_back(child);
      }
    }
  }
  return order;
}

std::vector<double> chain_seconds(const ChildLists& children, std::span<const double> seconds) {
  BITRUNG_CHECK(seconds.size() == children.job_count());
  std::vector<double> chain(seconds.begin(), seconds.end());
  const std::vector<std::uint32_t> order = topological_order(children);
  BITRUNG_CHECK(order.size() == chain.size());
  for (auto job = order.rbegin(); job != order.rend(); ++job) {
    double below = 0;
    for (const std::uint32_t child : children.of(*job)) {
      below = std::max(below, chain[child]);
    }
    chain[*job] += below;
  }
  return chain;
}

}  // namespace bitrung::core
