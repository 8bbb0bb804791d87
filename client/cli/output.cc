#include "client/cli/output.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "client/cli/environment.h"

namespace bitrung::cli {
namespace {

// The first of the locale variables that is set decides, as in setlocale(3).
bool locale_is_utf8() {
  for (const char* variable : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    if (const auto value = environment(variable)) {
      std::string lower = *value;
      std::ranges::transform(lower, lower.begin(), [](char letter) {
        return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
      });
      return lower.find("utf-8") != std::string::npos || lower.find("utf8") != std::string::npos;
    }
  }
  return false;
}

}  // namespace

Terminal inspect_terminal(int descriptor) {
  Terminal terminal;
  terminal.style.unicode = locale_is_utf8();
  if (::isatty(descriptor) == 0) return terminal;
  const std::string term = environment("TERM").value_or("dumb");
  terminal.interactive = term != "dumb";
  terminal.style.colour = terminal.interactive && !environment("NO_COLOR");
  winsize size{};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
    terminal.width = size.ws_col;
    terminal.height = size.ws_row;
  }
  return terminal;
}

std::string tsv_line(const std::vector<std::string>& fields) {
  std::string line;
  for (const std::string& field : fields) {
    if (&field != fields.data()) line += '\t';
    std::string flat = field;
    std::ranges::replace_if(
        flat, [](char letter) { return letter == '\t' || letter == '\n' || letter == '\r'; }, ' ');
    line += printable(flat);
  }
  line += '\n';
  return line;
}

std::string Table::text(const Style& style, std::size_t indent) const {
  std::vector<std::size_t> widths;
  for (std::size_t column = 0; column < columns_.size(); ++column) {
    std::size_t width = display_width(columns_[column].name);
    for (const auto& row : rows_) {
      if (column < row.size()) width = std::max(width, display_width(row[column].text));
    }
    widths.push_back(width);
  }
  std::string out;
  const auto append_line = [&](const std::vector<Cell>& cells) {
    std::size_t last = 0;  // One past the last cell with text: nothing is padded behind it.
    for (std::size_t column = 0; column < cells.size(); ++column) {
      if (!cells[column].text.empty()) last = column + 1;
    }
    out.append(indent, ' ');
    for (std::size_t column = 0; column < last; ++column) {
      const Cell& cell = cells[column];
      const std::size_t gap = widths[column] - display_width(cell.text);
      if (column > 0) out += "  ";
      if (columns_[column].align == Align::kRight) out.append(gap, ' ');
      out += style.paint(cell.tone, cell.text);
      if (columns_[column].align == Align::kLeft && column + 1 < last) out.append(gap, ' ');
    }
    out += '\n';
  };
  std::vector<Cell> header;
  for (const Column& column : columns_) header.emplace_back(column.name, Tone::kFaint);
  append_line(header);
  for (const auto& row : rows_) append_line(row);
  return out;
}

}  // namespace bitrung::cli
