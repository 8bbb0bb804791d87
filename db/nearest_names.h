// Finds the names that a mistyped name may have meant. Pure, any thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace bitrung::db {

// Up to three of `known` that differ from `wanted` by few typing errors (a character missing,
// added, wrong, or two exchanged; upper and lower case count as equal), nearest first.
std::vector<std::string> nearest_names(std::string_view wanted,
                                       const std::vector<std::string>& known);

// `did you mean "bit-ladder"? ` with a space at the end, or nothing if no name is near.
std::string did_you_mean(std::string_view wanted, const std::vector<std::string>& known);

}  // namespace bitrung::db
