// Marks by which a directory that is no server's state, or not yet, is told from one. Internal to
// db/.
#pragma once

#include <filesystem>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/files.h"
#include "db/sqlite.h"

namespace bitrung::db {

// In a state directory while a restore into it has not ended.
inline constexpr std::string_view kRestoringFile = "restore.unfinished";
// Keys of the table meta.
inline constexpr std::string_view kBackupMadeAt = "backup_made_at_ms";
inline constexpr std::string_view kRestoredTerm = "restored_term";

// FAILED_PRECONDITION while a restore has not ended.
absl::Status check_restored(const std::filesystem::path& state_directory);
// FAILED_PRECONDITION if the database is that of a backup. It has passed check_version().
absl::Status check_not_backup(Connection& connection);
// A value of the table meta; 0 if it is not there.
absl::StatusOr<std::int64_t> meta_value(Connection& connection, std::string_view key);

// The lock that a writer of the state holds. FAILED_PRECONDITION if there is one.
absl::StatusOr<FileDescriptor> lock_writer(const std::filesystem::path& state_directory);

}  // namespace bitrung::db
