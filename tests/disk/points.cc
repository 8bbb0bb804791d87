#include "tests/disk/points.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

#include <gtest/gtest.h>

namespace bitrung::disk {

std::size_t points_wanted() {
  const char* text = std::getenv("BITRUNG_CRASH_POINTS");
  if (text == nullptr) return 500;
  std::size_t points = 0;
  const std::string_view view(text);
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), points);
  if (error != std::errc() || end != view.data() + view.size() || points == 0) {
    ADD_FAILURE() << "BITRUNG_CRASH_POINTS=" << text << " is no number of points";
    return 0;
  }
  return points;
}

}  // namespace bitrung::disk
