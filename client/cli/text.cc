#include "client/cli/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace bitrung::cli {
namespace {

bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U;
}

// Bytes of the well-formed UTF-8 character at the start of the text; 0 if it is malformed.
std::size_t character_length(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text.front());
  if (lead < 0x80) return 1;
  const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if (!is_continuation(text[i])) return 0;
  }
  return length;
}

// Bytes of the escape sequence at the start of the text, which begins with ESC.
std::size_t escape_length(std::string_view text) {
  if (text.size() < 2) return text.size();
  std::size_t i = 2;
  if (text[1] == '[') {  // CSI: parameters, then one final byte.
    while (i < text.size() && (text[i] < 0x40 || text[i] > 0x7E)) ++i;
    return std::min(i + 1, text.size());
  }
  if (text[1] == ']') {  // OSC: up to BEL or ESC backslash.
    while (i < text.size() && text[i] != '\a' && text[i] != '\x1b') ++i;
    if (i < text.size() && text[i] == '\x1b') ++i;
    return std::min(i + 1, text.size());
  }
  return 2;
}

std::string scaled(double value, double base, std::span<const std::string_view> units) {
  std::size_t unit = 0;
  // 999.5 would be printed as 1000 with no digits, so the next unit begins there.
  while (value >= base - 0.5 && unit + 1 < units.size()) {
    value /= base;
    ++unit;
  }
  if (unit > 0 && value < 9.95) return fmt::format("{:.1f} {}", value, units[unit]);
  return fmt::format("{:.0f} {}", value, units[unit]);
}

// Insertions, deletions, changes and swaps of neighbours that turn one word into the other.
std::size_t edit_distance(std::string_view from, std::string_view to) {
  std::vector<std::vector<std::size_t>> cost(from.size() + 1,
                                             std::vector<std::size_t>(to.size() + 1));
  for (std::size_t i = 0; i <= from.size(); ++i) cost[i][0] = i;
  for (std::size_t j = 0; j <= to.size(); ++j) cost[0][j] = j;
  for (std::size_t i = 1; i <= from.size(); ++i) {
    for (std::size_t j = 1; j <= to.size(); ++j) {
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1,
                             cost[i - 1][j - 1] + (from[i - 1] == to[j - 1] ? 0U : 1U)});
      if (i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[from.size()][to.size()];
}

}  // namespace

std::string Style::paint(Tone tone, std::string_view text) const {
  std::string_view code;
  switch (tone) {
    case Tone::kPlain:
      break;
    case Tone::kStrong:
      code = "1";
      break;
    case Tone::kFaint:
      code = "2";
      break;
    case Tone::kGood:
      code = "32";
      break;
    case Tone::kBad:
      code = "31";
      break;
    case Tone::kBusy:
      code = "36";
      break;
    case Tone::kWarning:
      code = "33";
      break;
  }
  if (!colour || code.empty() || text.empty()) return std::string(text);
  return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e10) return "?";
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  const auto total = static_cast<std::uint64_t>(std::llround(seconds));
  if (total < 60) return fmt::format("{}s", total);
  if (total < 3600) return fmt::format("{}m{:02}s", total / 60, total % 60);
  const std::uint64_t minutes = total / 60;
  if (minutes < 24 * 60) return fmt::format("{}h{:02}m", minutes / 60, minutes % 60);
  const std::uint64_t hours = minutes / 60;
  return fmt::format("{}d{:02}h", hours / 24, hours % 24);
}

std::string format_count(std::uint64_t count) {
  const std::string digits = fmt::format("{}", count);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string format_percent(double percent) {
  return fmt::format("{:.2f}", percent);
}

std::string format_points(double points) {
  const std::string text = fmt::format("{:+.2f}", points);
  // A difference that rounds to nothing has no direction.
  return text == "+0.00" || text == "-0.00" ? "0.00" : text;
}

std::string format_bytes(std::uint64_t bytes) {
  static constexpr std::array<std::string_view, 5> kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  return scaled(static_cast<double>(bytes), 1024, kUnits);
}

std::string format_flops(double flops) {
  static constexpr std::array<std::string_view, 7> kUnits{"FLOP",  "kFLOP", "MFLOP", "GFLOP",
                                                          "TFLOP", "PFLOP", "EFLOP"};
  if (!std::isfinite(flops) || flops < 0) return "?";
  return scaled(flops, 1000, kUnits);
}

std::string format_value(double value) {
  return fmt::format("{:.5g}", value);
}

std::string format_age(std::int64_t now_ms, std::int64_t then_ms) {
  const std::int64_t age_ms = now_ms - then_ms;
  // Clocks of two hosts differ a little; a time just ahead is now.
  if (age_ms < 1000) return "now";
  if (age_ms < 60'000) return fmt::format("{}s ago", age_ms / 1000);
  return format_duration(static_cast<double>(age_ms / 1000)) + " ago";
}

std::string format_plural(std::uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", format_count(count), noun, count == 1 ? "" : "s");
}

std::string printable(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    const auto byte = static_cast<unsigned char>(text.front());
    std::size_t length = 1;
    if (byte == '\x1b') {
      length = escape_length(text);
    } else if (byte == '\t') {
      clean += "    ";
    } else if (byte < 0x20 || byte == 0x7F) {
      // Dropped: carriage returns, bells, backspaces.
    } else {
      length = character_length(text);
      if (length == 0) {
        clean += '?';
        length = 1;
      } else if (length == 2 && byte == 0xC2 && static_cast<unsigned char>(text[1]) < 0xA0) {
        // Dropped: the C1 controls, which some terminals obey like escape sequences.
      } else {
        clean += text.substr(0, length);
      }
    }
    text.remove_prefix(length);
  }
  return clean;
}

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char byte) { return !is_continuation(byte); }));
}

std::string fit(std::string_view text, std::size_t width, const Style& style) {
  if (display_width(text) <= width) return std::string(text);
  if (width == 0) return {};
  std::size_t characters = 0;
  std::size_t end = 0;
  while (end < text.size()) {
    if (!is_continuation(text[end])) {
      if (characters == width - 1) break;
      ++characters;
    }
    ++end;
  }
  return std::string(text.substr(0, end)) + std::string(style.ellipsis());
}

std::string pad_right(std::string_view text, std::size_t width) {
  const std::size_t have = display_width(text);
  return std::string(text) + std::string(have < width ? width - have : 0, ' ');
}

std::string pad_left(std::string_view text, std::size_t width) {
  const std::size_t have = display_width(text);
  return std::string(have < width ? width - have : 0, ' ') + std::string(text);
}

std::optional<std::string> nearest(std::string_view word, std::span<const std::string> candidates) {
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(word.size() / 3, 1) + 1;
  for (const std::string& candidate : candidates) {
    std::size_t distance = edit_distance(word, candidate);
    // "stat" means "status" though two letters are missing.
    if (word.size() >= 2 && candidate.starts_with(word)) distance = 1;
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string sparkline(std::span<const double> values, const Style& style) {
  static constexpr std::array<std::string_view, 8> kBlocks{"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  static constexpr std::array<std::string_view, 8> kAscii{"_", ".", ",", "-", "=", "+", "*", "#"};
  if (values.empty()) return {};
  const auto [low, high] = std::ranges::minmax(values);
  std::string line;
  for (const double value : values) {
    const double share = high > low ? (value - low) / (high - low) : 0.5;
    const auto level = static_cast<std::size_t>(std::clamp(share, 0.0, 1.0) * 7.0 + 0.5);
    line += style.unicode ? kBlocks.at(level) : kAscii.at(level);
  }
  return line;
}

std::string join(std::span<const std::string> parts, std::string_view separator) {
  std::string text;
  for (const std::string& part : parts) {
    if (&part != parts.data()) text += separator;
    text += part;
  }
  return text;
}

}  // namespace bitrung::cli
