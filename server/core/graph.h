// The shape of an experiment: which job is whose parent. Checks of what a client sent, and the two
// orders that the rest of the core needs (parents first, longest chain first). Pure functions,
// iterative, O(jobs + edges): a client chooses the graph, so neither its depth nor its width may
// cost more than its size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/core/core.h"

namespace bitrung::core {

inline constexpr std::size_t kJobsPerExperimentMax = 100'000;
inline constexpr std::size_t kEdgesPerExperimentMax = 1'000'000;
inline constexpr std::size_t kParentsPerJobMax = 10'000;
inline constexpr std::size_t kChildrenPerJobMax = 10'000;
// Each candidate that ends costs a look at all of its choice.
inline constexpr std::size_t kCandidatesPerJobMax = 1'000;

// OK if Core accepts the jobs as a Submit: parents that exist, at most one init and one source, no
// teacher or init beside a source, choices of different jobs as teachers. Otherwise what is wrong
// with which job (by its position) and what the limit is: RESOURCE_EXHAUSTED for a size,
// INVALID_ARGUMENT for anything else.
absl::Status check_graph(const std::vector<NewJob>& jobs);

// Positions along one cycle, each the parent of the next and the last the parent of the first;
// empty if there is none. Parents out of range are ignored.
std::vector<std::uint32_t> find_cycle(const std::vector<NewJob>& jobs);

// Children of every job, by position.
class ChildLists {
 public:
  struct Edge {
    std::uint32_t parent = 0;
    std::uint32_t child = 0;
  };

  ChildLists() = default;
  ChildLists(std::size_t job_count, std::span<const Edge> edges);

  std::size_t job_count() const { return begin_.empty() ? 0 : begin_.size() - 1; }
  // In the order of the edges given; a child that takes two inputs from the job stands there twice.
  std::span<const std::uint32_t> of(std::uint32_t job) const {
    return {children_.data() + begin_[job], children_.data() + begin_[job + 1]};
  }

 private:
  std::vector<std::uint32_t> begin_;  // job_count + 1 positions in children_.
  std::vector<std::uint32_t> children_;
};

// Edges of the submit; parents out of range are left out.
ChildLists child_lists(const std::vector<NewJob>& jobs);

// Parents before children. Jobs on or behind a cycle are missing.
std::vector<std::uint32_t> topological_order(const ChildLists& children);

// For each job the largest sum of seconds from it down to a job without children, itself included.
std::vector<double> chain_seconds(const ChildLists& children, std::span<const double> seconds);

}  // namespace bitrung::core
