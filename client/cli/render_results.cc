#include "client/cli/render_results.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "client/cli/json_shapes.h"
#include "client/cli/render_statistics.h"
#include "client/cli/words.h"

namespace bitrung::cli {
namespace {

constexpr std::size_t kFailuresShownMax = 5;
constexpr std::size_t kErrorWidthMax = 160;

// Lines that share a network and a data set.
struct Group {
  std::string model;
  std::string dataset;
  std::vector<const v1::ResultsRow*> rows;
};

std::vector<Group> groups_of(const v1::GetResultsResponse& results) {
  std::vector<Group> groups;
  for (const v1::ResultsRow& row : results.rows()) {
    const auto alike = [&](const Group& group) {
      return results.grouped_on_request() ||
             (group.model == row.model() && group.dataset == row.dataset());
    };
    auto found = std::ranges::find_if(groups, alike);
    if (found == groups.end())
      found = groups.insert(groups.end(), Group{row.model(), row.dataset(), {}});
    found->rows.push_back(&row);
  }
  return groups;
}

Cell accuracy_cell(const v1::ResultsCell& cell, const MetricLook& look, const Style& style) {
  if (cell.job_count() == 0) return {std::string(style.none()), Tone::kFaint};
  std::string text = mean_text(cell.summary(), look, style);
  if (text.empty()) {
    // Done, but without this metric: no images were held out, or there is no report.
    if (cell.succeeded_count() == cell.job_count()) return {"no value", Tone::kFaint};
    return {cell.state(), tone_of_job_state(cell.state())};
  }
  if (cell.summary().count() < cell.job_count()) {
    text += fmt::format(" ({}/{})", cell.summary().count(), cell.job_count());
  }
  return text;
}

// The table of one group. Which columns there are depends on what is known: with one seed there is
// no spread, with one entry no difference.
class GroupTable {
 public:
  GroupTable(const v1::GetResultsResponse& results, const Group& group, const Style& style)
      : results_(results), group_(group), style_(style), look_(look_of(results.metric())) {
    entries_.resize(static_cast<std::size_t>(results.entries_size()));
    std::set<std::string> methods;
    bool side_by_side = false;
    for (const v1::ResultsRow* row : group.rows) {
      methods.insert(row->method());
      std::size_t used = 0;
      for (std::size_t i = 0; i < entries_.size(); ++i) {
        const v1::ResultsCell& cell = cell_of(*row, i);
        EntryColumns& entry = entries_[i];
        if (cell.job_count() == 0) continue;
        ++used;
        entry.used = true;
        entry.interval |= cell.summary().has_low();
        if (!cell.has_against_first()) continue;
        entry.difference = true;
        const std::uint32_t count = cell.against_first().difference().count();
        entry.p_value |= count >= 2;
        fewest_pairs_ = std::min(fewest_pairs_, count);
        most_pairs_ = std::max(most_pairs_, count);
        note_no_test(cell.against_first(), notes_);
      }
      side_by_side |= used > 1;
    }
    several_methods_ = methods.size() > 1 && !results.grouped_on_request();
    if (!several_methods_ && methods.size() == 1) method_ = *methods.begin();
    // Entries that never stand beside each other make a list rather than a diagonal.
    as_list_ = !side_by_side && std::ranges::count(entries_, true, &EntryColumns::used) > 1;
  }

  std::string text() const {
    std::string out = fmt::format("\n  {}\n", title());
    std::vector<Table::Column> columns;
    if (as_list_) columns.push_back({"entry"});
    if (several_methods_) columns.push_back({"method"});
    if (!results_.grouped_on_request()) columns.push_back({"bits", Align::kRight});
    for (const std::string& option : results_.options()) columns.push_back({option, Align::kRight});
    if (as_list_) {
      add_columns(any_entry(), std::string(metric_name()), columns);
    } else {
      for (std::size_t i = 0; i < entries_.size(); ++i) {
        if (entries_[i].used)
          add_columns(entries_[i], results_.entries(static_cast<int>(i)), columns);
      }
    }
    Table table(std::move(columns));
    for (const v1::ResultsRow* row : ordered_rows()) {
      if (!as_list_) {
        std::vector<Cell> cells = labels(*row);
        for (std::size_t i = 0; i < entries_.size(); ++i) {
          if (entries_[i].used) add_cells(entries_[i], cell_of(*row, i), cells);
        }
        table.add_row(std::move(cells));
        continue;
      }
      for (std::size_t i = 0; i < entries_.size(); ++i) {
        const v1::ResultsCell& cell = cell_of(*row, i);
        if (cell.job_count() == 0) continue;
        std::vector<Cell> cells{Cell(cell.entry(), Tone::kStrong)};
        for (Cell& label : labels(*row)) cells.push_back(std::move(label));
        add_cells(any_entry(), cell, cells);
        table.add_row(std::move(cells));
      }
    }
    return out + table.text(style_, 2) + footer();
  }

 private:
  struct EntryColumns {
    bool used = false;
    bool interval = false;
    bool difference = false;
    bool p_value = false;
  };

  static const v1::ResultsCell& cell_of(const v1::ResultsRow& row, std::size_t entry) {
    if (entry >= static_cast<std::size_t>(row.cells_size()))
      return v1::ResultsCell::default_instance();
    return row.cells(static_cast<int>(entry));
  }

  EntryColumns any_entry() const {
    EntryColumns all;
    for (const EntryColumns& entry : entries_) {
      all.interval |= entry.interval;
      all.difference |= entry.difference;
      all.p_value |= entry.p_value;
    }
    return all;
  }

  std::string_view metric_name() const {
    const std::string_view metric = results_.metric();
    return metric == "top1" || metric == "validation" ? "accuracy" : metric;
  }

  std::string title() const {
    std::string what;
    for (const std::string& part : {group_.model, group_.dataset, method_}) {
      if (results_.grouped_on_request() || part.empty()) continue;
      what += fmt::format("{} {} ", part, style_.dot());
    }
    std::string how(look_.title);
    if (any_entry().interval) {
      how += fmt::format(", mean {} sd, {}95 %: confidence interval of the mean",
                         style_.plus_minus(), style_.plus_minus());
    }
    return style_.paint(Tone::kStrong, what.substr(0, what.empty() ? 0 : what.size() - 1)) +
           style_.paint(Tone::kFaint, what.empty() ? how : " " + how);
  }

  // As the server ordered them; a list compares methods, so there bits come first.
  std::vector<const v1::ResultsRow*> ordered_rows() const {
    std::vector<const v1::ResultsRow*> rows = group_.rows;
    if (as_list_ && several_methods_) {
      std::ranges::stable_sort(rows, [](const v1::ResultsRow* left, const v1::ResultsRow* right) {
        return std::pair(left->bits().weights(), left->bits().activations()) >
               std::pair(right->bits().weights(), right->bits().activations());
      });
    }
    return rows;
  }

  std::vector<Cell> labels(const v1::ResultsRow& row) const {
    std::vector<Cell> cells;
    if (several_methods_) cells.emplace_back(row.method());
    if (!results_.grouped_on_request()) cells.emplace_back(bits_label(row.bits()), Tone::kStrong);
    for (const v1::OptionValue& option : row.options()) {
      if (option.value().empty()) {
        cells.emplace_back(std::string(style_.none()), Tone::kFaint);
      } else {
        cells.emplace_back(printable(option.value()),
                           results_.grouped_on_request() ? Tone::kStrong : Tone::kPlain);
      }
    }
    return cells;
  }

  void add_columns(const EntryColumns& entry, std::string name,
                   std::vector<Table::Column>& columns) const {
    columns.push_back({std::move(name), Align::kRight});
    if (entry.interval) {
      columns.push_back({fmt::format("{}95 %", style_.plus_minus()), Align::kRight});
    }
    if (entry.difference) columns.push_back({"difference", Align::kRight});
    if (entry.p_value) columns.push_back({"p", Align::kRight});
    if (entry.p_value && fewest_pairs_ < most_pairs_) columns.push_back({"pairs", Align::kRight});
  }

  void add_cells(const EntryColumns& entry, const v1::ResultsCell& cell,
                 std::vector<Cell>& cells) const {
    cells.push_back(accuracy_cell(cell, look_, style_));
    if (entry.interval)
      cells.emplace_back(interval_text(cell.summary(), look_, style_), Tone::kFaint);
    if (entry.difference) cells.push_back(difference_cell(cell.against_first(), look_, style_));
    if (!entry.p_value) return;
    cells.push_back(p_value_cell(cell.against_first(), style_));
    if (fewest_pairs_ == most_pairs_) return;
    cells.emplace_back(cell.has_against_first()
                           ? fmt::format("{}", cell.against_first().difference().count())
                           : std::string());
  }

  std::string footer() const {
    std::string out;
    if (most_pairs_ > 0) {
      const std::string first = results_.entries(0);
      if (most_pairs_ == 1) {
        out = fmt::format("difference: to {}, one pair of equal seeds, so there is no p", first);
      } else {
        out = fmt::format(
            "difference: to {} over {}, mean {} sd; p: two-sided paired t test", first,
            fewest_pairs_ == most_pairs_ ? fmt::format("{} pairs of equal seeds", most_pairs_)
                                         : std::string("pairs of equal seeds"),
            style_.plus_minus());
        if (!notes_.empty()) out += "\n" + no_test_line(notes_);
      }
      out += '\n';
    }
    if (results_.joined_options_size() > 0) {
      std::string names;
      for (const std::string& option : results_.joined_options())
        names += fmt::format("{}{}", names.empty() ? "" : ", ", option);
      out += fmt::format("each number joins jobs that differ in {}\n", names);
    }
    std::string painted;
    for (std::size_t begin = 0; begin < out.size();) {
      const std::size_t end = out.find('\n', begin);
      painted += fmt::format("  {}\n", style_.paint(Tone::kFaint, out.substr(begin, end - begin)));
      begin = end + 1;
    }
    return painted;
  }

  const v1::GetResultsResponse& results_;
  const Group& group_;
  const Style& style_;
  const MetricLook look_;
  std::vector<EntryColumns> entries_;
  std::string method_;  // Of the whole group; empty if there are several.
  bool several_methods_ = false;
  bool as_list_ = false;
  std::uint32_t fewest_pairs_ = ~0U;
  std::uint32_t most_pairs_ = 0;
  std::set<std::string> notes_;
};

std::string path_table_text(const v1::PathTable& paths, const Style& style) {
  const MetricLook look = look_of("top1");
  bool with_p = false;
  std::set<std::string> notes;
  for (const v1::BestPath& path : paths.paths()) {
    with_p |= path.regret().difference().count() >= 2;
    note_no_test(path.regret(), notes);
  }
  const bool held_out = paths.chosen_by() == "validation_accuracy";
  std::string out = fmt::format(
      "\n  {}{}\n", style.paint(Tone::kStrong, fmt::format("best paths of {}", paths.entry())),
      style.paint(Tone::kFaint,
                  fmt::format(" {} chosen by {}; test accuracy in %", style.dot(),
                              held_out ? "validation accuracy"
                                       : "test accuracy, as no images were held out")));
  std::vector<Table::Column> columns{{"bits", Align::kRight},     {"best path"},
                                     {"accuracy", Align::kRight}, {"chain"},
                                     {"accuracy", Align::kRight}, {"regret", Align::kRight}};
  if (with_p) columns.push_back({"p", Align::kRight});
  columns.push_back({"paths", Align::kRight});
  Table table(std::move(columns));
  const auto or_none = [&](std::string text) {
    return text.empty() ? Cell(std::string(style.none()), Tone::kFaint) : Cell(std::move(text));
  };
  for (const v1::BestPath& path : paths.paths()) {
    std::vector<Cell> cells{Cell(bits_label(path.bits()), Tone::kStrong), or_none(path.path()),
                            or_none(mean_text(path.test_accuracy(), look, style)),
                            or_none(path.chain()),
                            or_none(mean_text(path.chain_test_accuracy(), look, style))};
    // A regret is a loss: no colour for a path that is better than the chain.
    Cell regret = difference_cell(path.regret(), look, style);
    cells.push_back(or_none(regret.text));
    if (with_p) cells.push_back(p_value_cell(path.regret(), style));
    cells.emplace_back(path.succeeded_count() == path.candidate_count()
                           ? fmt::format("{}", path.candidate_count())
                           : fmt::format("{}/{}", path.succeeded_count(), path.candidate_count()));
    table.add_row(std::move(cells));
  }
  out += table.text(style, 2);
  std::string footer = "regret: best path minus chain";
  if (with_p) footer += "; p: two-sided paired t test";
  if (with_p && !notes.empty()) footer += "; " + no_test_line(notes);
  return out + fmt::format("  {}\n", style.paint(Tone::kFaint, footer));
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

// What the jobs were computed with, and why not by the fused loops; nothing where reports do not
// say. "computed by fused avx512-vnni (10 jobs), eager (1 job: activations are quantized by apot)"
std::string backends_text(const v1::GetResultsResponse& results, const Style& style) {
  std::map<std::pair<std::string, std::string>, std::size_t> counts;
  for (const v1::Job& job : results.jobs()) {
    if (!job.backend().empty()) ++counts[{job.backend(), job.backend_reason()}];
  }
  if (counts.empty()) return {};
  std::vector<std::string> parts;
  for (const auto& [computation, count] : counts) {
    const auto& [backend, reason] = computation;
    parts.push_back(fmt::format("{} ({}{}{})", printable(backend), format_plural(count, "job"),
                                reason.empty() ? "" : ": ", printable(reason)));
  }
  return style.paint(Tone::kFaint, fmt::format("computed by {}", join(parts, ", "))) + "\n";
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

  for (const Group& group : groups_of(results)) out += GroupTable(results, group, style).text();
  for (const v1::PathTable& table : results.path_tables()) out += path_table_text(table, style);

  out += fmt::format("\n{}\n", count_line(experiment));
  out += backends_text(results, style);
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
  std::string out = tsv_line({"model",
                              "dataset",
                              "method",
                              "weight_bits",
                              "activation_bits",
                              "entry",
                              "jobs",
                              "succeeded",
                              "test_accuracy_mean",
                              "test_accuracy_sd",
                              "difference",
                              "state",
                              "options",
                              "metric",
                              "count",
                              "mean",
                              "sd",
                              "low",
                              "high",
                              "pairs",
                              "difference_sd",
                              "t",
                              "p_value",
                              "no_test",
                              "values"});
  const bool is_accuracy = results.metric() == "top1" || results.metric().empty();
  for (const v1::ResultsRow& row : results.rows()) {
    std::string options;
    for (const v1::OptionValue& option : row.options()) {
      options += fmt::format("{}{}={}", options.empty() ? "" : " ", option.name(), option.value());
    }
    for (const v1::ResultsCell& cell : row.cells()) {
      if (cell.job_count() == 0) continue;
      std::string values;
      for (const v1::SeedValue& value : cell.values()) {
        values += fmt::format("{}{}={}", values.empty() ? "" : ",", value.seed(),
                              number_field(value.has_value(), value.value()));
      }
      const v1::Summary& summary = cell.summary();
      const v1::PairedTest& test = cell.against_first();
      const v1::Summary& difference = test.difference();
      out += tsv_line({row.model(),
                       row.dataset(),
                       row.method(),
                       row.has_bits() ? fmt::format("{}", row.bits().weights()) : "",
                       row.has_bits() ? fmt::format("{}", row.bits().activations()) : "",
                       cell.entry(),
                       fmt::format("{}", cell.job_count()),
                       fmt::format("{}", cell.succeeded_count()),
                       number_field(is_accuracy && summary.has_mean(), summary.mean()),
                       number_field(is_accuracy && summary.has_sd(), summary.sd()),
                       number_field(difference.has_mean(), difference.mean()),
                       cell.state(),
                       options,
                       results.metric(),
                       fmt::format("{}", summary.count()),
                       number_field(summary.has_mean(), summary.mean()),
                       number_field(summary.has_sd(), summary.sd()),
                       number_field(summary.has_low(), summary.low()),
                       number_field(summary.has_high(), summary.high()),
                       cell.has_against_first() ? fmt::format("{}", difference.count()) : "",
                       number_field(difference.has_sd(), difference.sd()),
                       number_field(test.has_t(), test.t()),
                       number_field(test.has_p_value(), test.p_value()),
                       test.no_test(),
                       values});
    }
  }
  return out;
}

namespace {

Json cell_json(const v1::ResultsCell& cell) {
  Json json;
  json["entry"] = cell.entry();
  json["state"] = cell.state();
  json["jobs"] = cell.job_count();
  json["succeeded"] = cell.succeeded_count();
  const Json summary = summary_json(cell.summary());
  for (const auto& [key, value] : summary.items()) json[key] = value;
  json["values"] = Json::array();
  for (const v1::SeedValue& value : cell.values()) {
    json["values"].push_back({{"job", value.job()},
                              {"seed", value.seed()},
                              {"state", state_name(value.state())},
                              {"value", value.has_value() ? Json(value.value()) : Json(nullptr)}});
  }
  json["against_first"] =
      cell.has_against_first() ? test_json(cell.against_first()) : Json(nullptr);
  return json;
}

Json row_json(const v1::ResultsRow& row) {
  Json json;
  json["model"] = text_or_null(row.model());
  json["dataset"] = text_or_null(row.dataset());
  json["method"] = text_or_null(row.method());
  json["bits"] = row.has_bits() ? bits_json(row.bits()) : Json(nullptr);
  json["options"] = Json::object();
  for (const v1::OptionValue& option : row.options())
    json["options"][option.name()] = text_or_null(option.value());
  json["cells"] = Json::array();
  for (const v1::ResultsCell& cell : row.cells()) {
    if (cell.job_count() > 0) json["cells"].push_back(cell_json(cell));
  }
  return json;
}

Json path_table_json(const v1::PathTable& table) {
  Json json;
  json["entry"] = table.entry();
  json["chosen_by"] = table.chosen_by();
  json["rungs"] = Json::array();
  for (const v1::BestPath& path : table.paths()) {
    Json rung;
    rung["bits"] = bits_json(path.bits());
    rung["path"] = path.path().empty() ? Json(nullptr) : Json(path.path());
    rung["candidates"] = path.candidate_count();
    rung["succeeded"] = path.succeeded_count();
    rung["test_accuracy"] = summary_json(path.test_accuracy());
    rung["chain"] = path.chain().empty() ? Json(nullptr) : Json(path.chain());
    rung["chain_test_accuracy"] = summary_json(path.chain_test_accuracy());
    rung["regret"] = path.has_regret() ? test_json(path.regret()) : Json(nullptr);
    json["rungs"].push_back(rung);
  }
  return json;
}

}  // namespace

std::string render_results_json(const v1::GetResultsResponse& results) {
  Json json;
  json["experiment"] = results.experiment().name();
  json["state"] = state_name(results.experiment().state());
  json["jobs"] = Json::array();
  for (const v1::Job& job : results.jobs()) json["jobs"].push_back(result_job_json(job));
  json["metric"] = results.metric();
  json["entries"] = strings(results.entries());
  json["options"] = strings(results.options());
  json["joined_options"] = strings(results.joined_options());
  json["rows"] = Json::array();
  for (const v1::ResultsRow& row : results.rows()) json["rows"].push_back(row_json(row));
  json["best_paths"] = Json::array();
  for (const v1::PathTable& table : results.path_tables())
    json["best_paths"].push_back(path_table_json(table));
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
