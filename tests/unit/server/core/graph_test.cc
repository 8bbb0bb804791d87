#include "server/core/graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>

#include "db/base/status.h"

namespace bitrung::core {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Jobs of which each names the given positions as teacher and, if there are two, as initial
// weights.
std::vector<NewJob> graph(const std::vector<std::vector<std::uint32_t>>& parents) {
  std::vector<NewJob> jobs(parents.size());
  for (std::size_t i = 0; i < parents.size(); ++i) {
    for (std::size_t k = 0; k < parents[i].size(); ++k) {
      jobs[i].inputs.push_back(
          {k == 0 ? InputRole::kTeacher : InputRole::kInit, parents[i][k], std::nullopt});
    }
  }
  return jobs;
}

std::string refusal(const std::vector<NewJob>& jobs) {
  const absl::Status status = check_graph(jobs);
  EXPECT_FALSE(status.ok());
  return std::string(message(status));
}

TEST(Graph, LegalGraph_IsAccepted) {
  EXPECT_TRUE(check_graph(graph({{}})).ok());
  EXPECT_TRUE(check_graph(graph({{1, 2}, {}, {1, 1}})).ok());
}

TEST(Graph, NoJobs_IsRefused) {
  EXPECT_THAT(refusal({}), HasSubstr("no jobs"));
}

TEST(Graph, ParentOutOfRange_IsRefusedWithItsPosition) {
  EXPECT_THAT(refusal(graph({{}, {7}})), HasSubstr("job 1 names job 7 as teacher"));
}

TEST(Graph, SelfEdge_IsRefused) {
  EXPECT_THAT(refusal(graph({{}, {0, 1}})), HasSubstr("job 1 names itself as init"));
}

TEST(Graph, Roles_AllowSeveralTeachersButOneInitAndNothingBesideASource) {
  std::vector<NewJob> jobs = graph({{}, {}, {0, 1}});
  jobs[2].inputs.push_back({InputRole::kTeacher, 1, std::nullopt});
  jobs[2].inputs.push_back({InputRole::kTeacher, std::nullopt, Digest{}});
  EXPECT_TRUE(check_graph(jobs).ok());
  jobs[2].inputs.push_back({InputRole::kInit, std::nullopt, Digest{}});
  EXPECT_THAT(refusal(jobs), HasSubstr("job 2 has more than one input as init"));

  jobs = graph({{}, {}});
  jobs[1].inputs.push_back({InputRole::kSource, 0, std::nullopt});
  EXPECT_TRUE(check_graph(jobs).ok());
  jobs[1].inputs.push_back({InputRole::kTeacher, 0, std::nullopt});
  EXPECT_THAT(refusal(jobs), HasSubstr("job 1 has a source and other inputs"));
}

TEST(Graph, InputOfNothingOrOfTwoThings_IsRefused) {
  std::vector<NewJob> jobs = graph({{}, {}});
  jobs[1].inputs.push_back({InputRole::kTeacher, std::nullopt, std::nullopt});
  EXPECT_THAT(refusal(jobs), HasSubstr("not one of a job and an artifact"));
  jobs[1].inputs.back() = {InputRole::kTeacher, 0, Digest{}};
  EXPECT_THAT(refusal(jobs), HasSubstr("not one of a job and an artifact"));
}

// Job 3 chooses its teacher out of these positions.
std::vector<NewJob> choice_of(const std::vector<std::uint32_t>& candidates) {
  std::vector<NewJob> jobs = graph({{}, {}, {}, {}});
  for (const std::uint32_t candidate : candidates) {
    jobs[3].inputs.push_back({InputRole::kTeacher, candidate, std::nullopt, 1});
  }
  return jobs;
}

TEST(Graph, Choices_AreOfDifferentJobsSideBySide) {
  EXPECT_TRUE(check_graph(choice_of({0, 2})).ok());
  EXPECT_THAT(refusal(choice_of({0})), HasSubstr("out of 1 candidates"));
  EXPECT_THAT(refusal(choice_of({0, 2, 0})), HasSubstr("2 or more different jobs"));
  EXPECT_THAT(refusal(choice_of({0, 3})), HasSubstr("names itself"));

  std::vector<NewJob> jobs = choice_of({0, 1});
  jobs[3].inputs.push_back({InputRole::kTeacher, 2, std::nullopt});
  jobs[3].inputs.push_back({InputRole::kTeacher, 2, std::nullopt, 1});
  jobs[3].inputs.push_back({InputRole::kTeacher, 0, std::nullopt, 1});
  EXPECT_THAT(refusal(jobs), HasSubstr("do not stand side by side"));

  jobs = choice_of({0, 1});
  jobs[3].inputs.back().role = InputRole::kInit;
  EXPECT_THAT(refusal(jobs), HasSubstr("only teachers that are jobs"));

  jobs = choice_of({0, 1});
  jobs[3].inputs.push_back({InputRole::kTeacher, std::nullopt, Digest{}, 1});
  EXPECT_THAT(refusal(jobs), HasSubstr("only teachers that are jobs"));

  jobs.assign(kCandidatesPerJobMax + 2, NewJob());
  for (std::uint32_t i = 1; i < jobs.size(); ++i) {
    jobs[0].inputs.push_back({InputRole::kTeacher, i, std::nullopt, 1});
  }
  EXPECT_THAT(refusal(jobs), HasSubstr("out of 1001 candidates, the limit is 1000"));
}

TEST(Graph, OperationsThatAreNotANumber_AreRefused) {
  for (const double flops :
       {-1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    std::vector<NewJob> jobs = graph({{}});
    jobs[0].flops = flops;
    EXPECT_THAT(refusal(jobs), HasSubstr("operations"));
  }
}

TEST(Graph, Cycle_IsRefusedAndNamed) {
  // 0 <- 3 <- 2 <- 1 <- 3: the cycle is 1 -> 2 -> 3; 0 only hangs below it, 4 above.
  const std::vector<NewJob> jobs = graph({{3}, {3, 4}, {1}, {2}, {}});
  std::vector<std::uint32_t> cycle = find_cycle(jobs);
  ASSERT_EQ(cycle.size(), 3u);
  for (std::size_t i = 0; i < cycle.size(); ++i) {
    const NewJob& next = jobs[cycle[(i + 1) % cycle.size()]];
    EXPECT_TRUE(std::ranges::any_of(
        next.inputs, [&](const NewJob::Input& input) { return input.parent == cycle[i]; }));
  }
  std::ranges::sort(cycle);
  EXPECT_THAT(cycle, ElementsAre(1, 2, 3));
  EXPECT_THAT(refusal(jobs), HasSubstr("jobs form a cycle: "));
}

TEST(Graph, NoCycle_IsFoundInATree) {
  EXPECT_THAT(find_cycle(graph({{1}, {}, {0, 1}})), IsEmpty());
}

TEST(Graph, ParentOutOfRange_IsIgnoredByTheSearchForACycle) {
  EXPECT_THAT(find_cycle(graph({{9}, {0}})), IsEmpty());
}

TEST(Graph, LongestLegalChain_IsHandledWithoutRecursion) {
  std::vector<NewJob> jobs(kJobsPerExperimentMax);
  for (std::uint32_t i = 1; i < jobs.size(); ++i) {
    jobs[i].inputs.push_back({InputRole::kTeacher, i - 1, std::nullopt});
  }
  EXPECT_TRUE(check_graph(jobs).ok());
  const std::vector<double> seconds(jobs.size(), 1.0);
  EXPECT_EQ(chain_seconds(child_lists(jobs), seconds).front(), 100'000.0);

  jobs[0].inputs.push_back(
      {InputRole::kTeacher, static_cast<std::uint32_t>(jobs.size() - 1), std::nullopt});
  EXPECT_EQ(find_cycle(jobs).size(), jobs.size());
  const std::string text = refusal(jobs);
  EXPECT_THAT(text, HasSubstr("more) -> "));
  EXPECT_LT(text.size(), 300u);
}

TEST(Graph, OneJobTooMany_IsRefusedWithTheLimit) {
  EXPECT_THAT(refusal(std::vector<NewJob>(kJobsPerExperimentMax + 1)),
              HasSubstr("100001 jobs, the limit is 100000"));
}

TEST(Graph, OneChildTooMany_IsRefusedWithTheLimit) {
  std::vector<NewJob> jobs(kChildrenPerJobMax + 1);
  for (std::uint32_t i = 1; i < jobs.size(); ++i) {
    jobs[i].inputs.push_back({InputRole::kTeacher, 0, std::nullopt});
  }
  EXPECT_TRUE(check_graph(jobs).ok());
  jobs.push_back(jobs.back());
  EXPECT_THAT(refusal(jobs), HasSubstr("job 0 has more than 10000 children"));
}

TEST(Graph, OneEdgeTooMany_IsRefusedWithTheLimit) {
  // 100 jobs with 10,000 parents each.
  constexpr std::uint32_t kChildren = kEdgesPerExperimentMax / kParentsPerJobMax;
  std::vector<NewJob> jobs(kParentsPerJobMax + kChildren + 1);
  for (std::uint32_t child = 0; child < kChildren; ++child) {
    for (std::uint32_t parent = 0; parent < kParentsPerJobMax; ++parent) {
      jobs[kParentsPerJobMax + child].inputs.push_back({InputRole::kTeacher, parent, std::nullopt});
    }
  }
  EXPECT_TRUE(check_graph(jobs).ok());
  jobs.back().inputs.push_back({InputRole::kTeacher, 0, std::nullopt});
  EXPECT_THAT(refusal(jobs), HasSubstr("more than 1000000 edges"));
}

TEST(Graph, OneParentTooMany_IsRefusedWithTheLimit) {
  std::vector<NewJob> jobs(2);
  jobs[1].inputs.assign(kParentsPerJobMax + 1, {InputRole::kTeacher, 0, std::nullopt});
  EXPECT_THAT(refusal(jobs), HasSubstr("job 1 has 10001 inputs, the limit is 10000"));
}

TEST(Graph, TopologicalOrder_PutsParentsFirstAndLeavesCyclesOut) {
  EXPECT_THAT(topological_order(child_lists(graph({{2}, {0}, {}}))), ElementsAre(2, 0, 1));
  EXPECT_THAT(topological_order(child_lists(graph({{1}, {0}, {}, {1}}))), ElementsAre(2));
}

TEST(Graph, ChainSeconds_FollowTheDearestPathDown) {
  // 0 -> 1 -> 3, 0 -> 2; 3 takes both its inputs from 1.
  const std::vector<double> seconds = {1, 2, 10, 4};
  EXPECT_THAT(chain_seconds(child_lists(graph({{}, {0}, {0}, {1, 1}})), seconds),
              ElementsAre(11, 6, 10, 4));
}

}  // namespace
}  // namespace bitrung::core
