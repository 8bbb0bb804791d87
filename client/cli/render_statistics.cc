#include "client/cli/render_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace bitrung::cli {
namespace {

// The usual threshold; it decides a colour and nothing else.
constexpr double kSignificant = 0.05;
constexpr double kSmallestShown = 0.001;

struct NamedLook {
  std::string_view metric;
  MetricLook look;
};
constexpr std::array kLooks = {
    NamedLook{"top1", {.title = "test accuracy in %", .digits = 2, .lower_is_better = false}},
    NamedLook{"top5", {.title = "top-5 test accuracy in %", .digits = 2, .lower_is_better = false}},
    NamedLook{"nll",
              {.title = "negative log-likelihood on the test set, lower is better",
               .digits = 4,
               .lower_is_better = true}},
    NamedLook{"brier",
              {.title = "Brier score on the test set, lower is better",
               .digits = 4,
               .lower_is_better = true}},
    NamedLook{"ece",
              {.title = "expected calibration error on the test set, lower is better",
               .digits = 4,
               .lower_is_better = true}},
    NamedLook{"validation",
              {.title = "validation accuracy in %", .digits = 2, .lower_is_better = false}},
};

struct NoTestWord {
  std::string_view reason;  // As the server says it.
  std::string_view word;
};
constexpr std::array kNoTestWords = {NoTestWord{"fewer than 2 pairs", "1 pair"},
                                     NoTestWord{"the pairs are equal", "equal"},
                                     NoTestWord{"all differences are equal", "no spread"}};

std::string_view no_test_word(const v1::PairedTest& test, const Style& style) {
  const auto found = std::ranges::find(kNoTestWords, test.no_test(), &NoTestWord::reason);
  return found == kNoTestWords.end() ? style.none() : found->word;
}

}  // namespace

MetricLook look_of(std::string_view metric) {
  const auto found = std::ranges::find(kLooks, metric, &NamedLook::metric);
  if (found != kLooks.end()) return found->look;
  return {.title = metric, .digits = 4, .lower_is_better = false};
}

std::string format_metric(double value, const MetricLook& look) {
  return fmt::format("{:.{}f}", value, look.digits);
}

std::string format_difference(double value, const MetricLook& look) {
  std::string text = fmt::format("{:+.{}f}", value, look.digits);
  if (text.find_first_not_of("+-0.") == std::string::npos) text.erase(0, 1);
  return text;
}

std::string mean_text(const v1::Summary& summary, const MetricLook& look, const Style& style) {
  if (!summary.has_mean()) return {};
  std::string text = format_metric(summary.mean(), look);
  if (summary.has_sd())
    text += fmt::format(" {} {}", style.plus_minus(), format_metric(summary.sd(), look));
  return text;
}

std::string interval_text(const v1::Summary& summary, const MetricLook& look, const Style& style) {
  if (!summary.has_low() || !summary.has_high()) return {};
  return fmt::format("{}{}", style.plus_minus(),
                     format_metric((summary.high() - summary.low()) / 2, look));
}

Cell difference_cell(const v1::PairedTest& test, const MetricLook& look, const Style& style) {
  const v1::Summary& difference = test.difference();
  if (!difference.has_mean()) return {};
  std::string text = format_difference(difference.mean(), look);
  const bool up = text.front() == '+';
  const bool down = text.front() == '-';
  if (difference.has_sd() && test.no_test().empty())
    text += fmt::format(" {} {}", style.plus_minus(), format_metric(difference.sd(), look));
  const bool evidence = !test.has_p_value() || test.p_value() < kSignificant;
  Tone tone = Tone::kFaint;
  if (evidence && up) tone = look.lower_is_better ? Tone::kBad : Tone::kGood;
  if (evidence && down) tone = look.lower_is_better ? Tone::kGood : Tone::kBad;
  return {std::move(text), tone};
}

Cell p_value_cell(const v1::PairedTest& test, const Style& style) {
  if (!test.difference().has_mean()) return {};
  if (!test.has_p_value()) return {std::string(no_test_word(test, style)), Tone::kFaint};
  const double p = test.p_value();
  const Tone tone = p < kSignificant ? Tone::kStrong : Tone::kPlain;
  if (p < kSmallestShown) return {fmt::format("<{}", kSmallestShown), tone};
  return {fmt::format("{:.3f}", p), tone};
}

void note_no_test(const v1::PairedTest& test, std::set<std::string>& notes) {
  if (test.has_p_value() || test.no_test().empty()) return;
  notes.insert(fmt::format("{} ({})", no_test_word(test, {}), test.no_test()));
}

std::string no_test_line(const std::set<std::string>& notes) {
  std::string line;
  for (const std::string& note : notes)
    line += fmt::format("{} {}", line.empty() ? "no p:" : ",", note);
  return line;
}

Json summary_json(const v1::Summary& summary) {
  Json json;
  json["count"] = summary.count();
  json["mean"] = summary.has_mean() ? Json(summary.mean()) : Json(nullptr);
  json["sd"] = summary.has_sd() ? Json(summary.sd()) : Json(nullptr);
  json["low"] = summary.has_low() ? Json(summary.low()) : Json(nullptr);
  json["high"] = summary.has_high() ? Json(summary.high()) : Json(nullptr);
  return json;
}

Json test_json(const v1::PairedTest& test) {
  Json json = summary_json(test.difference());
  json["t"] = test.has_t() ? Json(test.t()) : Json(nullptr);
  json["p_value"] = test.has_p_value() ? Json(test.p_value()) : Json(nullptr);
  json["no_test"] = test.no_test().empty() ? Json(nullptr) : Json(test.no_test());
  json["pairs"] = Json::array();
  for (const v1::Pair& pair : test.pairs())
    json["pairs"].push_back({{"seed", pair.seed()}, {"difference", pair.difference()}});
  return json;
}

Json bits_json(const v1::Bits& bits) {
  return {{"weights", bits.weights()}, {"activations", bits.activations()}};
}

std::string number_field(bool has, double value) {
  return has ? fmt::format("{}", value) : std::string();
}

}  // namespace bitrung::cli
