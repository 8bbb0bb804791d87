#include "client/cli/render_compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <vector>

#include "client/cli/json_shapes.h"
#include "client/cli/render_statistics.h"

namespace bitrung::cli {
namespace {

constexpr std::size_t kClassesShownMax = 5;
constexpr std::size_t kLayersShownMax = 60;
constexpr std::size_t kValueWidthMax = 40;
// A change of noise below this is not worth a line for people; JSON has it.
constexpr double kSqnrShownMin = 0.05;

struct NumberLook {
  std::string_view name;
  std::string_view label;
  MetricLook look;
};
constexpr std::array kNumbers = {
    NumberLook{
        "test_accuracy", "test accuracy, %", {.title = {}, .digits = 2, .lower_is_better = false}},
    NumberLook{"validation_accuracy",
               "validation accuracy, %",
               {.title = {}, .digits = 2, .lower_is_better = false}},
    NumberLook{"test_loss", "test loss", {.title = {}, .digits = 4, .lower_is_better = true}},
    NumberLook{"top5", "top-5 accuracy, %", {.title = {}, .digits = 2, .lower_is_better = false}},
    NumberLook{"nll", "NLL", {.title = {}, .digits = 4, .lower_is_better = true}},
    NumberLook{"brier", "Brier score", {.title = {}, .digits = 4, .lower_is_better = true}},
    NumberLook{"ece", "ECE", {.title = {}, .digits = 4, .lower_is_better = true}},
    NumberLook{"parameters", "parameters", {.title = {}, .digits = 0, .lower_is_better = true}},
    NumberLook{"macs", "MACs", {.title = {}, .digits = 0, .lower_is_better = true}},
    NumberLook{
        "bit_operations", "bit operations", {.title = {}, .digits = 0, .lower_is_better = true}},
    NumberLook{
        "bytes_packed", "bytes, packed", {.title = {}, .digits = 0, .lower_is_better = true}},
    NumberLook{"duration_seconds", "seconds", {.title = {}, .digits = 1, .lower_is_better = true}},
};

NumberLook look_at(const v1::NumberDifference& number) {
  const auto found = std::ranges::find(kNumbers, number.name(), &NumberLook::name);
  if (found != kNumbers.end()) return *found;
  return {number.name(), number.name(), {.title = {}, .digits = 4, .lower_is_better = false}};
}

std::string side_line(std::string_view letter, const v1::ComparedJobs& side, const Style& style) {
  const std::string count =
      side.jobs_size() == 1 ? std::string()
                            : format_plural(static_cast<std::uint64_t>(side.jobs_size()), "job");
  return fmt::format("{}  {}{}\n", style.paint(Tone::kStrong, letter), side.label(),
                     count.empty() ? std::string() : style.paint(Tone::kFaint, "  " + count));
}

template <class Values>
Cell values_cell(const Values& values, const Style& style) {
  if (values.empty()) return {std::string(style.none()), Tone::kFaint};
  std::string text;
  for (const std::string& value : values)
    text += fmt::format("{}{}", text.empty() ? "" : ", ", value);
  return fit(printable(text), kValueWidthMax, style);
}

std::string options_text(const v1::CompareResponse& comparison, const Style& style) {
  std::string out = fmt::format("\n{}\n", style.paint(Tone::kStrong, "options that differ"));
  if (comparison.options().empty()) return out + style.paint(Tone::kFaint, "  none") + "\n";
  Table table({{"option"}, {"A"}, {"B"}});
  for (const v1::OptionDifference& option : comparison.options()) {
    table.add_row({option.name(), values_cell(option.a(), style), values_cell(option.b(), style)});
  }
  return out + table.text(style, 2);
}

// Whether the numbers say anything about chance, and what.
std::string statement(const v1::CompareResponse& comparison, const Style& style) {
  std::uint32_t fewest = ~0U;
  std::uint32_t most = 0;
  std::set<std::string> notes;
  for (const v1::ComparedGroup& group : comparison.groups()) {
    for (const v1::NumberDifference& number : group.numbers()) {
      if (!number.has_difference()) continue;
      fewest = std::min(fewest, number.difference().difference().count());
      most = std::max(most, number.difference().difference().count());
      note_no_test(number.difference(), notes);
    }
  }
  std::string text;
  if (most == 0) {
    text = "no seed is on both sides, so nothing is paired";
  } else if (most == 1) {
    text = "one pair: nothing can be said about chance";
  } else {
    text = fmt::format("mean {0} sd; B - A over {1} of equal seeds; p: two-sided paired t test",
                       style.plus_minus(),
                       fewest == most ? fmt::format("{} pairs", most)
                                      : fmt::format("{} to {} pairs", fewest, most));
  }
  std::string out = fmt::format("  {}\n", style.paint(Tone::kFaint, text));
  if (most > 1 && !notes.empty())
    out += fmt::format("  {}\n", style.paint(Tone::kFaint, no_test_line(notes)));
  return out;
}

bool has_p(const v1::NumberDifference& number) {
  return number.difference().difference().count() >= 2;
}

std::string numbers_text(const v1::CompareResponse& comparison, const v1::ComparedGroup& group,
                         const Style& style) {
  const bool with_p = std::ranges::any_of(group.numbers(), has_p);
  std::vector<Table::Column> columns{
      {""}, {"A", Align::kRight}, {"B", Align::kRight}, {"B - A", Align::kRight}};
  if (with_p) columns.push_back({"p", Align::kRight});
  Table table(std::move(columns));
  for (const v1::NumberDifference& number : group.numbers()) {
    const NumberLook look = look_at(number);
    std::vector<Cell> cells{Cell(std::string(look.label)), mean_text(number.a(), look.look, style),
                            mean_text(number.b(), look.look, style),
                            difference_cell(number.difference(), look.look, style)};
    if (with_p) cells.push_back(p_value_cell(number.difference(), style));
    table.add_row(std::move(cells));
  }
  return fmt::format("\n{}\n", style.paint(Tone::kStrong, "numbers")) + table.text(style, 2) +
         statement(comparison, style);
}

std::string classes_text(const v1::ComparedGroup& group, const Style& style) {
  std::vector<const v1::ClassDifference*> classes;
  for (const v1::ClassDifference& one : group.classes()) {
    if (one.a() != one.b()) classes.push_back(&one);
  }
  if (classes.empty()) return {};
  std::ranges::stable_sort(classes, std::greater(), [](const v1::ClassDifference* one) {
    return std::abs(one->b() - one->a());
  });
  Table table({{"class", Align::kRight},
               {"A", Align::kRight},
               {"B", Align::kRight},
               {"B - A", Align::kRight}});
  for (std::size_t i = 0; i < std::min(classes.size(), kClassesShownMax); ++i) {
    const double change = classes[i]->b() - classes[i]->a();
    table.add_row({fmt::format("{}", classes[i]->class_index()), format_percent(classes[i]->a()),
                   format_percent(classes[i]->b()),
                   Cell(format_points(change), change > 0 ? Tone::kGood : Tone::kBad)});
  }
  return fmt::format("\n{}\n",
                     style.paint(Tone::kStrong, "classes whose accuracy changed the most, in %")) +
         table.text(style, 2);
}

bool worth_showing(const v1::LayerDifference& layer) {
  if (layer.a().bits() != layer.b().bits()) return true;
  if (layer.a().has_sqnr_db() != layer.b().has_sqnr_db()) return true;
  return std::abs(layer.a().sqnr_db() - layer.b().sqnr_db()) >= kSqnrShownMin;
}

std::string layers_text(const v1::ComparedGroup& group, const Style& style) {
  Table table({{"layer"},
               {"part"},
               {"bits A", Align::kRight},
               {"B", Align::kRight},
               {"SQNR dB A", Align::kRight},
               {"B", Align::kRight},
               {"B - A", Align::kRight}});
  const auto bits = [&](const v1::LayerSide& side) {
    return side.has_bits() ? Cell(fmt::format("{}", side.bits()))
                           : Cell(std::string(style.none()), Tone::kFaint);
  };
  const auto sqnr = [&](const v1::LayerSide& side) {
    return side.has_sqnr_db() ? Cell(fmt::format("{:.2f}", side.sqnr_db()))
                              : Cell(std::string(style.none()), Tone::kFaint);
  };
  std::size_t shown = 0;
  std::size_t left_out = 0;
  for (const v1::LayerDifference& layer : group.layers()) {
    if (!worth_showing(layer)) continue;
    if (++shown > kLayersShownMax) {
      ++left_out;
      continue;
    }
    std::vector<Cell> cells{Cell(printable(layer.layer())),
                            Cell(layer.part()),
                            bits(layer.a()),
                            bits(layer.b()),
                            sqnr(layer.a()),
                            sqnr(layer.b())};
    if (layer.a().has_sqnr_db() && layer.b().has_sqnr_db()) {
      const double change = layer.b().sqnr_db() - layer.a().sqnr_db();
      cells.emplace_back(format_points(change), change > 0 ? Tone::kGood : Tone::kBad);
    }
    table.add_row(std::move(cells));
  }
  if (table.empty()) return {};
  std::string out =
      fmt::format("\n{}\n",
                  style.paint(Tone::kStrong, "layers whose bits or quantization noise differ")) +
      table.text(style, 2);
  if (left_out > 0) out += fmt::format("  and {} more: --output json\n", left_out);
  return out;
}

// Several keys, e.g. bitwidths: a line for each, with the one number that matters most.
std::string groups_text(const v1::CompareResponse& comparison, const Style& style) {
  std::vector<Table::Column> columns{
      {"jobs"}, {"A", Align::kRight}, {"B", Align::kRight}, {"B - A", Align::kRight}};
  bool with_p = false;
  std::vector<std::pair<const v1::ComparedGroup*, const v1::NumberDifference*>> lines;
  for (const v1::ComparedGroup& group : comparison.groups()) {
    const auto found =
        std::ranges::find(group.numbers(), "test_accuracy", &v1::NumberDifference::name);
    const bool there = found != group.numbers().end();
    with_p |= there && has_p(*found);
    lines.emplace_back(&group, there ? &*found : &v1::NumberDifference::default_instance());
  }
  if (with_p) columns.push_back({"p", Align::kRight});
  Table table(std::move(columns));
  const MetricLook look = look_of("top1");
  const auto or_none = [&](std::string text) {
    return text.empty() ? Cell(std::string(style.none()), Tone::kFaint) : Cell(std::move(text));
  };
  for (const auto& [group, number] : lines) {
    std::vector<Cell> cells{Cell(group->label(), Tone::kStrong),
                            or_none(mean_text(number->a(), look, style)),
                            or_none(mean_text(number->b(), look, style)),
                            difference_cell(number->difference(), look, style)};
    if (with_p) cells.push_back(p_value_cell(number->difference(), style));
    table.add_row(std::move(cells));
  }
  const std::string& label = comparison.groups(0).label();
  return fmt::format("\n{}\n", style.paint(Tone::kStrong, "test accuracy in %")) +
         table.text(style, 2) + statement(comparison, style) +
         fmt::format("next: bitrung compare {0}{2}{3} {1}{2}{3}\n", comparison.a().label(),
                     comparison.b().label(),
                     comparison.a().label().find('/') == std::string::npos ? "/" : ".", label);
}

std::string comparison_text(const v1::CompareResponse& comparison, const Style& style) {
  std::string out = side_line("A", comparison.a(), style) + side_line("B", comparison.b(), style) +
                    options_text(comparison, style);
  if (comparison.groups_size() > 1) return out + groups_text(comparison, style);
  for (const v1::ComparedGroup& group : comparison.groups()) {
    out += numbers_text(comparison, group, style) + classes_text(group, style) +
           layers_text(group, style);
  }
  return out;
}

template <class Values>
std::string joined(const Values& values) {
  std::string text;
  for (const std::string& value : values)
    text += fmt::format("{}{}", text.empty() ? "" : ",", value);
  return text;
}

std::string comparison_tsv(const v1::CompareResponse& comparison) {
  std::string out = tsv_line({"kind", "jobs", "name", "a", "b", "difference", "difference_sd",
                              "pairs", "t", "p_value", "no_test"});
  for (const v1::OptionDifference& option : comparison.options())
    out += tsv_line({"option", "", option.name(), joined(option.a()), joined(option.b())});
  for (const v1::ComparedGroup& group : comparison.groups()) {
    for (const v1::NumberDifference& number : group.numbers()) {
      const v1::PairedTest& test = number.difference();
      const v1::Summary& difference = test.difference();
      out += tsv_line({"number", group.label(), number.name(),
                       number_field(number.a().has_mean(), number.a().mean()),
                       number_field(number.b().has_mean(), number.b().mean()),
                       number_field(difference.has_mean(), difference.mean()),
                       number_field(difference.has_sd(), difference.sd()),
                       number.has_difference() ? fmt::format("{}", difference.count()) : "",
                       number_field(test.has_t(), test.t()),
                       number_field(test.has_p_value(), test.p_value()), test.no_test()});
    }
    for (const v1::ClassDifference& one : group.classes()) {
      out += tsv_line({"class", group.label(), fmt::format("{}", one.class_index()),
                       fmt::format("{}", one.a()), fmt::format("{}", one.b()),
                       fmt::format("{}", one.b() - one.a())});
    }
    for (const v1::LayerDifference& layer : group.layers()) {
      const std::string name = fmt::format("{}.{}", layer.layer(), layer.part());
      const auto add = [&](const char* what, bool has_a, double a, bool has_b, double b) {
        if (!has_a && !has_b) return;
        out += tsv_line({what, group.label(), name, number_field(has_a, a), number_field(has_b, b),
                         number_field(has_a && has_b, b - a)});
      };
      const v1::LayerSide& a = layer.a();
      const v1::LayerSide& b = layer.b();
      add("layer_bits", a.has_bits(), a.bits(), b.has_bits(), b.bits());
      add("layer_levels", a.has_levels(), static_cast<double>(a.levels()), b.has_levels(),
          static_cast<double>(b.levels()));
      add("layer_sqnr_db", a.has_sqnr_db(), a.sqnr_db(), b.has_sqnr_db(), b.sqnr_db());
    }
  }
  return out;
}

Json layer_side_json(const v1::LayerSide& side) {
  Json json;
  json["bits"] = side.has_bits() ? Json(side.bits()) : Json(nullptr);
  json["levels"] = side.has_levels() ? Json(side.levels()) : Json(nullptr);
  json["sqnr_db"] = side.has_sqnr_db() ? Json(side.sqnr_db()) : Json(nullptr);
  return json;
}

std::string comparison_json(const v1::CompareResponse& comparison) {
  Json json;
  json["a"] = {{"name", comparison.a().label()}, {"jobs", strings(comparison.a().jobs())}};
  json["b"] = {{"name", comparison.b().label()}, {"jobs", strings(comparison.b().jobs())}};
  json["options"] = Json::array();
  for (const v1::OptionDifference& option : comparison.options()) {
    json["options"].push_back(
        {{"name", option.name()}, {"a", strings(option.a())}, {"b", strings(option.b())}});
  }
  json["groups"] = Json::array();
  for (const v1::ComparedGroup& group : comparison.groups()) {
    Json one;
    one["jobs"] = group.label();
    one["numbers"] = Json::array();
    for (const v1::NumberDifference& number : group.numbers()) {
      one["numbers"].push_back(
          {{"name", number.name()},
           {"a", summary_json(number.a())},
           {"b", summary_json(number.b())},
           {"difference",
            number.has_difference() ? test_json(number.difference()) : Json(nullptr)}});
    }
    one["classes"] = Json::array();
    for (const v1::ClassDifference& item : group.classes())
      one["classes"].push_back({{"class", item.class_index()}, {"a", item.a()}, {"b", item.b()}});
    one["layers"] = Json::array();
    for (const v1::LayerDifference& layer : group.layers()) {
      one["layers"].push_back({{"layer", layer.layer()},
                               {"part", layer.part()},
                               {"a", layer_side_json(layer.a())},
                               {"b", layer_side_json(layer.b())}});
    }
    json["groups"].push_back(one);
  }
  return json_text(json);
}

}  // namespace

std::string render_comparison(const v1::CompareResponse& comparison, OutputMode mode,
                              const Style& style) {
  switch (mode) {
    case OutputMode::kText:
      return comparison_text(comparison, style);
    case OutputMode::kTsv:
      return comparison_tsv(comparison);
    case OutputMode::kJson:
      return comparison_json(comparison);
  }
  return {};
}

}  // namespace bitrung::cli
