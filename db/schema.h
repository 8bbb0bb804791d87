// Versions of a database file. A migration is a numbered SQL file in db/migrations (the studies) or
// db/access_migrations (who may use the server), built into
// the program, applied once and never edited afterwards. The file's version (PRAGMA user_version)
// is the number of its last migration.
#pragma once

#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "db/sqlite.h"

namespace bitrung::db {

struct Migration {
  int number;  // 1, 2, 3, … without a gap.
  std::string_view name;
  const char* sql;
};

// All that this program knows, by number.
std::span<const Migration> migrations();
std::span<const Migration> access_migrations();

// Changes nothing. FAILED_PRECONDITION if the file was written by a newer or by another program;
// DATA_LOSS if it is not a database.
absl::Status check_version(Connection& connection, std::span<const Migration> known);

// Applies what the file lacks in one transaction: all or nothing. The file has passed
// check_version().
absl::Status migrate(Connection& connection, std::span<const Migration> known);

}  // namespace bitrung::db
