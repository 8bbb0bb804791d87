#include "client/cli/render_plan.h"

#include <fmt/format.h>

#include "client/cli/json_shapes.h"

namespace bitrung::cli {
namespace {

constexpr std::size_t kReasonWidthMax = 90;
constexpr std::size_t kParentsWidthMax = 60;

std::string bits_text(const PlanJob& job) {
  return job.weight_bits == job.activation_bits
             ? fmt::format("{}", job.weight_bits)
             : fmt::format("w{}a{}", job.weight_bits, job.activation_bits);
}

std::string plan_text(const Plan& plan, const Style& style) {
  std::size_t merged = 0;
  std::size_t cached = 0;
  std::size_t unknown_times = 0;
  double flops = 0;
  double seconds = 0;
  for (const PlanJob& job : plan.jobs) {
    merged += job.aliases.size();
    if (job.cached) {
      ++cached;
      continue;
    }
    flops += job.flops;
    if (job.estimated_seconds) {
      seconds += *job.estimated_seconds;
    } else {
      ++unknown_times;
    }
  }
  std::string out =
      fmt::format("{}: {}, {}, critical path {}\n", style.paint(Tone::kStrong, plan.experiment),
                  format_plural(plan.jobs.size(), "job"), format_plural(plan.edges, "edge"),
                  plan.critical_path.size());
  if (merged > 0) {
    out += fmt::format("{} merged: the same work under a further name is done once\n",
                       format_plural(merged, "name"));
  }
  out += plan.cache_known ? fmt::format("{} of {} cached\n", cached, plan.jobs.size())
                          : "cache unknown: no server and no state directory here\n";
  out += fmt::format("cost of the rest: about {}{}\n", format_flops(flops),
                     unknown_times == 0 && plan.jobs.size() > cached
                         ? fmt::format(", {} of training by earlier jobs", format_duration(seconds))
                         : std::string());
  out += '\n';
  Table table({{"job", Align::kLeft},
               {"bits", Align::kRight},
               {"method", Align::kLeft},
               {"model", Align::kLeft},
               {"data set", Align::kLeft},
               {"epochs", Align::kRight},
               {"cost", Align::kRight},
               {"from", Align::kLeft},
               {plan.cache_known ? "cache" : "", Align::kLeft}});
  for (const PlanJob& job : plan.jobs) {
    std::string cache;
    if (plan.cache_known) {
      cache = job.cached ? "from " + job.cached_from
                         : fit(printable(job.reason.empty() ? "nothing alike yet" : job.reason),
                               kReasonWidthMax, style);
    }
    table.add_row({job.name, bits_text(job), job.method, job.model, job.dataset,
                   job.epochs > 0 ? fmt::format("{}", job.epochs) : std::string(style.none()),
                   job.cached              ? std::string(style.none())
                   : job.estimated_seconds ? format_duration(*job.estimated_seconds)
                                           : format_flops(job.flops),
                   job.parents.empty()
                       ? std::string(style.none())
                       : fit(printable(join(job.parents, ", ")), kParentsWidthMax, style),
                   Cell(cache, job.cached ? Tone::kGood : Tone::kFaint)});
    for (const std::string& alias : job.aliases) {
      table.add_row({Cell(fmt::format("  also {}", alias), Tone::kFaint)});
    }
  }
  out += table.text(style);
  if (plan.critical_path.size() > 1) {
    out += fmt::format("\nlongest chain: {}\n",
                       join(plan.critical_path, fmt::format(" {} ", style.arrow())));
  }
  return out;
}

std::string plan_tsv(const Plan& plan) {
  std::string out = tsv_line({"job", "aliases", "parents", "model", "dataset", "method",
                              "weight_bits", "activation_bits", "seed", "epochs", "flops", "cached",
                              "cached_from", "reason", "estimated_seconds", "kind"});
  for (const PlanJob& job : plan.jobs) {
    out += tsv_line(
        {job.name, join(job.aliases, ","), join(job.parents, ","), job.model, job.dataset,
         job.method, fmt::format("{}", job.weight_bits), fmt::format("{}", job.activation_bits),
         fmt::format("{}", job.seed), fmt::format("{}", job.epochs),
         fmt::format("{:.4g}", job.flops), plan.cache_known ? (job.cached ? "true" : "false") : "",
         job.cached_from, job.reason,
         job.estimated_seconds ? fmt::format("{}", *job.estimated_seconds) : std::string(),
         job.kind});
  }
  return out;
}

std::string plan_json(const Plan& plan) {
  Json json;
  json["experiment"] = plan.experiment;
  json["job_count"] = plan.jobs.size();
  json["edge_count"] = plan.edges;
  json["critical_path"] = plan.critical_path;
  json["cache_known"] = plan.cache_known;
  json["jobs"] = Json::array();
  for (const PlanJob& job : plan.jobs) {
    Json entry;
    entry["name"] = job.name;
    entry["aliases"] = job.aliases;
    entry["parents"] = job.parents;
    entry["kind"] = job.kind;
    entry["model"] = job.model;
    entry["dataset"] = job.dataset;
    entry["method"] = job.method;
    entry["bits"] = {{"weights", job.weight_bits}, {"activations", job.activation_bits}};
    entry["seed"] = job.seed;
    entry["epochs"] = job.epochs;
    entry["flops"] = job.flops;
    entry["cached"] = plan.cache_known ? Json(job.cached) : Json(nullptr);
    entry["cached_from"] = job.cached_from.empty() ? Json(nullptr) : Json(job.cached_from);
    entry["reason"] = job.reason.empty() ? Json(nullptr) : Json(job.reason);
    entry["estimated_seconds"] =
        job.estimated_seconds ? Json(*job.estimated_seconds) : Json(nullptr);
    json["jobs"].push_back(std::move(entry));
  }
  return json_text(json);
}

}  // namespace

std::string render_plan(const Plan& plan, OutputMode mode, const Style& style) {
  switch (mode) {
    case OutputMode::kText:
      return plan_text(plan, style);
    case OutputMode::kTsv:
      return plan_tsv(plan);
    case OutputMode::kJson:
      return plan_json(plan);
  }
  return {};
}

}  // namespace bitrung::cli
