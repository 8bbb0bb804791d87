// Where output goes and in which form: text for people on a terminal, tab-separated on a pipe, JSON
// on request.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

#include "client/cli/text.h"

namespace bitrung::cli {

enum class OutputMode { kText, kTsv, kJson };

// What is known of a stream's reader.
struct Terminal {
  bool interactive = false;  // A terminal that understands cursor movement.
  std::size_t width = 80;
  std::size_t height = 24;
  Style style;
};

// Of descriptor 1 or 2, with NO_COLOR, TERM and the locale taken into account.
Terminal inspect_terminal(int descriptor);

// The two streams of a command and what is known of them. Commands write nowhere else.
struct Streams {
  std::ostream& out;
  std::ostream& err;
  Terminal out_terminal;
  Terminal err_terminal;
};

// A line of tab-separated fields; tabs, line ends and control characters inside a field become
// spaces or vanish.
std::string tsv_line(const std::vector<std::string>& fields);

// A cell of a table for people.
struct Cell {
  Cell() = default;
  Cell(std::string cell_text, Tone cell_tone = Tone::kPlain)  // NOLINT: cells are written as texts.
      : text(std::move(cell_text)), tone(cell_tone) {}

  Cell(const char* cell_text) : text(cell_text) {}  // NOLINT: as above.

  std::string text;
  Tone tone = Tone::kPlain;
};

enum class Align { kLeft, kRight };

// Aligned columns with a faint header. Rows may be shorter than the header.
class Table {
 public:
  struct Column {
    std::string name;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  void add_row(std::vector<Cell> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }

  // Each line ends in a line end and has no trailing spaces; `indent` spaces come first.
  std::string text(const Style& style, std::size_t indent = 0) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace bitrung::cli
