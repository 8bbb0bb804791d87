#include "worker/agent/types.h"

#include <charconv>

#include <fmt/format.h>

namespace bitrung::agent {
namespace {

template <typename Integer>
std::optional<Integer> parse_positive(std::string_view text) {
  Integer value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value <= 0) return std::nullopt;
  return value;
}

// Bytes of the valid UTF-8 character at the start of the text; 0 if there is none.
std::size_t character_size(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto continues = [&](std::size_t i) { return i < text.size() && (byte(i) & 0xC0) == 0x80; };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return continues(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    if (!continues(1) || !continues(2)) return 0;
    if (first == 0xE0 && byte(1) < 0xA0) return 0;  // Overlong.
    if (first == 0xED && byte(1) > 0x9F) return 0;  // Surrogate.
    return 3;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    if (!continues(1) || !continues(2) || !continues(3)) return 0;
    if (first == 0xF0 && byte(1) < 0x90) return 0;  // Overlong.
    if (first == 0xF4 && byte(1) > 0x8F) return 0;  // Beyond U+10FFFF.
    return 4;
  }
  return 0;
}

}  // namespace

std::string to_string(const AttemptKey& key) {
  return fmt::format("{}-{}", number(key.job), number(key.attempt));
}

std::optional<AttemptKey> parse_attempt_key(std::string_view text) {
  const std::size_t dash = text.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto job = parse_positive<std::int64_t>(text.substr(0, dash));
  const auto attempt = parse_positive<std::uint32_t>(text.substr(dash + 1));
  if (!job || !attempt) return std::nullopt;
  return AttemptKey{JobId{*job}, AttemptNumber{*attempt}};
}

std::string to_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const std::size_t size = character_size(text);
    if (size == 0) {
      valid += "\xEF\xBF\xBD";
      text.remove_prefix(1);
    } else {
      valid += text.substr(0, size);
      text.remove_prefix(size);
    }
  }
  return valid;
}

std::vector<std::string> split_line(std::string_view text) {
  const std::string valid = to_utf8(text);
  std::string_view rest = valid;
  std::vector<std::string> pieces;
  do {
    std::size_t size = std::min(rest.size(), kLineBytesMax);
    while (size < rest.size() && (static_cast<unsigned char>(rest[size]) & 0xC0) == 0x80) --size;
    pieces.emplace_back(rest.substr(0, size));
    rest.remove_prefix(size);
  } while (!rest.empty());
  return pieces;
}

}  // namespace bitrung::agent
