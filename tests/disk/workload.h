// A scripted workload of the real engine over the real Store, and what it was told meanwhile.
//
// Sixty steps in three lives of a server: submits, repeated submits, offers, points, lines,
// checkpoints, outcomes of both kinds, a cancel, a retry, a lost worker, several checkpoints of the
// log, and two restarts. It is the same each time, down to the bytes written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "db/store.h"
#include "tests/disk/fault_disk.h"

struct sqlite3;

namespace bitrung::disk {

// Small, so that a short workload makes many checkpoints.
inline constexpr db::StoreOptions kStoreOptions{.checkpoint_pages = 24};

// Positions are numbers of changes in the disk's journal.
struct Commit {
  std::size_t position = 0;  // When commit() had returned OK.
  std::string content;       // Digest of all that the database said then.
};
// Something that somebody outside was told.
struct Acknowledgement {
  std::size_t position = 0;
  std::string what;
  std::string sql;  // Gives 1 in every database in which it holds.
};
struct Term {
  std::size_t position = 0;
  std::int64_t term = 0;
};

struct Witness {
  std::vector<Commit> commits;  // The first is the empty store.
  std::vector<Acknowledgement> acknowledgements;
  std::vector<Term> terms;
  std::size_t steps = 0;
  // OK at the end of the script, else what ended it; whether the engine called it a failure.
  absl::Status ended;
  // Told after the engine had failed: none, ever.
  std::vector<std::string> told_after_failure;
};

// Runs it on the disk, which is the default VFS now. `directory` is a real one for the lock file.
// With `contents`, what the database says after each commit is kept.
Witness run_workload(const FaultDisk& disk, const std::filesystem::path& directory, bool contents);

// A connection that reads beside the Store's.
class Question {
 public:
  explicit Question(const std::filesystem::path& directory);
  Question(const Question&) = delete;
  Question& operator=(const Question&) = delete;
  ~Question();

  // The rows of a query, columns joined by |; an error is the one row.
  std::vector<std::string> rows(const std::string& sql);
  // Digest of every row but the term, of the schema and of its version.
  std::string content();

 private:
  sqlite3* handle_ = nullptr;
};

}  // namespace bitrung::disk
