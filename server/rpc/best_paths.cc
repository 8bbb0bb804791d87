#include "server/rpc/best_paths.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "server/rpc/job_options.h"
#include "server/rpc/results_table.h"
#include "server/rpc/statistics.h"

namespace bitrung::rpc {
namespace {

using Seed = std::uint64_t;

// A bitwidth; most bits first.
struct Rung {
  std::uint32_t weights = 0;
  std::uint32_t activations = 0;

  bool operator==(const Rung&) const = default;
  bool operator<(const Rung& other) const {
    return std::tie(other.weights, other.activations) < std::tie(weights, activations);
  }
};

Rung rung_of(const NamedJob& job) {
  return {job.job->spec.weight_bits, job.job->spec.activation_bits};
}

std::optional<double> test_accuracy(const NamedJob& job) {
  if (!job.job->state.result) return std::nullopt;
  return job.job->state.result->test_accuracy;
}

std::optional<double> validation_accuracy(const NamedJob& job) {
  if (!job.job->state.result) return std::nullopt;
  return job.job->state.result->validation_accuracy;
}

// Jobs by seed: all of one path, or the chosen ones.
using BySeed = std::map<Seed, const NamedJob*>;

void write_accuracy(const BySeed& jobs, v1::Summary& out) {
  std::vector<double> values;
  for (const auto& [seed, job] : jobs) {
    if (const auto value = test_accuracy(*job)) values.push_back(*value);
  }
  if (const auto summary = summarize(values)) to_proto(*summary, out);
}

void write_chain(const BySeed& best, const BySeed& chain, v1::BestPath& out) {
  write_accuracy(chain, *out.mutable_chain_test_accuracy());
  std::vector<SeedPair> pairs;
  for (const auto& [seed, job] : best) {
    const auto other = chain.find(seed);
    if (other == chain.end()) continue;
    const auto from = test_accuracy(*other->second);
    const auto to = test_accuracy(*job);
    if (!from || !to) continue;
    pairs.push_back({seed, *from, *to});
  }
  if (auto test = compare_seeds(pairs)) *out.mutable_regret() = *std::move(test);
}

void write_rung(const Rung& rung, v1::Bits& out) {
  out.set_weights(rung.weights);
  out.set_activations(rung.activations);
}

std::size_t length_of(std::string_view path) {
  return static_cast<std::size_t>(std::ranges::count(path, '-')) + 1;
}

using Accuracy = std::optional<double> (*)(const NamedJob&);

Accuracy choose_accuracy(const std::vector<const NamedJob*>& jobs, v1::PathTable& table) {
  const bool held_out = std::ranges::all_of(
      jobs, [](const NamedJob* job) { return !test_accuracy(*job) || validation_accuracy(*job); });
  table.set_chosen_by(held_out ? "validation_accuracy" : "test_accuracy");
  return held_out ? validation_accuracy : test_accuracy;
}

// ---- paths: ----

struct Path {
  std::string text;
  BySeed jobs;
};

std::optional<double> mean_of(const Path& path, Accuracy accuracy) {
  std::vector<double> values;
  for (const auto& [seed, job] : path.jobs) {
    if (const auto value = accuracy(*job)) values.push_back(*value);
  }
  const auto summary = summarize(values);
  return summary ? std::optional(summary->mean) : std::nullopt;
}

void fill_paths(const std::vector<const NamedJob*>& jobs, v1::PathTable& table) {
  std::map<Rung, std::vector<Path>> rungs;  // Paths in the order of the jobs.
  for (const NamedJob* job : jobs) {
    if (length_of(job->name.path) < 2) continue;  // The first teacher has no path to choose.
    std::vector<Path>& paths = rungs[rung_of(*job)];
    auto found = std::ranges::find(paths, job->name.path, &Path::text);
    if (found == paths.end()) found = paths.insert(paths.end(), Path{job->name.path, {}});
    found->jobs.emplace(job->job->spec.seed, job);
  }
  const Accuracy accuracy = choose_accuracy(jobs, table);
  for (const auto& [rung, paths] : rungs) {
    v1::BestPath& out = *table.add_paths();
    write_rung(rung, *out.mutable_bits());
    out.set_candidate_count(static_cast<std::uint32_t>(paths.size()));
    const Path* best = nullptr;
    const Path* chain = nullptr;
    std::optional<double> most;
    std::uint32_t succeeded = 0;
    for (const Path& path : paths) {
      if (chain == nullptr || length_of(path.text) > length_of(chain->text)) chain = &path;
      const auto mean = mean_of(path, accuracy);
      if (!mean) continue;
      ++succeeded;
      if (most && *mean <= *most) continue;
      most = mean;
      best = &path;
    }
    out.set_succeeded_count(succeeded);
    out.set_chain(chain->text);
    out.mutable_test_accuracy();
    if (best == nullptr) continue;
    out.set_path(best->text);
    write_accuracy(best->jobs, *out.mutable_test_accuracy());
    write_chain(best->jobs, chain->jobs, out);
  }
}

// ---- search: best-path ----

class Search {
 public:
  Search(const std::vector<const NamedJob*>& jobs, Accuracy accuracy) : accuracy_(accuracy) {
    for (const NamedJob* job : jobs) {
      label_[rung_of(*job)] = *job->option("bits");
      candidates_[rung_of(*job)][job->job->spec.seed].push_back(job);
    }
  }

  void write(const std::map<Rung, BySeed>& chain, const std::string& chain_entry,
             v1::PathTable& table) const {
    for (const auto& [rung, by_seed] : candidates_) {
      if (std::ranges::all_of(by_seed, [](const auto& one) {
            return std::ranges::all_of(one.second,
                                       [](const NamedJob* job) { return job->name.from.empty(); });
          })) {
        continue;  // The first teacher.
      }
      v1::BestPath& out = *table.add_paths();
      write_rung(rung, *out.mutable_bits());
      std::set<std::string> froms;
      std::set<std::string> succeeded;
      BySeed best;
      std::vector<std::string> paths;
      for (const auto& [seed, jobs] : by_seed) {
        for (const NamedJob* job : jobs) {
          froms.insert(job->name.from);
          if (test_accuracy(*job)) succeeded.insert(job->name.from);
        }
        const NamedJob* chosen = best_of(jobs);
        if (chosen == nullptr) continue;
        best.emplace(seed, chosen);
        std::string path = path_to(*chosen);
        if (std::ranges::find(paths, path) == paths.end()) paths.push_back(std::move(path));
      }
      out.set_candidate_count(static_cast<std::uint32_t>(froms.size()));
      out.set_succeeded_count(static_cast<std::uint32_t>(succeeded.size()));
      for (const std::string& path : paths)
        out.set_path(out.path().empty() ? path : out.path() + "," + path);
      write_accuracy(best, *out.mutable_test_accuracy());
      if (const auto found = chain.find(rung); found != chain.end()) {
        out.set_chain(chain_entry);
        write_chain(best, found->second, out);
      }
    }
  }

 private:
  // Of equals the earlier.
  const NamedJob* best_of(const std::vector<const NamedJob*>& jobs) const {
    const NamedJob* best = nullptr;
    std::optional<double> most;
    for (const NamedJob* job : jobs) {
      const auto value = accuracy_(*job);
      if (!value || (most && *value <= *most)) continue;
      most = value;
      best = job;
    }
    return best;
  }

  // The rungs above it as the search chose them: the best of each for this seed.
  std::string path_to(const NamedJob& job) const {
    std::string path = *job.option("bits");
    const NamedJob* at = &job;
    // A rung lies above the one before it, so there are no more steps than rungs.
    for (std::size_t step = 0; step < candidates_.size() && !at->name.from.empty(); ++step) {
      const auto above =
          std::ranges::find(label_, at->name.from, [](const auto& one) { return one.second; });
      if (above == label_.end()) break;
      path = fmt::format("{}-{}", above->second, path);
      const auto& seeds = candidates_.at(above->first);
      const auto jobs = seeds.find(job.job->spec.seed);
      const NamedJob* next = jobs == seeds.end() ? nullptr : best_of(jobs->second);
      if (next == nullptr) break;
      at = next;
    }
    return path;
  }

  Accuracy accuracy_;
  std::map<Rung, std::string> label_;
  std::map<Rung, std::map<Seed, std::vector<const NamedJob*>>> candidates_;
};

bool has_path(const NamedJob& job) {
  return !job.name.path.empty() || !job.name.from.empty();
}

// The first entry in which a job is taught by another job of the entry, rung by rung.
std::optional<std::string> find_ladder(const std::vector<NamedJob>& jobs) {
  std::map<JobId, std::set<std::string_view>> entries;
  for (const NamedJob& job : jobs) {
    if (!has_path(job)) entries[job.job->spec.id].insert(job.name.entry);
  }
  for (const NamedJob& job : jobs) {
    if (has_path(job)) continue;
    for (const db::InputRow& input : job.job->spec.inputs) {
      if (input.role != InputRole::kTeacher || !input.parent) continue;
      const auto found = entries.find(*input.parent);
      if (found != entries.end() && found->second.contains(job.name.entry)) return job.name.entry;
    }
  }
  return std::nullopt;
}

}  // namespace

void fill_best_paths(const std::vector<db::JobRow>& rows, v1::GetResultsResponse& response) {
  const std::vector<NamedJob> jobs = named_jobs(rows);
  if (std::ranges::none_of(jobs, has_path)) return;
  std::vector<std::string> entries;
  std::map<std::string, std::vector<const NamedJob*>> by_entry;
  for (const NamedJob& job : jobs) {
    if (has_path(job) && std::ranges::find(entries, job.name.entry) == entries.end())
      entries.push_back(job.name.entry);
    by_entry[job.name.entry].push_back(&job);
  }
  std::map<Rung, BySeed> chain;
  const std::string ladder = find_ladder(jobs).value_or("");
  for (const NamedJob& job : jobs) {
    if (job.name.entry == ladder && !has_path(job))
      chain[rung_of(job)].emplace(job.job->spec.seed, &job);
  }
  for (const std::string& entry : entries) {
    const std::vector<const NamedJob*>& own = by_entry[entry];
    v1::PathTable& table = *response.add_path_tables();
    table.set_entry(entry);
    if (std::ranges::any_of(own, [](const NamedJob* job) { return !job->name.path.empty(); })) {
      fill_paths(own, table);
    } else {
      Search(own, choose_accuracy(own, table)).write(chain, ladder, table);
    }
  }
}

}  // namespace bitrung::rpc
