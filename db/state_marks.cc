#include "db/state_marks.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "db/base/status.h"

namespace bitrung::db {
namespace {

constexpr std::string_view kLockFile = "bitrung.db.lock";

}  // namespace

absl::Status check_restored(const std::filesystem::path& state_directory) {
  std::error_code error;
  if (!std::filesystem::exists(state_directory / kRestoringFile, error)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("a restore into {} was broken off or is at work; if none is, remove the "
                  "directory and restore again",
                  state_directory.string()));
}

absl::StatusOr<std::int64_t> meta_value(Connection& connection, std::string_view key) {
  BITRUNG_ASSIGN_OR_RETURN(
      Statement statement,
      connection.prepare("read_meta",
                         "SELECT coalesce((SELECT value FROM meta WHERE key = ?), 0)"));
  Rows rows = statement.query(key);
  std::int64_t value = 0;
  while (rows.next()) rows.read(value);
  BITRUNG_RETURN_IF_ERROR(rows.status());
  return value;
}

absl::Status check_not_backup(Connection& connection) {
  BITRUNG_ASSIGN_OR_RETURN(const std::int64_t version,
                           connection.query_integer("read_version", "PRAGMA user_version"));
  if (version == 0) return absl::OkStatus();  // Empty.
  BITRUNG_ASSIGN_OR_RETURN(const std::int64_t made_at_ms, meta_value(connection, kBackupMadeAt));
  if (made_at_ms == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "{} is the database of a backup made at {:%Y-%m-%d %H:%M:%S} UTC, and workers may know "
      "more than it; `bitrung-server restore --from BACKUP --state-dir NEW` makes a state of it",
      connection.path().string(), fmt::gmtime(static_cast<std::time_t>(made_at_ms / 1000))));
}

// Two writers would not only mix up two engines: this SQLite can damage its log if two connections
// make checkpoints.
absl::StatusOr<FileDescriptor> lock_writer(const std::filesystem::path& state_directory) {
  const std::filesystem::path path = state_directory / kLockFile;
  FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.valid()) return errno_status("create", path, errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  if (errno != EWOULDBLOCK) return errno_status("lock", path, errno);
  return absl::FailedPreconditionError(fmt::format(
      "another server uses {}; stop it, or use another state directory", state_directory.string()));
}

}  // namespace bitrung::db
