#include "client/cli/render_results.h"

#include <fmt/format.h>

#include <array>
#include <set>
#include <tuple>
#include <vector>

#include "client/cli/json_shapes.h"
#include "client/cli/words.h"

namespace bitrung::cli {
namespace {

constexpr std::size_t kFailuresShownMax = 5;
constexpr std::size_t kErrorWidthMax = 160;

using Group = std::tuple<std::string, std::string, std::string>;

Group group_of(const v1::ResultsRow& row) {
  return {row.model(), row.dataset(), row.method()};
}

std::string number_or_empty(bool has, double value) {
  return has ? fmt::format("{}", value) : std::string();
}

Cell accuracy_cell(const v1::ResultsCell& cell, const Style& style) {
  if (cell.job_count() == 0) return {std::string(style.none()), Tone::kFaint};
  if (!cell.has_test_accuracy_mean()) return {cell.state(), tone_of_job_state(cell.state())};
  std::string text = format_percent(cell.test_accuracy_mean());
  if (cell.has_test_accuracy_sd()) {
    text += fmt::format(" {} {:.2f}", style.plus_minus(), cell.test_accuracy_sd());
  }
  if (cell.succeeded_count() < cell.job_count()) {
    text += fmt::format(" ({}/{})", cell.succeeded_count(), cell.job_count());
  }
  return text;
}

Cell difference_cell(const v1::ResultsCell& cell) {
  if (!cell.has_difference()) return {};
  const std::string text = format_points(cell.difference());
  const Tone tone = text.front() == '+'   ? Tone::kGood
                    : text.front() == '-' ? Tone::kBad
                                          : Tone::kFaint;
  return {text, tone};
}

std::string table_text(const v1::GetResultsResponse& results, const Group& group,
                       const Style& style) {
  // A difference column only where one is known, so that a single list stays narrow.
  std::vector<bool> with_difference(static_cast<std::size_t>(results.entries_size()), false);
  std::vector<bool> used(with_difference.size(), false);
  for (const v1::ResultsRow& row : results.rows()) {
    if (group_of(row) != group) continue;
    for (std::size_t i = 0; i < used.size() && i < static_cast<std::size_t>(row.cells_size());
         ++i) {
      const v1::ResultsCell& cell = row.cells(static_cast<int>(i));
      if (cell.job_count() > 0) used[i] = true;
      if (cell.has_difference()) with_difference[i] = true;
    }
  }
  std::vector<Table::Column> columns{{"bits", Align::kRight}};
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) continue;
    columns.push_back({results.entries(static_cast<int>(i)), Align::kRight});
    if (with_difference[i]) columns.push_back({"difference", Align::kRight});
  }
  Table table(std::move(columns));
  for (const v1::ResultsRow& row : results.rows()) {
    if (group_of(row) != group) continue;
    std::vector<Cell> cells{Cell(bits_label(row.bits()), Tone::kStrong)};
    for (std::size_t i = 0; i < used.size(); ++i) {
      if (!used[i]) continue;
      const bool there = i < static_cast<std::size_t>(row.cells_size());
      const v1::ResultsCell cell = there ? row.cells(static_cast<int>(i)) : v1::ResultsCell();
      cells.push_back(accuracy_cell(cell, style));
      if (with_difference[i]) cells.push_back(difference_cell(cell));
    }
    table.add_row(std::move(cells));
  }
  return table.text(style, 2);
}

// The first job that is worth a look after the end, for the examples of next commands.
const v1::Job* exemplary_job(const v1::GetResultsResponse& results) {
  const v1::Job* last = nullptr;
  for (const v1::Job& job : results.jobs()) {
    if (job.state() == v1::JOB_STATE_FAILED) return &job;
    if (job.state() == v1::JOB_STATE_SUCCEEDED) last = &job;
  }
  return last;
}

}  // namespace

std::string experiment_argument(const v1::Experiment& experiment) {
  return fmt::format("{}", experiment.experiment_id());
}

std::string count_line(const v1::Experiment& experiment) {
  static constexpr std::array<std::string_view, 9> kOrder{"succeeded",  "failed",  "running",
                                                          "offered",    "ready",   "blocked",
                                                          "cancelling", "skipped", "cancelled"};
  std::string text = format_plural(experiment.job_count(), "job");
  std::string_view separator = ": ";
  for (const std::string_view state : kOrder) {
    const auto found = experiment.jobs_by_state().find(std::string(state));
    if (found == experiment.jobs_by_state().end() || found->second == 0) continue;
    text += fmt::format("{}{} {}", separator, format_count(found->second), state);
    if (state == "succeeded" && experiment.cached_count() > 0) {
      text += fmt::format(" ({} cached)", format_count(experiment.cached_count()));
    }
    separator = ", ";
  }
  return text;
}

std::string render_results_text(const v1::GetResultsResponse& results, const Style& style) {
  const v1::Experiment& experiment = results.experiment();
  std::string out =
      fmt::format("{}  {}\n",
                  style.paint(Tone::kStrong,
                              fmt::format("{} #{}", experiment.name(), experiment.experiment_id())),
                  style.paint(tone_of(experiment.state()), state_name(experiment.state())));

  std::vector<Group> groups;
  std::set<Group> seen;
  for (const v1::ResultsRow& row : results.rows()) {
    if (seen.insert(group_of(row)).second) groups.push_back(group_of(row));
  }
  for (const Group& group : groups) {
    const auto& [model, dataset, method] = group;
    out += fmt::format(
        "\n  {}\n",
        style.paint(Tone::kStrong,
                    fmt::format("{1} {0} {2} {0} {3}", style.dot(), model, dataset, method)) +
            style.paint(Tone::kFaint, fmt::format(" {} test accuracy in %", style.dot())));
    out += table_text(results, group, style);
  }

  out += fmt::format("\n{}\n", count_line(experiment));
  std::size_t failures = 0;
  for (const v1::Job& job : results.jobs()) {
    if (job.state() != v1::JOB_STATE_FAILED) continue;
    if (++failures > kFailuresShownMax) continue;
    out += fmt::format("{} {}: {}\n", style.paint(Tone::kBad, glyph(job.state(), style)),
                       job.name(), fit(printable(job.error()), kErrorWidthMax, style));
  }
  if (failures > kFailuresShownMax) {
    out += fmt::format("and {} more failed: bitrung status {}\n", failures - kFailuresShownMax,
                       experiment_argument(experiment));
  }
  const v1::Job* job = exemplary_job(results);
  const std::string id = experiment_argument(experiment);
  if (failures > 0) {
    out += fmt::format("next: bitrung explain {0}/{1}   bitrung logs {0}/{1}   bitrung retry {0}\n",
                       id, job->name());
  } else if (!is_terminal(experiment.state())) {
    out += fmt::format("next: bitrung watch {0}   bitrung status {0}\n", id);
  } else if (job != nullptr) {
    out += fmt::format("next: bitrung metrics {0}/{1}   bitrung results {0} --output json\n", id,
                       job->name());
  }
  return out;
}

std::string render_results_tsv(const v1::GetResultsResponse& results) {
  std::string out =
      tsv_line({"model", "dataset", "method", "weight_bits", "activation_bits", "entry", "jobs",
                "succeeded", "test_accuracy_mean", "test_accuracy_sd", "difference", "state"});
  for (const v1::ResultsRow& row : results.rows()) {
    for (const v1::ResultsCell& cell : row.cells()) {
      if (cell.job_count() == 0) continue;
      out += tsv_line(
          {row.model(), row.dataset(), row.method(), fmt::format("{}", row.bits().weights()),
           fmt::format("{}", row.bits().activations()), cell.entry(),
           fmt::format("{}", cell.job_count()), fmt::format("{}", cell.succeeded_count()),
           number_or_empty(cell.has_test_accuracy_mean(), cell.test_accuracy_mean()),
           number_or_empty(cell.has_test_accuracy_sd(), cell.test_accuracy_sd()),
           number_or_empty(cell.has_difference(), cell.difference()), cell.state()});
    }
  }
  return out;
}

std::string render_results_json(const v1::GetResultsResponse& results) {
  Json json;
  json["experiment"] = results.experiment().name();
  json["state"] = state_name(results.experiment().state());
  json["jobs"] = Json::array();
  for (const v1::Job& job : results.jobs()) json["jobs"].push_back(result_job_json(job));
  return json_text(json);
}

std::string render_results(const v1::GetResultsResponse& results, OutputMode mode,
                           const Style& style) {
  switch (mode) {
    case OutputMode::kText:
      return render_results_text(results, style);
    case OutputMode::kTsv:
      return render_results_tsv(results);
    case OutputMode::kJson:
      return render_results_json(results);
  }
  return {};
}

}  // namespace bitrung::cli
