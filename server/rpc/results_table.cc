#include "server/rpc/results_table.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "server/rpc/convert.h"

namespace bitrung::rpc {
namespace {

// Most bits first, then by name.
struct RowKey {
  std::string model;
  std::string dataset;
  std::string method;
  std::uint32_t weight_bits = 0;
  std::uint32_t activation_bits = 0;

  bool operator<(const RowKey& other) const {
    return std::tie(model, dataset, method, other.weight_bits, other.activation_bits) <
           std::tie(other.model, other.dataset, other.method, weight_bits, activation_bits);
  }
};

struct Cell {
  std::vector<std::pair<std::string, const db::JobRow*>>
      jobs;  // With the name's part after the entry.
};

std::pair<std::string, std::string> split_name(const std::string& full) {
  const auto dot = full.find('.');
  if (dot == std::string::npos) return {full, ""};
  return {full.substr(0, dot), full.substr(dot + 1)};
}

std::optional<double> accuracy(const db::JobRow& job) {
  if (!job.state.result) return std::nullopt;
  return job.state.result->test_accuracy;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// Sample standard deviation, two values at least.
double sample_sd(const std::vector<double>& values) {
  const double middle = mean(values);
  double squares = 0;
  for (const double value : values) squares += (value - middle) * (value - middle);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

// The state that a person should look at first.
JobState worst(const Cell& cell) {
  constexpr std::array kByAttention = {
      JobState::kFailed,     JobState::kSkipped, JobState::kCancelled,
      JobState::kCancelling, JobState::kRunning, JobState::kOffered,
      JobState::kReady,      JobState::kBlocked, JobState::kSucceeded};
  for (const JobState state : kByAttention) {
    if (std::ranges::any_of(cell.jobs,
                            [state](const auto& job) { return job.second->state.state == state; }))
      return state;
  }
  return JobState::kSucceeded;
}

void fill_cell(const Cell& cell, const Cell* first, v1::ResultsCell& out) {
  out.set_job_count(static_cast<std::uint32_t>(cell.jobs.size()));
  std::vector<double> accuracies;
  std::vector<double> differences;
  std::uint32_t succeeded = 0;
  for (const auto& [rest, job] : cell.jobs) {
    succeeded += job->state.state == JobState::kSucceeded ? 1 : 0;
    const auto value = accuracy(*job);
    if (!value) continue;
    accuracies.push_back(*value);
    if (first == nullptr) continue;
    const auto twin =
        std::ranges::find(first->jobs, rest, &std::pair<std::string, const db::JobRow*>::first);
    if (twin == first->jobs.end()) continue;
    if (const auto other = accuracy(*twin->second)) differences.push_back(*value - *other);
  }
  out.set_succeeded_count(succeeded);
  if (!accuracies.empty()) out.set_test_accuracy_mean(mean(accuracies));
  if (accuracies.size() >= 2) out.set_test_accuracy_sd(sample_sd(accuracies));
  if (!differences.empty()) out.set_difference(mean(differences));
  if (!cell.jobs.empty()) out.set_state(std::string(name(worst(cell))));
}

}  // namespace

void fill_results_table(const std::vector<db::JobRow>& jobs, v1::GetResultsResponse& response) {
  std::vector<std::string> entries;
  std::map<RowKey, std::map<std::string, Cell>> table;
  const auto add = [&](const std::string& full, const db::JobRow& job) {
    auto [entry, rest] = split_name(full);
    if (std::ranges::find(entries, entry) == entries.end()) entries.push_back(entry);
    const RowKey key{job.spec.model, job.spec.dataset, job.spec.method, job.spec.weight_bits,
                     job.spec.activation_bits};
    table[key][entry].jobs.emplace_back(std::move(rest), &job);
  };
  for (const db::JobRow& job : jobs) {
    add(job.spec.name, job);
    for (const std::string& alias : job.spec.aliases) add(alias, job);
  }

  for (const std::string& entry : entries) response.add_entries(entry);
  for (const auto& [key, cells] : table) {
    v1::ResultsRow& row = *response.add_rows();
    row.set_model(key.model);
    row.set_dataset(key.dataset);
    row.set_method(key.method);
    row.mutable_bits()->set_weights(key.weight_bits);
    row.mutable_bits()->set_activations(key.activation_bits);
    const auto first = cells.find(entries.front());
    for (const std::string& entry : entries) {
      v1::ResultsCell& out = *row.add_cells();
      out.set_entry(entry);
      const auto found = cells.find(entry);
      if (found == cells.end()) continue;
      fill_cell(found->second, found == first || first == cells.end() ? nullptr : &first->second,
                out);
    }
  }
}

}  // namespace bitrung::rpc
