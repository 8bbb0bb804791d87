#include "db/schema.h"

#include <cstdint>
#include <string>

#include <fmt/format.h>

#include "db/base/check.h"
#include "db/base/status.h"

namespace bitrung::db {
namespace {

// "btrg": tells our files from those of other programs (PRAGMA application_id, `file`).
constexpr std::int64_t kApplicationId = 0x62747267;

absl::Status apply_migrations(Connection& connection, std::span<const Migration> known) {
  BITRUNG_RETURN_IF_ERROR(connection.execute("begin_migration", "BEGIN IMMEDIATE"));
  BITRUNG_ASSIGN_OR_RETURN(const std::int64_t version,
                           connection.query_integer("read_version", "PRAGMA user_version"));
  const auto apply = [&]() -> absl::Status {
    for (const Migration& migration : known) {
      if (migration.number <= version) continue;
      BITRUNG_RETURN_IF_ERROR(connection.execute(migration.name, migration.sql));
    }
    const std::string stamp = fmt::format("PRAGMA application_id = {}; PRAGMA user_version = {}",
                                          kApplicationId, known.size());
    return connection.execute("write_version", stamp.c_str());
  };
  if (version < std::ssize(known)) {
    if (absl::Status status = apply(); !status.ok()) {
      // Some errors have rolled back already; then this one fails and changes nothing.
      static_cast<void>(connection.execute("rollback_migration", "ROLLBACK"));
      return status;
    }
  }
  return connection.execute("commit_migration", "COMMIT");
}

}  // namespace

absl::Status check_version(Connection& connection, std::span<const Migration> known) {
  BITRUNG_ASSIGN_OR_RETURN(const std::int64_t version,
                           connection.query_integer("read_version", "PRAGMA user_version"));
  BITRUNG_ASSIGN_OR_RETURN(const std::int64_t application,
                           connection.query_integer("read_application", "PRAGMA application_id"));
  BITRUNG_ASSIGN_OR_RETURN(
      const std::int64_t objects,
      connection.query_integer("count_tables", "SELECT count(*) FROM sqlite_schema"));
  const bool empty = version == 0 && application == 0 && objects == 0;
  if (!empty && application != kApplicationId) {
    return absl::FailedPreconditionError(fmt::format(
        "{} is a database of another program; move it away or use another state directory",
        connection.path().string()));
  }
  if (version > std::ssize(known)) {
    return absl::FailedPreconditionError(
        fmt::format("{} has version {}, this program knows versions up to {}; use the newer "
                    "program that wrote it",
                    connection.path().string(), version, known.size()));
  }
  return absl::OkStatus();
}

absl::Status migrate(Connection& connection, std::span<const Migration> known) {
  // A table that is made anew must be dropped without its references; the pragma does nothing
  // inside a transaction.
  BITRUNG_RETURN_IF_ERROR(connection.execute("leave_references", "PRAGMA foreign_keys = OFF"));
  const absl::Status status = apply_migrations(connection, known);
  BITRUNG_RETURN_IF_ERROR(connection.execute("check_references", "PRAGMA foreign_keys = ON"));
  return status;
}

}  // namespace bitrung::db
