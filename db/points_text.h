// The points of a series as they lie in the database: "[0,2.5],[100,1.75]", a JSON list without its
// outer brackets. Numbers are written with the fewest digits that give the same number back. Pure
// functions, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bitrung::db {

// Adds a point, after a comma unless the text is empty. The value is finite.
void append_point(std::string& text, std::int64_t step, double value);

// Adds the points of a text to `points`. False if the text is not such a list; what was read until
// then stays.
bool parse_points(std::string_view text, std::vector<std::pair<std::int64_t, double>>& points);

}  // namespace bitrung::db
