#include "server/rpc/comparison.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "db/base/status.h"
#include "db/nearest_names.h"
#include "server/rpc/results_table.h"
#include "server/rpc/statistics.h"

namespace bitrung::rpc {
namespace {

using nlohmann::json;

std::optional<double> number_at(const json& report, const char* pointer) {
  const json::json_pointer path(pointer);
  if (!report.contains(path)) return std::nullopt;
  const json& value = report.at(path);
  return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
}

// A number of a job, from its result or its report.
struct Measure {
  std::string_view name;
  const char* pointer;  // Into the report; null for those below.
  std::optional<double> (*of_result)(const db::ResultRow& result);
};
constexpr std::array kMeasures = {
    Measure{"test_accuracy", nullptr,
            [](const db::ResultRow& result) { return result.test_accuracy; }},
    Measure{"validation_accuracy", nullptr,
            [](const db::ResultRow& result) { return result.validation_accuracy; }},
    Measure{"test_loss", nullptr, [](const db::ResultRow& result) { return result.test_loss; }},
    Measure{"top5", "/evaluation/top5", nullptr},
    Measure{"nll", "/evaluation/nll", nullptr},
    Measure{"brier", "/evaluation/brier", nullptr},
    Measure{"ece", "/evaluation/ece", nullptr},
    Measure{"parameters", "/network/parameters", nullptr},
    Measure{"macs", "/network/macs", nullptr},
    Measure{"bit_operations", "/network/bit_operations", nullptr},
    Measure{"bytes_packed", "/network/bytes_packed", nullptr},
    Measure{"duration_seconds", nullptr,
            [](const db::ResultRow& result) { return std::optional(result.duration_seconds); }},
};

// The jobs of one key on one side, by seed.
using BySeed = std::map<std::uint64_t, const NamedJob*>;

struct Group {
  std::string label;
  BySeed a;
  BySeed b;
};

class Comparison {
 public:
  Comparison(const ComparedJobs& a, const ComparedJobs& b, const Reports& reports)
      : a_(a), b_(b), reports_(reports) {}

  absl::Status fill(v1::CompareResponse& response) {
    BITRUNG_RETURN_IF_ERROR(make_groups());
    write(a_, *response.mutable_a());
    write(b_, *response.mutable_b());
    write_options(response);
    for (const Group& group : groups_) write(group, *response.add_groups());
    return absl::OkStatus();
  }

 private:
  absl::Status make_groups() {
    if (a_.jobs.size() == 1 && b_.jobs.size() == 1) {
      // Whatever their seeds are: a person named these two. One number stands for both seeds.
      const std::uint64_t seed = a_.jobs.front().job->spec.seed;
      groups_.push_back({"", {{seed, &a_.jobs.front()}}, {{seed, &b_.jobs.front()}}});
      return absl::OkStatus();
    }
    const auto by_name = [](const ComparedJobs& side, std::size_t i) { return side.keys[i]; };
    const auto by_bits = [](const ComparedJobs& side, std::size_t i) {
      return fmt::format("bits={}", *side.jobs[i].option("bits"));
    };
    if (pair_up(by_name) || pair_up(by_bits)) return absl::OkStatus();
    return absl::FailedPreconditionError(
        fmt::format("no job of {} has a counterpart of the same seed in {}: they agree neither in "
                    "what follows the entry's name nor in bits; name two jobs",
                    a_.label, b_.label));
  }

  // False, and no groups, unless some pair is found and no key has two jobs of one seed.
  template <typename KeyOf>
  bool pair_up(KeyOf key_of) {
    groups_.clear();
    const auto group_at = [&](const std::string& key) -> Group& {
      auto found = std::ranges::find(groups_, key, &Group::label);
      if (found == groups_.end()) found = groups_.insert(groups_.end(), Group{key, {}, {}});
      return *found;
    };
    bool unique = true;
    for (std::size_t i = 0; i < a_.jobs.size(); ++i) {
      const NamedJob& job = a_.jobs[i];
      unique &= group_at(key_of(a_, i)).a.emplace(job.job->spec.seed, &job).second;
    }
    for (std::size_t i = 0; i < b_.jobs.size(); ++i) {
      const NamedJob& job = b_.jobs[i];
      unique &= group_at(key_of(b_, i)).b.emplace(job.job->spec.seed, &job).second;
    }
    std::erase_if(groups_, [](const Group& group) { return group.a.empty() || group.b.empty(); });
    const bool paired = std::ranges::any_of(groups_, [](const Group& group) {
      return std::ranges::any_of(group.a,
                                 [&](const auto& one) { return group.b.contains(one.first); });
    });
    if (unique && paired) return true;
    groups_.clear();
    return false;
  }

  static void write(const ComparedJobs& side, v1::ComparedJobs& out) {
    out.set_label(side.label);
    for (const NamedJob& job : side.jobs) out.add_jobs(job.job->spec.name);
  }

  void write_options(v1::CompareResponse& response) const {
    std::map<std::string, std::pair<std::vector<std::string>, std::vector<std::string>>> values;
    const auto collect = [&](const ComparedJobs& side, auto member) {
      std::map<std::string, std::set<std::string>> all;
      for (const NamedJob& job : side.jobs) {
        for (const auto& [name, value] : job.options) all[name].insert(value);
      }
      for (const auto& [name, set] : all) {
        std::vector<std::string>& list = values[name].*member;
        list.assign(set.begin(), set.end());
        const std::string& option = name;  // clang 14 captures no structured binding.
        std::ranges::sort(list, [&option](const std::string& left, const std::string& right) {
          return value_before(option, &left, &right);
        });
      }
    };
    using Values = std::pair<std::vector<std::string>, std::vector<std::string>>;
    collect(a_, &Values::first);
    collect(b_, &Values::second);
    for (const auto& [name, both] : values) {
      if (both.first == both.second) continue;
      // In short what other names say in full.
      if ((name == "bits" || name == "method") && values.contains(name + ".weights")) continue;
      v1::OptionDifference& out = *response.add_options();
      out.set_name(name);
      for (const std::string& value : both.first) out.add_a(value);
      for (const std::string& value : both.second) out.add_b(value);
    }
  }

  const json* report_of(const NamedJob& job) const {
    const auto found = reports_.find(job.job->spec.id);
    return found == reports_.end() ? nullptr : &found->second;
  }

  std::optional<double> measure(const NamedJob& job, const Measure& what) const {
    if (what.pointer != nullptr) {
      const json* report = report_of(job);
      return report == nullptr ? std::nullopt : number_at(*report, what.pointer);
    }
    const auto& result = job.job->state.result;
    return result ? what.of_result(*result) : std::nullopt;
  }

  void write(const Group& group, v1::ComparedGroup& out) const {
    out.set_label(group.label);
    for (const Measure& what : kMeasures) {
      std::vector<double> of_a;
      std::vector<double> of_b;
      std::vector<SeedPair> pairs;
      for (const auto& [seed, job] : group.a) {
        const auto value = measure(*job, what);
        if (!value) continue;
        of_a.push_back(*value);
        const auto other = group.b.find(seed);
        const auto twin = other == group.b.end() ? std::nullopt : measure(*other->second, what);
        if (!twin) continue;
        pairs.push_back({seed, *value, *twin});
      }
      for (const auto& [seed, job] : group.b) {
        if (const auto value = measure(*job, what)) of_b.push_back(*value);
      }
      const auto summary_a = summarize(of_a);
      const auto summary_b = summarize(of_b);
      if (!summary_a && !summary_b) continue;
      v1::NumberDifference& number = *out.add_numbers();
      number.set_name(std::string(what.name));
      if (summary_a) to_proto(*summary_a, *number.mutable_a());
      if (summary_b) to_proto(*summary_b, *number.mutable_b());
      if (auto test = compare_seeds(pairs)) *number.mutable_difference() = *std::move(test);
    }
    write_classes(group, out);
    write_layers(group, out);
  }

  // Mean over the jobs of a side that have a report.
  std::vector<double> class_accuracies(const BySeed& jobs) const {
    std::vector<double> sums;
    double count = 0;
    for (const auto& [seed, job] : jobs) {
      const json* report = report_of(*job);
      const json::json_pointer path("/evaluation/per_class");
      if (report == nullptr || !report->contains(path)) continue;
      const json& classes = report->at(path);
      const auto is_number = [](const json& value) { return value.is_number(); };
      if (!classes.is_array() || !std::ranges::all_of(classes, is_number)) continue;
      if (sums.empty()) sums.resize(classes.size());
      if (sums.size() != classes.size()) return {};
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += classes[i].get<double>();
      ++count;
    }
    for (double& sum : sums) sum /= count;
    return sums;
  }

  void write_classes(const Group& group, v1::ComparedGroup& out) const {
    const std::vector<double> of_a = class_accuracies(group.a);
    const std::vector<double> of_b = class_accuracies(group.b);
    if (of_a.size() != of_b.size()) return;
    for (std::size_t i = 0; i < of_a.size(); ++i) {
      v1::ClassDifference& one = *out.add_classes();
      one.set_class_index(static_cast<std::uint32_t>(i));
      one.set_a(of_a[i]);
      one.set_b(of_b[i]);
    }
  }

  struct LayerSide {
    std::optional<double> bits;
    std::optional<double> levels;
    double sqnr_sum = 0;
    double sqnr_count = 0;

    bool operator==(const LayerSide&) const = default;
  };

  std::map<std::string, LayerSide> layer_sides(const BySeed& jobs, const char* part,
                                               std::vector<std::string>& order) const {
    std::map<std::string, LayerSide> sides;
    for (const auto& [seed, job] : jobs) {
      const json* report = report_of(*job);
      if (report == nullptr || !report->contains("layers") || !report->at("layers").is_array())
        continue;
      for (const json& layer : report->at("layers")) {
        if (!layer.is_object() || !layer.contains(part) || !layer.at(part).is_object()) continue;
        const std::string name = layer.value("name", std::string());
        if (std::ranges::find(order, name) == order.end()) order.push_back(name);
        LayerSide& side = sides[name];
        side.bits = number_at(layer, fmt::format("/{}/bits", part).c_str());
        const auto levels = number_at(layer, fmt::format("/{}/levels", part).c_str());
        if (levels) side.levels = std::max(side.levels.value_or(0), *levels);
        if (const auto sqnr = number_at(layer, fmt::format("/{}/sqnr_db", part).c_str())) {
          side.sqnr_sum += *sqnr;
          side.sqnr_count += 1;
        }
      }
    }
    return sides;
  }

  static void write(const LayerSide& side, v1::LayerSide& out) {
    if (side.bits) out.set_bits(static_cast<std::uint32_t>(*side.bits));
    if (side.levels) out.set_levels(static_cast<std::uint64_t>(*side.levels));
    if (side.sqnr_count > 0) out.set_sqnr_db(side.sqnr_sum / side.sqnr_count);
  }

  void write_layers(const Group& group, v1::ComparedGroup& out) const {
    for (const char* part : {"weights", "activations"}) {
      std::vector<std::string> order;
      const auto of_a = layer_sides(group.a, part, order);
      const auto of_b = layer_sides(group.b, part, order);
      if (of_a.empty() || of_b.empty()) continue;
      for (const std::string& name : order) {
        const auto a = of_a.find(name);
        const auto b = of_b.find(name);
        if (a != of_a.end() && b != of_b.end() && a->second == b->second) continue;
        v1::LayerDifference& layer = *out.add_layers();
        layer.set_layer(name);
        layer.set_part(part);
        if (a != of_a.end()) write(a->second, *layer.mutable_a());
        if (b != of_b.end()) write(b->second, *layer.mutable_b());
      }
    }
  }

  const ComparedJobs& a_;
  const ComparedJobs& b_;
  const Reports& reports_;
  std::vector<Group> groups_;
};

}  // namespace

absl::StatusOr<ComparedJobs> select_jobs(const std::vector<db::JobRow>& rows,
                                         std::string_view experiment, std::string_view reference) {
  ComparedJobs side;
  side.label =
      reference.empty() ? std::string(experiment) : fmt::format("{}/{}", experiment, reference);
  const std::vector<NamedJob> all = named_jobs(rows);
  const auto add = [&](const NamedJob& job, std::string key) {
    side.jobs.push_back(job);
    side.keys.push_back(std::move(key));
  };
  const auto full_name = [](const NamedJob& job) {
    return job.name.rest.empty() ? job.name.entry
                                 : fmt::format("{}.{}", job.name.entry, job.name.rest);
  };
  std::set<std::string> known;
  for (const NamedJob& job : all) {
    const std::string full = full_name(job);
    if (full == reference) {
      side.jobs.clear();
      side.keys.clear();
      add(job, "");
      return side;
    }
    known.insert({full, job.name.entry, job.name.seedless});
    const std::string& name = job.name.seedless;
    if (reference.empty()) {
      // Its aliases are other names of the same numbers.
      if (full == job.job->spec.name) add(job, name);
    } else if (name == reference) {
      add(job, "");
    } else if (name.starts_with(reference) && name[reference.size()] == '.') {
      add(job, name.substr(reference.size() + 1));
    }
  }
  if (!side.jobs.empty()) return side;
  if (reference.empty())
    return absl::NotFoundError(fmt::format("experiment {} has no jobs", experiment));
  return absl::NotFoundError(fmt::format(
      "there is no job, entry or set of seeds \"{}\" in experiment {}; {}`bitrung status {}` lists "
      "them",
      reference.substr(0, 128), experiment,
      db::did_you_mean(reference, {known.begin(), known.end()}), experiment));
}

absl::Status fill_comparison(const ComparedJobs& a, const ComparedJobs& b, const Reports& reports,
                             v1::CompareResponse& response) {
  return Comparison(a, b, reports).fill(response);
}

}  // namespace bitrung::rpc
