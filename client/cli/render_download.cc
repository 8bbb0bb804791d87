#include "client/cli/render_download.h"

#include <fmt/format.h>

#include <algorithm>

namespace bitrung::cli {
namespace {

constexpr std::size_t kBarWidth = 24;

}  // namespace

std::string progress_bar(double share, std::size_t width, const Style& style) {
  const std::size_t inner = std::max<std::size_t>(width, 3) - 2;
  const auto filled =
      static_cast<std::size_t>(std::clamp(share, 0.0, 1.0) * static_cast<double>(inner) + 0.5);
  std::string text(style.unicode ? "▕" : "[");
  for (std::size_t i = 0; i < inner; ++i) {
    if (style.unicode) {
      text += i < filled ? "█" : "░";
    } else {
      text += i < filled ? "#" : ".";
    }
  }
  text += style.unicode ? "▏" : "]";
  return text;
}

std::string download_line(const Download& download, const Terminal& terminal) {
  std::string numbers = format_bytes(download.done_bytes);
  std::string bar;
  if (download.total_bytes && *download.total_bytes > 0) {
    const double share =
        static_cast<double>(download.done_bytes) / static_cast<double>(*download.total_bytes);
    bar =
        fmt::format("  {} {:3.0f} %", progress_bar(share, kBarWidth, terminal.style), share * 100);
    numbers += fmt::format(" of {}", format_bytes(*download.total_bytes));
  }
  if (download.bytes_per_second > 0) {
    numbers +=
        fmt::format("  {}/s", format_bytes(static_cast<std::uint64_t>(download.bytes_per_second)));
    if (download.total_bytes && *download.total_bytes > download.done_bytes) {
      numbers += fmt::format(
          "  {} left",
          format_duration(static_cast<double>(*download.total_bytes - download.done_bytes) /
                          download.bytes_per_second));
    }
  }
  std::string line = fmt::format("{}{}  {}", download.name, bar, numbers);
  if (display_width(line) > terminal.width) line = fmt::format("{}  {}", download.name, numbers);
  return fit(line, terminal.width, terminal.style);
}

}  // namespace bitrung::cli
