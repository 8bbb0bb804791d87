// What must be so when a database is opened again after a fault.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/disk/fault_disk.h"
#include "tests/disk/workload.h"

namespace bitrung::disk {

// What must hold after a cut at a position.
struct Expected {
  std::size_t commits = 0;           // Acknowledged ones.
  std::size_t acknowledgements = 0;  // How many of the list.
  std::int64_t term = 0;             // Highest that a server has worked under.
};

// After a cut at this position of the witness's journal.
Expected expected_at(const Witness& witness, std::size_t position);

class Recovery {
 public:
  // The witness of a whole run, with contents.
  Recovery(const Witness& witness, std::filesystem::path directory);

  // Opens what is left with the real Store and looks at all of it; empty if it is as it must be.
  // `opening` gets what the opening asked of the disk.
  std::string check(const Platter& platter, const Expected& expected, std::vector<Change>& opening);
  // How often the next commit was there too, though nobody could be told any more.
  std::size_t unacknowledged() const { return unacknowledged_; }

 private:
  const Witness& witness_;
  const std::filesystem::path directory_;
  std::size_t unacknowledged_ = 0;
};

}  // namespace bitrung::disk
