// Names from files in messages: printable and short, whatever the file holds. Pure.
#pragma once

#include <string>
#include <string_view>

namespace bitrung::interop {

inline std::string in_quotes(std::string_view text) {
  constexpr std::size_t kShownMax = 80;
  std::string result = "\"";
  for (const char c : text.substr(0, kShownMax)) result += c >= ' ' && c <= '~' ? c : '?';
  return result + (text.size() > kShownMax ? "…\"" : "\"");
}

}  // namespace bitrung::interop
