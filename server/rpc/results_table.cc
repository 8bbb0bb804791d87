#include "server/rpc/results_table.h"

#include <algorithm>
#include <array>
#include <set>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "db/base/check.h"
#include "server/rpc/convert.h"
#include "server/rpc/job_options.h"

namespace bitrung::rpc {
namespace {

struct MetricName {
  Metric metric;
  std::string_view name;
};
constexpr std::array kMetrics = {
    MetricName{Metric::kTop1, "top1"}, MetricName{Metric::kTop5, "top5"},
    MetricName{Metric::kNll, "nll"},   MetricName{Metric::kBrier, "brier"},
    MetricName{Metric::kEce, "ece"},   MetricName{Metric::kValidation, "validation"}};

// What two jobs share that may be compared.
using Core = std::tuple<std::string, std::string, std::string, std::uint32_t, std::uint32_t>;

Core core_of(const NamedJob& job) {
  const db::JobSpecRow& spec = job.job->spec;
  return {spec.model, spec.dataset, spec.method, spec.weight_bits, spec.activation_bits};
}

// Most bits first, then by name.
bool core_before(const Core& left, const Core& right) {
  const auto key = [](const Core& own, const Core& other) {
    return std::tie(std::get<0>(own), std::get<1>(own), std::get<2>(own), std::get<3>(other),
                    std::get<4>(other));
  };
  return key(left, right) < key(right, left);
}

// "path" and the like are of one entry; another entry's have nothing to do with them.
bool is_made_up(std::string_view option) {
  return option == "path" || option == "from" || option == "teacher";
}

struct Row {
  std::optional<Core> core;                        // Of every job; nothing if they differ.
  std::vector<std::optional<std::string>> values;  // Of the table's options.
  std::map<std::string, std::vector<const NamedJob*>> cells;  // By entry.
};

class TableMaker {
 public:
  TableMaker(const std::vector<db::JobRow>& jobs, const Evaluations& evaluations,
             const ResultsQuery& query)
      : evaluations_(evaluations), query_(query), named_(named_jobs(jobs)) {
    std::set<std::string_view> seen;
    for (const NamedJob& job : named_) {
      if (seen.insert(job.name.entry).second) entries_.push_back(job.name.entry);
    }
    for (const NamedJob& job : named_) {
      if (job.name.entry == entries_.front())
        first_entry_[{core_of(job), job.job->spec.seed}].push_back(&job);
    }
  }

  absl::Status fill(v1::GetResultsResponse& response) {
    for (const std::string& option : query_.group_by) {
      if (const auto problem = unknown_option(option, named_); problem && !named_.empty())
        return absl::InvalidArgumentError(*problem);
      if (std::ranges::find(options_, option) == options_.end()) options_.push_back(option);
    }
    find_differing();
    if (query_.group_by.empty()) {
      make_default_rows();
    } else {
      make_requested_rows();
    }
    sort_rows();

    response.set_metric(std::string(name(query_.metric)));
    response.set_grouped_on_request(!query_.group_by.empty());
    for (const std::string& entry : entries_) response.add_entries(entry);
    for (const std::string& option : options_) response.add_options(option);
    for (const std::string& option : joined_) response.add_joined_options(option);
    for (const Row& row : rows_) write(row, *response.add_rows());
    return absl::OkStatus();
  }

 private:
  // Options that tell apart the jobs of one entry at one bitwidth, for each entry and for all.
  void find_differing() {
    std::map<std::string, std::map<Core, std::vector<const NamedJob*>>> by_entry;
    for (const NamedJob& job : named_) by_entry[job.name.entry][core_of(job)].push_back(&job);
    std::vector<std::vector<const NamedJob*>> all;
    for (const auto& [entry, cores] : by_entry) {
      std::vector<std::vector<const NamedJob*>> groups;
      for (const auto& [core, jobs] : cores) groups.push_back(jobs);
      for (std::string& option : differing_options(groups)) differing_[entry].insert(option);
      all.insert(all.end(), groups.begin(), groups.end());
    }
    all_differing_ = differing_options(all);
  }

  // What the line of a job says about an option; nothing where another entry's option differs.
  std::optional<std::string> line_value(const NamedJob& job, const std::string& option) const {
    const auto own = differing_.find(job.name.entry);
    const bool varies = own != differing_.end() && own->second.contains(option);
    const std::string* value = job.option(option);
    if (value == nullptr || (is_made_up(option) && !varies)) return std::nullopt;
    return *value;
  }

  void make_default_rows() {
    options_ = all_differing_;
    std::map<std::pair<Core, std::vector<std::optional<std::string>>>, std::size_t> index;
    for (const NamedJob& job : named_) {
      std::vector<std::optional<std::string>> values;
      for (const std::string& option : options_) values.push_back(line_value(job, option));
      const auto [found, added] = index.try_emplace({core_of(job), values}, rows_.size());
      if (added) rows_.push_back({core_of(job), std::move(values), {}});
      rows_[found->second].cells[job.name.entry].push_back(&job);
    }
    spread_open_rows();
  }

  // A line without a value of some option joins the lines of its bitwidth that have one, unless
  // one of its entries has jobs there too.
  void spread_open_rows() {
    std::vector<std::size_t> order(rows_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    const auto open = [&](std::size_t i) {
      return std::ranges::count_if(rows_[i].values,
                                   [](const auto& value) { return !value.has_value(); });
    };
    std::ranges::stable_sort(order,
                             [&](std::size_t a, std::size_t b) { return open(a) > open(b); });
    std::map<Core, std::vector<std::size_t>> alike;
    for (std::size_t i = 0; i < rows_.size(); ++i) alike[*rows_[i].core].push_back(i);
    std::set<std::size_t> spent;
    for (const std::size_t from : order) {
      std::vector<std::size_t> targets;
      for (const std::size_t to : alike[*rows_[from].core]) {
        if (to != from && !spent.contains(to) && refines(rows_[to], rows_[from]))
          targets.push_back(to);
      }
      const bool free = std::ranges::none_of(targets, [&](std::size_t to) {
        return std::ranges::any_of(rows_[from].cells, [&](const auto& cell) {
          return rows_[to].cells.contains(cell.first);
        });
      });
      if (targets.empty() || !free) continue;
      for (const std::size_t to : targets) {
        for (const auto& [entry, jobs] : rows_[from].cells) rows_[to].cells[entry] = jobs;
      }
      spent.insert(from);
    }
    std::vector<Row> left;
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (!spent.contains(i)) left.push_back(std::move(rows_[i]));
    }
    rows_ = std::move(left);
  }

  static bool refines(const Row& fine, const Row& open) {
    bool more = false;
    for (std::size_t i = 0; i < open.values.size(); ++i) {
      if (open.values[i] && fine.values[i] != open.values[i]) return false;
      more |= !open.values[i] && fine.values[i];
    }
    return more;
  }

  void make_requested_rows() {
    std::map<std::vector<std::optional<std::string>>, std::size_t> index;
    for (const NamedJob& job : named_) {
      std::vector<std::optional<std::string>> values;
      for (const std::string& option : options_) {
        const std::string* value = job.option(option);
        values.push_back(value == nullptr ? std::nullopt : std::optional(*value));
      }
      const auto [found, added] = index.try_emplace(values, rows_.size());
      if (added) rows_.push_back({core_of(job), std::move(values), {}});
      Row& row = rows_[found->second];
      if (row.core != core_of(job)) row.core.reset();
      row.cells[job.name.entry].push_back(&job);
    }
    std::vector<std::vector<const NamedJob*>> cells;
    for (const Row& row : rows_) {
      for (const auto& [entry, jobs] : row.cells) cells.push_back(jobs);
    }
    joined_ = differing_options(cells, {"model", "dataset", "method", "bits"});
  }

  void sort_rows() {
    std::ranges::stable_sort(rows_, [&](const Row& left, const Row& right) {
      if (query_.group_by.empty() && left.core != right.core)
        return core_before(*left.core, *right.core);
      for (std::size_t i = 0; i < options_.size(); ++i) {
        if (left.values[i] == right.values[i]) continue;
        const auto pointer = [](const std::optional<std::string>& value) {
          return value ? &*value : nullptr;
        };
        return value_before(options_[i], pointer(left.values[i]), pointer(right.values[i]));
      }
      return false;
    });
  }

  // The first entry's job that this one is compared with.
  const NamedJob* twin_of(const NamedJob& job) const {
    if (job.name.entry == entries_.front()) return nullptr;
    const auto found = first_entry_.find({core_of(job), job.job->spec.seed});
    if (found == first_entry_.end()) return nullptr;
    const NamedJob* twin = nullptr;
    for (const NamedJob* other : found->second) {
      if (!agree(job, *other)) continue;
      if (other->name.rest == job.name.rest) return other;
      if (twin != nullptr) return nullptr;  // Several, and nothing says which.
      twin = other;
    }
    return twin;
  }

  bool agree(const NamedJob& job, const NamedJob& first) const {
    for (const NamedJob* one : {&job, &first}) {
      const auto own = differing_.find(one->name.entry);
      if (own == differing_.end()) continue;
      for (const std::string& option : own->second) {
        const std::optional<std::string> left = line_value(job, option);
        const std::optional<std::string> right = line_value(first, option);
        if (left && right && left != right) return false;
        // Alone has one network for every temperature of assisted, but not the other way round.
        if (!left && right) return false;
      }
    }
    return true;
  }

  void write(const Row& row, v1::ResultsRow& out) const {
    if (row.core) {
      const auto& [model, dataset, method, weight_bits, activation_bits] = *row.core;
      out.set_model(model);
      out.set_dataset(dataset);
      out.set_method(method);
      out.mutable_bits()->set_weights(weight_bits);
      out.mutable_bits()->set_activations(activation_bits);
    }
    for (std::size_t i = 0; i < options_.size(); ++i) {
      v1::OptionValue& option = *out.add_options();
      option.set_name(options_[i]);
      option.set_value(row.values[i].value_or(""));
    }
    for (const std::string& entry : entries_) {
      v1::ResultsCell& cell = *out.add_cells();
      cell.set_entry(entry);
      if (const auto found = row.cells.find(entry); found != row.cells.end())
        write(found->second, cell);
    }
  }

  void write(std::vector<const NamedJob*> jobs, v1::ResultsCell& cell) const;

  const Evaluations& evaluations_;
  const ResultsQuery& query_;
  const std::vector<NamedJob> named_;
  std::vector<std::string> entries_;
  std::map<std::pair<Core, std::uint64_t>, std::vector<const NamedJob*>> first_entry_;
  std::map<std::string, std::set<std::string>> differing_;  // By entry.
  std::vector<std::string> all_differing_;
  std::vector<std::string> options_;
  std::vector<std::string> joined_;
  std::vector<Row> rows_;
};

// The state that a person should look at first.
JobState worst(const std::vector<const NamedJob*>& jobs) {
  constexpr std::array kByAttention = {
      JobState::kFailed,     JobState::kSkipped, JobState::kCancelled,
      JobState::kCancelling, JobState::kRunning, JobState::kOffered,
      JobState::kReady,      JobState::kBlocked, JobState::kSucceeded};
  for (const JobState state : kByAttention) {
    if (std::ranges::any_of(
            jobs, [state](const NamedJob* job) { return job->job->state.state == state; }))
      return state;
  }
  return JobState::kSucceeded;
}

void TableMaker::write(std::vector<const NamedJob*> jobs, v1::ResultsCell& cell) const {
  std::ranges::stable_sort(jobs, {}, [](const NamedJob* job) { return job->job->spec.seed; });
  std::vector<double> values;
  std::vector<SeedPair> pairs;
  std::uint32_t succeeded = 0;
  for (const NamedJob* job : jobs) {
    const db::JobRow& row = *job->job;
    succeeded += row.state.state == JobState::kSucceeded ? 1 : 0;
    v1::SeedValue& one = *cell.add_values();
    one.set_job(row.spec.name);
    one.set_seed(row.spec.seed);
    one.set_state(to_proto(row.state.state));
    const auto value = value_of(row, query_.metric, evaluations_);
    if (!value) continue;
    one.set_value(*value);
    values.push_back(*value);
    const NamedJob* twin = twin_of(*job);
    if (twin == nullptr) continue;
    if (const auto other = value_of(*twin->job, query_.metric, evaluations_)) {
      pairs.push_back({row.spec.seed, *other, *value});
    }
  }
  cell.set_job_count(static_cast<std::uint32_t>(jobs.size()));
  cell.set_succeeded_count(succeeded);
  cell.set_state(std::string(bitrung::name(worst(jobs))));
  cell.mutable_summary();
  if (const auto summary = summarize(values)) to_proto(*summary, *cell.mutable_summary());
  if (auto test = compare_seeds(pairs)) *cell.mutable_against_first() = *std::move(test);
}

}  // namespace

std::string_view name(Metric metric) {
  const auto found = std::ranges::find(kMetrics, metric, &MetricName::metric);
  BITRUNG_CHECK(found != kMetrics.end());
  return found->name;
}

absl::StatusOr<Metric> parse_metric(std::string_view text) {
  if (text.empty()) return Metric::kTop1;
  const auto found = std::ranges::find(kMetrics, text, &MetricName::name);
  if (found != kMetrics.end()) return found->metric;
  std::string known;
  for (const MetricName& one : kMetrics)
    known += fmt::format("{}{}", known.empty() ? "" : ", ", one.name);
  return absl::InvalidArgumentError(
      fmt::format("there is no metric \"{}\"; there are {}", text.substr(0, 80), known));
}

std::optional<double> value_of(const db::JobRow& job, Metric metric,
                               const Evaluations& evaluations) {
  if (!job.state.result) return std::nullopt;
  if (metric == Metric::kTop1) return job.state.result->test_accuracy;
  if (metric == Metric::kValidation) return job.state.result->validation_accuracy;
  const auto found = evaluations.find(job.spec.id);
  if (found == evaluations.end()) return std::nullopt;
  switch (metric) {
    case Metric::kTop5:
      return found->second.top5;
    case Metric::kNll:
      return found->second.nll;
    case Metric::kBrier:
      return found->second.brier;
    case Metric::kEce:
      return found->second.ece;
    case Metric::kTop1:
    case Metric::kValidation:
      break;
  }
  return std::nullopt;
}

absl::Status fill_results_table(const std::vector<db::JobRow>& jobs, const Evaluations& evaluations,
                                const ResultsQuery& query, v1::GetResultsResponse& response) {
  return TableMaker(jobs, evaluations, query).fill(response);
}

void to_proto(const Summary& summary, v1::Summary& out) {
  out.set_count(static_cast<std::uint32_t>(summary.count));
  out.set_mean(summary.mean);
  if (summary.sd) out.set_sd(*summary.sd);
  if (summary.interval) {
    out.set_low(summary.interval->low);
    out.set_high(summary.interval->high);
  }
}

std::optional<v1::PairedTest> compare_seeds(const std::vector<SeedPair>& pairs) {
  std::vector<std::pair<double, double>> values;
  for (const SeedPair& pair : pairs) values.emplace_back(pair.first, pair.second);
  const auto test = compare_pairs(values);
  if (!test) return std::nullopt;
  v1::PairedTest out;
  to_proto(test->difference, *out.mutable_difference());
  if (test->t) out.set_t(*test->t);
  if (test->p_value) out.set_p_value(*test->p_value);
  out.set_no_test(std::string(reason(test->no_test)));
  for (const SeedPair& from : pairs) {
    v1::Pair& pair = *out.add_pairs();
    pair.set_seed(from.seed);
    pair.set_difference(from.second - from.first);
  }
  return out;
}

}  // namespace bitrung::rpc
