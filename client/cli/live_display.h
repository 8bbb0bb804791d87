// Lines at the end of the terminal that are drawn again and again, with notes that scroll above
// them.
//
// Writes to standard error. Hides the cursor while lines are shown and gives it back when closed,
// which the destructor does too. Without a terminal only notes are written. Not thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "client/cli/output.h"

namespace bitrung::cli {

class LiveDisplay {
 public:
  LiveDisplay(std::ostream& err, const Terminal& terminal) : err_(err), terminal_(terminal) {}
  ~LiveDisplay() { close(); }
  LiveDisplay(const LiveDisplay&) = delete;
  LiveDisplay& operator=(const LiveDisplay&) = delete;

  bool interactive() const { return terminal_.interactive; }
  const Terminal& terminal() const { return terminal_; }
  void set_terminal(const Terminal& terminal) { terminal_ = terminal; }

  // Replaces the lines.
  void draw(const std::vector<std::string>& lines);
  // A line that stays, above the live ones.
  void note(std::string_view line);
  // Leaves the lines where they are and gives the cursor back; a later draw starts below.
  void close();
  // Removes the lines and gives the cursor back.
  void clear();

 private:
  void erase();
  void show_cursor();

  std::ostream& err_;
  Terminal terminal_;
  std::vector<std::string> lines_;  // As drawn.
  bool cursor_hidden_ = false;
};

}  // namespace bitrung::cli
