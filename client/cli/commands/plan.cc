#include <algorithm>
#include <ostream>

#include "client/cli/commands/commands.h"
#include "client/cli/render_plan.h"
#include "client/cli/session.h"
#include "client/cli/submission.h"
#include "client/experiment/options.h"
#include "client/experiment/to_proto.h"
#include "db/base/status.h"

namespace bitrung::cli {
namespace {

// The chain that takes the most training, first job first. Parents may come after children in the
// file, so depths are found by walking up with a stack; the graph has no cycle (the file was
// checked).
std::vector<std::string> longest_chain(const client::Graph& graph,
                                       const std::vector<double>& flops) {
  struct Depth {
    std::size_t length = 0;  // 0 is not known yet.
    double flops = 0;
    std::optional<std::size_t> before;
  };
  std::vector<Depth> depths(graph.jobs.size());
  std::vector<std::size_t> stack;
  for (std::size_t start = 0; start < graph.jobs.size(); ++start) {
    stack.push_back(start);
    while (!stack.empty()) {
      const std::size_t job = stack.back();
      if (depths[job].length > 0) {
        stack.pop_back();
        continue;
      }
      const std::size_t height = stack.size();
      for (const client::Input& input : graph.jobs[job].inputs) {
        for (const std::size_t parent : input.jobs) {
          if (depths[parent].length == 0) stack.push_back(parent);
        }
      }
      if (stack.size() > height) continue;
      Depth depth{.length = 1, .flops = flops[job], .before = std::nullopt};
      for (const client::Input& input : graph.jobs[job].inputs) {
        for (const std::size_t before : input.jobs) {
          const Depth& parent = depths[before];
          const bool longer = parent.length + 1 > depth.length;
          const bool heavier =
              parent.length + 1 == depth.length && parent.flops + flops[job] > depth.flops;
          if (longer || heavier) {
            depth = {
                .length = parent.length + 1, .flops = parent.flops + flops[job], .before = before};
          }
        }
      }
      depths[job] = depth;
      stack.pop_back();
    }
  }
  std::optional<std::size_t> last;
  for (std::size_t job = 0; job < depths.size(); ++job) {
    if (!last || depths[job].length > depths[*last].length ||
        (depths[job].length == depths[*last].length && depths[job].flops > depths[*last].flops)) {
      last = job;
    }
  }
  std::vector<std::string> chain;
  for (; last; last = depths[*last].before) chain.push_back(graph.jobs[*last].name);
  std::ranges::reverse(chain);
  return chain;
}

// A job by name, an outside file by path, or "best of a, b".
std::string parent_text(const client::Graph& graph, const client::Input& input) {
  if (input.jobs.empty()) return input.file.value().string();
  std::vector<std::string> names;
  for (const std::size_t job : input.jobs) names.push_back(graph.jobs[job].name);
  return names.size() == 1 ? names.front() : "best of " + join(names, ", ");
}

std::string kind_text(client::JobKind kind) {
  switch (kind) {
    case client::JobKind::kTrain:
      return "train";
    case client::JobKind::kQuantize:
      return "quantize";
    case client::JobKind::kEvaluate:
      return "evaluate";
  }
  return {};
}

Plan plan_of(const client::Graph& graph) {
  Plan plan;
  plan.experiment = graph.name;
  plan.edges = edge_count(graph);
  std::vector<double> flops;
  for (std::size_t i = 0; i < graph.jobs.size(); ++i) {
    const client::Job& job = graph.jobs[i];
    PlanJob& planned = plan.jobs.emplace_back();
    planned.name = job.name;
    planned.aliases = job.aliases;
    for (const client::Input& input : job.inputs) {
      const std::string parent = parent_text(graph, input);
      // One job may be both teacher and initial weights.
      if (std::ranges::find(planned.parents, parent) == planned.parents.end()) {
        planned.parents.push_back(parent);
      }
    }
    planned.kind = kind_text(job.kind);
    planned.model = job.model;
    planned.dataset = job.dataset;
    planned.method = job.method;
    planned.weight_bits = job.weight_bits;
    planned.activation_bits = job.activation_bits;
    planned.seed = job.seed;
    planned.epochs = job.epochs;
    planned.flops = client::training_flops(graph, i);
    flops.push_back(planned.flops);
  }
  plan.critical_path = longest_chain(graph, flops);
  return plan;
}

absl::Status ask_cache(Connection& connection, const client::Graph& graph, Plan& plan) {
  v1::PlanExperimentRequest request;
  client::to_proto(graph, request.mutable_jobs(), request.mutable_shared_specs());
  BITRUNG_ASSIGN_OR_RETURN(const v1::PlanExperimentResponse response, connection.plan(request));
  if (static_cast<std::size_t>(response.jobs_size()) != plan.jobs.size()) {
    return absl::InternalError("the server planned another number of jobs than it was asked for");
  }
  for (std::size_t i = 0; i < plan.jobs.size(); ++i) {
    const v1::PlannedJob& fate = response.jobs(static_cast<int>(i));
    plan.jobs[i].cached = fate.cached();
    plan.jobs[i].cached_from = fate.cached_from();
    plan.jobs[i].reason = fate.reason();
    if (fate.has_estimated_seconds()) plan.jobs[i].estimated_seconds = fate.estimated_seconds();
  }
  plan.cache_known = true;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ExitCode> plan_command(const Arguments& arguments, Streams& streams) {
  BITRUNG_ASSIGN_OR_RETURN(const client::Graph graph, load_graph(arguments));
  BITRUNG_ASSIGN_OR_RETURN(const ServerChoice choice, choose_server(arguments));
  Plan plan = plan_of(graph);
  BITRUNG_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::open_if_any(choice));
  if (session != nullptr) {
    BITRUNG_RETURN_IF_ERROR(ask_cache(session->connection(), graph, plan));
  }
  streams.out << render_plan(plan, arguments.output_mode(streams.out_terminal.interactive),
                             streams.out_terminal.style);
  return ExitCode::kDone;
}

absl::StatusOr<ExitCode> options_command(const Arguments&, Streams& streams) {
  streams.out << client::option_reference();
  return ExitCode::kDone;
}

}  // namespace bitrung::cli
