// Small helpers for messages: quoting, lists, numbers with separators, the nearest known word. Pure
// functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace bitrung::client {

// The text in double quotes, shortened to a readable length; quotes and control characters escaped.
std::string in_quotes(std::string_view text);

// "a, b and c"; empty for nothing.
std::string listed(std::span<const std::string> words, std::string_view last_joint);

// 1048576 as "1,048,576".
std::string with_separators(std::uint64_t value);

// The candidate with the fewest single edits (insert, delete, replace, swap of neighbours); nothing
// if even that one is too far off to be meant.
std::optional<std::string> nearest(std::string_view word, std::span<const std::string> candidates);

}  // namespace bitrung::client
