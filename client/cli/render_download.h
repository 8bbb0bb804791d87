// The one line that shows a download. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "client/cli/output.h"

namespace bitrung::cli {

struct Download {
  std::string name;
  std::uint64_t done_bytes = 0;
  std::optional<std::uint64_t> total_bytes;
  double bytes_per_second = 0;  // 0 while unknown.
};

// Not wider than the terminal.
std::string download_line(const Download& download, const Terminal& terminal);

// "▕███░░▏": `width` characters in all, at least 3.
std::string progress_bar(double share, std::size_t width, const Style& style);

}  // namespace bitrung::cli
