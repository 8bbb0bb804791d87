#include "client/cli/live_display.h"

#include <fmt/format.h>

#include <ostream>

namespace bitrung::cli {
namespace {

constexpr std::string_view kHideCursor = "\x1b[?25l";
constexpr std::string_view kShowCursor = "\x1b[?25h";
constexpr std::string_view kClearToLineEnd = "\x1b[K";
constexpr std::string_view kClearBelow = "\x1b[J";

}  // namespace

void LiveDisplay::draw(const std::vector<std::string>& lines) {
  if (!terminal_.interactive || lines == lines_) return;
  // One write per picture, lines overwritten in place: nothing flickers.
  std::string picture;
  if (!cursor_hidden_) picture += kHideCursor;
  cursor_hidden_ = true;
  if (!lines_.empty()) picture += fmt::format("\x1b[{}A\r", lines_.size());
  for (const std::string& line : lines) {
    picture += line;
    picture += kClearToLineEnd;
    picture += '\n';
  }
  if (lines.size() < lines_.size()) picture += kClearBelow;
  lines_ = lines;
  err_ << picture << std::flush;
}

void LiveDisplay::erase() {
  if (lines_.empty()) return;
  err_ << fmt::format("\x1b[{}A\r", lines_.size()) << kClearBelow;
  lines_.clear();
}

void LiveDisplay::note(std::string_view line) {
  const std::vector<std::string> lines = lines_;
  erase();
  err_ << line << '\n';
  draw(lines);
  err_ << std::flush;
}

void LiveDisplay::show_cursor() {
  if (cursor_hidden_) err_ << kShowCursor;
  cursor_hidden_ = false;
  err_ << std::flush;
}

void LiveDisplay::close() {
  lines_.clear();
  show_cursor();
}

void LiveDisplay::clear() {
  erase();
  show_cursor();
}

}  // namespace bitrung::cli
