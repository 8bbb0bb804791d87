// Text for people: numbers, durations, widths, colours, the nearest word.
//
// Pure functions of their arguments; nothing here knows whether a terminal is there. All texts are
// UTF-8; a width is a number of code points, which is exact for what bitrung prints itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace bitrung::cli {

// What a piece of text means; the style decides how that looks.
enum class Tone { kPlain, kStrong, kFaint, kGood, kBad, kBusy, kWarning };

// How text may be decorated: colour by ANSI sequences, characters beyond ASCII.
struct Style {
  bool colour = false;
  bool unicode = false;

  std::string paint(Tone tone, std::string_view text) const;
  // "…" and "–", or what stands for them in ASCII.
  std::string_view ellipsis() const { return unicode ? "…" : "~"; }
  std::string_view none() const { return unicode ? "–" : "-"; }
  std::string_view dot() const { return unicode ? "·" : "|"; }
  std::string_view arrow() const { return unicode ? "→" : "->"; }
  std::string_view plus_minus() const { return unicode ? "±" : "+-"; }
};

// "0.4s", "42s", "2m03s", "1h02m", "3d04h"; negative and not finite give "?".
std::string format_duration(double seconds);
// 1234567 as "1,234,567".
std::string format_count(std::uint64_t count);
// A percentage with two digits, "61.20".
std::string format_percent(double percent);
// A signed difference with two digits, "+0.31", "-1.20", "0.00".
std::string format_points(double points);
// "512 B", "9.5 KiB", "163 MiB".
std::string format_bytes(std::uint64_t bytes);
// Work as "830 MFLOP", "4.1 TFLOP".
std::string format_flops(double flops);
// A metric's value with at most five significant digits.
std::string format_value(double value);
// How long ago: "now", "42s ago", "3d04h ago".
std::string format_age(std::int64_t now_ms, std::int64_t then_ms);
// "1 job", "2 jobs".
std::string format_plural(std::uint64_t count, std::string_view noun);

// The text without anything that steers a terminal: control characters and escape sequences are
// dropped, tabs become spaces, bytes that are not UTF-8 become '?'.
std::string printable(std::string_view text);

std::size_t display_width(std::string_view text);
// At most `width` wide; a longer text ends in the style's ellipsis.
std::string fit(std::string_view text, std::size_t width, const Style& style);
// Filled with spaces on the right (left-aligned) or on the left (right-aligned); longer texts stay
// as they are.
std::string pad_right(std::string_view text, std::size_t width);
std::string pad_left(std::string_view text, std::size_t width);

// The candidate that a person most likely meant, if any is near enough to be worth saying.
std::optional<std::string> nearest(std::string_view word, std::span<const std::string> candidates);

// One character per value, from the smallest to the largest.
std::string sparkline(std::span<const double> values, const Style& style);

// Joined with the separator.
std::string join(std::span<const std::string> parts, std::string_view separator);

}  // namespace bitrung::cli
