#include "db/points_text.h"

#include <array>
#include <charconv>
#include <cmath>
#include <system_error>

#include "db/base/check.h"

namespace bitrung::db {

void append_point(std::string& text, std::int64_t step, double value) {
  BITRUNG_CHECK(std::isfinite(value));
  std::array<char, 64> buffer;  // 20 characters of a step, 24 of a value, 4 around them.
  char* end = buffer.data();
  if (!text.empty()) *end++ = ',';
  *end++ = '[';
  end = std::to_chars(end, buffer.data() + buffer.size(), step).ptr;
  *end++ = ',';
  end = std::to_chars(end, buffer.data() + buffer.size(), value).ptr;
  *end++ = ']';
  text.append(buffer.data(), end);
}

bool parse_points(std::string_view text, std::vector<std::pair<std::int64_t, double>>& points) {
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto take = [&](char wanted) { return at != end && *at++ == wanted; };
  const auto take_number = [&](auto& number) {
    const auto [next, error] = std::from_chars(at, end, number);
    at = next;
    return error == std::errc();
  };
  while (at != end) {
    std::int64_t step = 0;
    double value = 0;
    if (!take('[') || !take_number(step) || !take(',') || !take_number(value) || !take(']'))
      return false;
    points.emplace_back(step, value);
    if (at != end && (!take(',') || at == end)) return false;
  }
  return true;
}

}  // namespace bitrung::db
