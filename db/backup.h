// Backups of a state directory: whole or not there at all, and never taken for the state itself.
//
// A backup is a directory with bitrung.db, artifacts/ and, written last, the manifest BACKUP. It is
// made under the name DIRECTORY.partial and renamed when everything is on disk, so a backup that
// was broken off never has the name of a whole one. The server may work meanwhile: the database is
// one snapshot of it, and the artifacts are those that the snapshot names, each read and compared
// with its digest.
//
// The database in a backup is stamped; Store::open refuses it. restore_backup() takes the stamp
// away and makes it a new beginning:
//   * The term rises above every term that a server had before, so workers and servers can tell
//     the restored history from the lost one. It takes the time in milliseconds for it.
//   * Attempts that were live in the backup are given up: their workers may have said more, and
//     more may have been acknowledged, than the backup knows.
//
// Nothing here keeps state; a directory that another process is making or restoring is refused.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/digest.h"

namespace bitrung::db {

inline constexpr std::string_view kManifestFile = "BACKUP";

struct BackupProgress {
  std::string_view what;  // "database", "artifacts"
  std::uint64_t done_bytes = 0;
  std::uint64_t total_bytes = 0;
};

struct BackupOptions {
  std::int64_t now_ms = 0;      // Since 1970.
  std::string program_version;  // Noted in the manifest, for people.
  // Makes the backup although artifacts are missing or damaged; it lacks them then.
  bool without_damaged = false;
  std::function<void(const BackupProgress&)> on_progress = [](const BackupProgress&) {};
};

// What a manifest says.
struct Manifest {
  std::int64_t made_at_ms = 0;
  std::string program_version;
  std::int64_t schema = 0;  // Version of the database.
  std::int64_t term = 0;
  Digest database_sha256;
  std::uint64_t database_bytes = 0;
  std::uint64_t artifacts = 0;
  std::uint64_t artifact_bytes = 0;
  std::uint64_t lacking = 0;  // Artifacts that the database names and the backup does not have.

  bool operator==(const Manifest&) const = default;
};

struct BackupSummary {
  Manifest manifest;
  std::uint64_t linked = 0;          // Artifacts that share their bytes with the original.
  std::vector<std::string> lacking;  // A line for each, with what uses it.
  std::uint64_t given_up = 0;        // By a restore: attempts that were live in the backup.
};

// Makes `backup`, which must not exist, from `state_directory`, whose server may work. NOT_FOUND if
// there is no such state; DATA_LOSS if the database or an artifact in it is damaged;
// RESOURCE_EXHAUSTED if the disk is too small. Nothing is left behind after an error.
absl::StatusOr<BackupSummary> make_backup(const std::filesystem::path& state_directory,
                                          const std::filesystem::path& backup,
                                          const BackupOptions& options);

// Makes a state from a backup. `state_directory` must be empty or missing. DATA_LOSS if the backup
// is not what it was; FAILED_PRECONDITION if it is none, or a newer program's. After an error or a
// crash the directory is no state yet, and Store::open says so.
absl::StatusOr<BackupSummary> restore_backup(const std::filesystem::path& backup,
                                             const std::filesystem::path& state_directory,
                                             const BackupOptions& options);

// NOT_FOUND if the directory is no backup.
absl::StatusOr<Manifest> read_manifest(const std::filesystem::path& backup);

// The term that the last restore of this state set; 0 if it was never restored. A worker that has
// seen no higher term has not spoken with the state as it is since.
absl::StatusOr<std::int64_t> restored_term(const std::filesystem::path& state_directory);

}  // namespace bitrung::db
