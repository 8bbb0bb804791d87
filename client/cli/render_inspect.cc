#include "client/cli/render_inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "client/cli/json_shapes.h"
#include "client/cli/words.h"
#include "worker/train/nn/architecture.h"

namespace bitrung::cli {
namespace {

constexpr std::uint64_t kFullBits = 32;
constexpr std::size_t kMatrixClassesMax = 12;  // Wider ones are listed by their largest numbers.
constexpr std::size_t kMistakesShownMax = 20;
constexpr std::size_t kClassesShownMax = 20;
constexpr std::size_t kNamesListedMax = 30;

const std::array<std::string_view, 10> kCifar10{"airplane", "automobile", "bird",  "cat",  "deer",
                                                "dog",      "frog",       "horse", "ship", "truck"};

std::string class_name(const std::string& dataset, std::size_t index, std::size_t count) {
  if (dataset == "cifar10" && count == kCifar10.size()) return std::string(kCifar10.at(index));
  return fmt::format("{}", index);
}

// The member, or null; never throws.
const Json& at(const Json& object, const char* key) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

std::optional<double> number(const Json& value) {
  return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
}

std::string text(const Json& value) {
  return value.is_string() ? printable(value.get<std::string>()) : std::string();
}

// Values of a list of numbers; what is none counts as nothing.
std::vector<double> numbers(const Json& list) {
  std::vector<double> values;
  if (!list.is_array()) return values;
  for (const Json& value : list) values.push_back(number(value).value_or(0));
  return values;
}

// 40812544 as "40.8 M".
std::string format_large(double value) {
  static constexpr std::array<std::string_view, 6> kUnits{"", " k", " M", " G", " T", " P"};
  std::size_t unit = 0;
  while (std::abs(value) >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}{}", value, kUnits.at(unit));
}

// One character per bin, high where there are many; an empty bin is empty.
std::string histogram(const Json& bins, const Style& style) {
  static constexpr std::array<std::string_view, 9> kBlocks{" ", "▁", "▂", "▃", "▄",
                                                           "▅", "▆", "▇", "█"};
  static constexpr std::array<std::string_view, 9> kAscii{" ", "_", ".", "-", "=",
                                                          "+", "*", "#", "@"};
  const std::vector<double> counts = numbers(at(bins, "counts"));
  if (counts.empty()) return {};
  const double most = std::ranges::max(counts);
  std::string line;
  for (const double count : counts) {
    // Whatever occurs is seen.
    const auto level =
        count > 0 && most > 0
            ? std::clamp<std::size_t>(static_cast<std::size_t>(std::ceil(count / most * 8)), 1, 8)
            : std::size_t{0};
    line += style.unicode ? kBlocks.at(level) : kAscii.at(level);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

struct Layer {
  std::string name;
  const Json* json;
};

absl::StatusOr<std::vector<Layer>> layers_of(const Json& report, const std::string& pattern) {
  std::vector<Layer> all;
  const Json& list = at(report, "layers");
  if (list.is_array()) {
    for (const Json& layer : list) all.push_back({text(at(layer, "name")), &layer});
  }
  if (pattern.empty()) return all;
  std::vector<Layer> chosen;
  for (const Layer& layer : all) {
    if (train::matches(pattern, layer.name)) chosen.push_back(layer);
  }
  if (!chosen.empty()) return chosen;
  std::string names;
  for (std::size_t i = 0; i < std::min(all.size(), kNamesListedMax); ++i)
    names += fmt::format("{}{}", i == 0 ? "" : ", ", all[i].name);
  if (all.size() > kNamesListedMax) names += ", ...";
  return absl::NotFoundError(fmt::format(
      "no layer is named like \"{}\"; * stands for any text, and there are {}", pattern, names));
}

// More values than the bits can tell apart: then nothing was quantized, or not by this many bits.
bool too_many_levels(const Json& tensor) {
  const auto bits = number(at(tensor, "bits"));
  const auto levels = number(at(tensor, "levels"));
  return bits && levels && *bits < 31 && *levels > std::exp2(*bits);
}

Cell number_cell(const Json& value, const Style& style, const char* format = "{:.4g}") {
  const auto known = number(value);
  if (!known) return {std::string(style.none()), Tone::kFaint};
  return fmt::format(fmt::runtime(format), *known);
}

std::vector<Cell> tensor_cells(const Json& tensor, const Style& style) {
  std::vector<Cell> cells;
  const auto bits = number(at(tensor, "bits"));
  cells.push_back(bits && *bits < static_cast<double>(kFullBits)
                      ? Cell(fmt::format("{:.0f}", *bits), Tone::kStrong)
                      : number_cell(at(tensor, "bits"), style, "{:.0f}"));
  Cell levels = number_cell(at(tensor, "levels"), style, "{:.0f}");
  if (too_many_levels(tensor)) levels = {levels.text + " !", Tone::kBad};
  cells.push_back(std::move(levels));
  cells.push_back(number_cell(at(tensor, "min"), style));
  cells.push_back(number_cell(at(tensor, "max"), style));
  const auto low = number(at(tensor, "scale_min"));
  const auto high = number(at(tensor, "scale_max"));
  if (!number(at(tensor, "scale")) && low && high) {
    cells.emplace_back(fmt::format("{:.3g}..{:.3g}", *low, *high));
  } else {
    cells.push_back(number_cell(at(tensor, "scale"), style));
  }
  cells.push_back(number_cell(at(tensor, "zero_point"), style));
  cells.push_back(number_cell(at(tensor, "sqnr_db"), style, "{:.2f}"));
  const auto saturated = number(at(tensor, "saturated"));
  cells.push_back(saturated ? Cell(fmt::format("{:.1f} %", *saturated * 100))
                            : Cell(std::string(style.none()), Tone::kFaint));
  cells.push_back(number_cell(at(tensor, "entropy"), style, "{:.2f}"));
  cells.emplace_back(histogram(at(tensor, "histogram"), style), Tone::kBusy);
  return cells;
}

std::string layer_table(const std::vector<Layer>& layers, const char* part, const Style& style) {
  Table table({{"layer"},
               {"bits", Align::kRight},
               {"levels", Align::kRight},
               {"min", Align::kRight},
               {"max", Align::kRight},
               {"scale", Align::kRight},
               {"zero", Align::kRight},
               {"SQNR dB", Align::kRight},
               {"saturated", Align::kRight},
               {"entropy", Align::kRight},
               {"real values"}});
  bool broken = false;
  for (const Layer& layer : layers) {
    const Json& tensor = at(*layer.json, part);
    if (!tensor.is_object()) continue;
    broken |= too_many_levels(tensor);
    std::vector<Cell> cells{Cell(layer.name)};
    for (Cell& cell : tensor_cells(tensor, style)) cells.push_back(std::move(cell));
    table.add_row(std::move(cells));
  }
  if (table.empty()) {
    return fmt::format("\n  {}\n", style.paint(Tone::kFaint, fmt::format("no {} measured", part)));
  }
  std::string out =
      fmt::format("\n  {}\n", style.paint(Tone::kStrong, part)) + table.text(style, 2);
  if (broken) {
    out += fmt::format(
        "  {}\n", style.paint(Tone::kBad, "!: more values than that many bits can tell apart"));
  }
  return out;
}

std::string summary_text(const Json& report, const Style& style) {
  std::string out;
  const auto line = [&](const std::vector<std::pair<std::string, std::string>>& parts) {
    std::string joined;
    for (const auto& [label, value] : parts) {
      if (value.empty()) continue;
      joined += fmt::format("{}{} {}", joined.empty() ? "  " : "   ",
                            style.paint(Tone::kFaint, label), value);
    }
    if (!joined.empty()) out += joined + "\n";
  };
  const auto shown = [](const Json& value, const char* format) {
    const auto known = number(value);
    return known ? fmt::format(fmt::runtime(format), *known) : std::string();
  };
  for (const auto& [key, label] :
       {std::pair("evaluation", "test"), std::pair("validation", "validation")}) {
    const Json& evaluation = at(report, key);
    if (!evaluation.is_object()) continue;
    const auto images = number(at(evaluation, "images"));
    line({{fmt::format("{} top-1", label), shown(at(evaluation, "top1"), "{:.2f} %")},
          {"top-5", shown(at(evaluation, "top5"), "{:.2f} %")},
          {"NLL", shown(at(evaluation, "nll"), "{:.4f}")},
          {"Brier", shown(at(evaluation, "brier"), "{:.4f}")},
          {"ECE", shown(at(evaluation, "ece"), "{:.4f}")},
          {"images", images ? format_count(static_cast<std::uint64_t>(std::max(0.0, *images)))
                            : std::string()}});
  }
  const Json& network = at(report, "network");
  const auto large = [&](const char* key) {
    const auto value = number(at(network, key));
    return value ? format_large(*value) : std::string();
  };
  const auto bytes = [&](const char* key) {
    const auto value = number(at(network, key));
    return value ? format_bytes(static_cast<std::uint64_t>(std::max(0.0, *value))) : std::string();
  };
  line({{"parameters", large("parameters")},
        {"MACs", large("macs")},
        {"bit operations", large("bit_operations")},
        {"float", bytes("bytes_float")},
        {"packed", bytes("bytes_packed")},
        {"compression", shown(at(network, "compression"), "{:.2f} x")}});
  if (const Json& backend = at(report, "backend"); backend.is_string()) {
    const Json& reason = at(report, "backend_reason");
    line({{"backend",
           printable(backend.get<std::string>()) +
               (reason.is_string() ? fmt::format(" ({})", printable(reason.get<std::string>()))
                                   : std::string())},
          {"threads", shown(at(report, "threads"), "{:.0f}")}});
  }
  return out;
}

std::string confusion_text(const Json& report, const std::string& dataset, const Style& style) {
  const Json& evaluation = at(report, "evaluation");
  const std::vector<double> accuracies = numbers(at(evaluation, "per_class"));
  std::vector<std::vector<double>> matrix;
  if (at(evaluation, "confusion").is_array()) {
    for (const Json& row : at(evaluation, "confusion")) matrix.push_back(numbers(row));
  }
  const std::size_t classes = accuracies.size();
  const bool square =
      matrix.size() == classes && classes > 0 &&
      std::ranges::all_of(matrix, [&](const auto& row) { return row.size() == classes; });
  std::string out;
  if (square && classes <= kMatrixClassesMax) {
    out += fmt::format("\n  {}{}\n", style.paint(Tone::kStrong, "classes"),
                       style.paint(Tone::kFaint,
                                   ": accuracy in %, and how many images of a line "
                                   "were taken for the class of a column"));
    std::vector<Table::Column> columns{{"class"}, {"accuracy", Align::kRight}};
    for (std::size_t i = 0; i < classes; ++i)
      columns.push_back({class_name(dataset, i, classes), Align::kRight});
    Table table(std::move(columns));
    for (std::size_t i = 0; i < classes; ++i) {
      std::vector<Cell> cells{Cell(class_name(dataset, i, classes)),
                              Cell(format_percent(accuracies[i]), Tone::kStrong)};
      for (std::size_t j = 0; j < classes; ++j) {
        cells.emplace_back(fmt::format("{:.0f}", matrix[i][j]), i == j              ? Tone::kGood
                                                                : matrix[i][j] == 0 ? Tone::kFaint
                                                                                    : Tone::kPlain);
      }
      table.add_row(std::move(cells));
    }
    return out + table.text(style, 2);
  }
  if (classes == 0) {
    return fmt::format("\n  {}\n", style.paint(Tone::kFaint, "no accuracy by class measured"));
  }
  std::vector<std::size_t> order(classes);
  for (std::size_t i = 0; i < classes; ++i) order[i] = i;
  std::ranges::stable_sort(order, {}, [&](std::size_t i) { return accuracies[i]; });
  out += fmt::format("\n  {}\n", style.paint(Tone::kStrong, "classes with the lowest accuracy"));
  Table worst({{"class"}, {"accuracy", Align::kRight}});
  for (std::size_t i = 0; i < std::min(classes, kClassesShownMax); ++i) {
    worst.add_row({class_name(dataset, order[i], classes), format_percent(accuracies[order[i]])});
  }
  out += worst.text(style, 2);
  if (!square) return out;
  struct Mistake {
    double count;
    std::size_t is;
    std::size_t taken_for;
  };
  std::vector<Mistake> mistakes;
  for (std::size_t i = 0; i < classes; ++i) {
    for (std::size_t j = 0; j < classes; ++j) {
      if (i != j && matrix[i][j] > 0) mistakes.push_back({matrix[i][j], i, j});
    }
  }
  std::ranges::stable_sort(mistakes, std::greater(), &Mistake::count);
  out += fmt::format("\n  {}\n", style.paint(Tone::kStrong, "most frequent mistakes"));
  Table table({{"class"}, {"taken for"}, {"images", Align::kRight}});
  for (std::size_t i = 0; i < std::min(mistakes.size(), kMistakesShownMax); ++i) {
    table.add_row({class_name(dataset, mistakes[i].is, classes),
                   class_name(dataset, mistakes[i].taken_for, classes),
                   fmt::format("{:.0f}", mistakes[i].count)});
  }
  return out + table.text(style, 2);
}

std::string field(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.is_null() ? std::string() : value.dump();
}

std::string joined(const Json& list) {
  std::string out;
  if (!list.is_array()) return out;
  for (const Json& value : list) out += fmt::format("{}{}", out.empty() ? "" : ",", field(value));
  return out;
}

std::string layers_tsv(const std::vector<Layer>& layers, bool activations) {
  std::string out =
      tsv_line({"layer",        "part",     "kind",      "role",      "shape",
                "macs",         "bits",     "method",    "levels",    "too_many_levels",
                "min",          "max",      "scale",     "scale_min", "scale_max",
                "zero_point",   "sqnr_db",  "saturated", "entropy",   "histogram_from",
                "histogram_to", "histogram"});
  for (const Layer& layer : layers) {
    for (const char* part : {"weights", "activations"}) {
      const Json& tensor = at(*layer.json, part);
      if (!tensor.is_object() || (!activations && std::string_view(part) == "activations"))
        continue;
      const Json& bins = at(tensor, "histogram");
      out += tsv_line({layer.name,
                       part,
                       field(at(*layer.json, "kind")),
                       field(at(*layer.json, "role")),
                       joined(at(*layer.json, "shape")),
                       field(at(*layer.json, "macs")),
                       field(at(tensor, "bits")),
                       field(at(tensor, "method")),
                       field(at(tensor, "levels")),
                       too_many_levels(tensor) ? "1" : "0",
                       field(at(tensor, "min")),
                       field(at(tensor, "max")),
                       field(at(tensor, "scale")),
                       field(at(tensor, "scale_min")),
                       field(at(tensor, "scale_max")),
                       field(at(tensor, "zero_point")),
                       field(at(tensor, "sqnr_db")),
                       field(at(tensor, "saturated")),
                       field(at(tensor, "entropy")),
                       field(at(bins, "from")),
                       field(at(bins, "to")),
                       joined(at(bins, "counts"))});
    }
  }
  return out;
}

std::string confusion_tsv(const Json& report, const std::string& dataset) {
  const Json& evaluation = at(report, "evaluation");
  const Json& accuracies = at(evaluation, "per_class");
  const Json& matrix = at(evaluation, "confusion");
  std::string out = tsv_line({"class", "name", "accuracy", "taken_for"});
  for (std::size_t i = 0; accuracies.is_array() && i < accuracies.size(); ++i) {
    out += tsv_line({fmt::format("{}", i), class_name(dataset, i, accuracies.size()),
                     field(accuracies[i]),
                     matrix.is_array() && i < matrix.size() ? joined(matrix[i]) : std::string()});
  }
  return out;
}

}  // namespace

absl::StatusOr<std::string> render_inspection(const v1::GetReportResponse& response,
                                              const std::string& experiment,
                                              const InspectOptions& options, OutputMode mode,
                                              const Style& style) {
  const v1::Job& job = response.job();
  const Json report = Json::parse(response.report_json(), nullptr, false);
  if (!report.is_object()) {
    return absl::DataLossError(fmt::format(
        "the report of {} is no JSON object; the server's copy is damaged", job.name()));
  }
  auto layers = layers_of(report, options.layer_pattern);
  if (!layers.ok()) return layers.status();
  if (mode == OutputMode::kJson) {
    Json json;
    json["experiment"] = experiment;
    json["job"] = job.name();
    json["model"] = job.model();
    json["dataset"] = job.dataset();
    json["method"] = job.method();
    json["bits"] = {{"weights", job.bits().weights()}, {"activations", job.bits().activations()}};
    json["report"] = report;
    if (!options.layer_pattern.empty()) {
      Json chosen = Json::array();
      for (const Layer& layer : *layers) chosen.push_back(*layer.json);
      json["report"]["layers"] = std::move(chosen);
    }
    return json_text(json);
  }
  if (mode == OutputMode::kTsv) {
    return options.confusion ? confusion_tsv(report, job.dataset())
                             : layers_tsv(*layers, options.activations);
  }
  std::string out = fmt::format(
      "{}  {}\n", style.paint(Tone::kStrong, fmt::format("{}/{}", experiment, job.name())),
      style.paint(Tone::kFaint,
                  fmt::format("{1} {0} {2} {0} {3} {0} {4} bits", style.dot(), job.model(),
                              job.dataset(), job.method(), bits_label(job.bits()))));
  out += summary_text(report, style);
  out += layer_table(*layers, "weights", style);
  if (options.activations) out += layer_table(*layers, "activations", style);
  if (options.confusion) out += confusion_text(report, job.dataset(), style);
  return out;
}

}  // namespace bitrung::cli
