#include "db/backup.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <map>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "db/artifacts.h"
#include "db/base/files.h"
#include "db/base/status.h"
#include "db/schema.h"
#include "db/sqlite.h"
#include "db/state_marks.h"
#include "db/store.h"

namespace bitrung::db {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kArtifactFolder = "artifacts";
constexpr std::string_view kPartialEnding = ".partial";
constexpr std::string_view kManifestTitle = "bitrung backup 1";
constexpr std::size_t kManifestBytesMax = 4096;
constexpr std::size_t kCopyBytes = std::size_t{1} << 20;
// Pages between two looks at the progress: 16 MiB.
constexpr int kPagesPerStep = 4096;
// In a list of artifacts that are lacking, for people.
constexpr std::size_t kLackingLinesMax = 20;

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 5> kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, unit == 0 || value >= 100 ? 0 : 1, kUnits[unit]);
}

// The nearest directory above a path that is to be made.
fs::path parent_of(const fs::path& path) {
  const fs::path absolute = fs::absolute(path).lexically_normal();
  // "/a/b/" ends with an empty name.
  return absolute.has_filename() ? absolute.parent_path() : absolute.parent_path().parent_path();
}

fs::path partial_of(const fs::path& path) {
  fs::path absolute = fs::absolute(path).lexically_normal();
  if (!absolute.has_filename()) absolute = absolute.parent_path();
  absolute += kPartialEnding;
  return absolute;
}

absl::Status remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return errno_status("remove", path, error.value());
  return absl::OkStatus();
}

bool is_same_device(const fs::path& a, const fs::path& b) {
  struct stat of_a {};
  struct stat of_b {};
  return ::stat(a.c_str(), &of_a) == 0 && ::stat(b.c_str(), &of_b) == 0 &&
         of_a.st_dev == of_b.st_dev;
}

absl::Status check_space(const fs::path& directory, std::uint64_t needed, std::string_view what) {
  struct statvfs info {};
  if (::statvfs(directory.c_str(), &info) != 0) {
    return errno_status("look for free space in", directory, errno);
  }
  const std::uint64_t free = std::uint64_t{info.f_bavail} * info.f_frsize;
  if (free >= needed) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("the {} needs {}, and {} has {} free; make room or choose another directory",
                  what, bytes_text(needed), directory.string(), bytes_text(free)));
}

// What a full disk half-way means to the person who waits.
absl::Status explained(const absl::Status& status, std::string_view what) {
  if (!absl::IsResourceExhausted(status)) return status;
  return absl::ResourceExhaustedError(
      fmt::format("the disk became full before the {} was complete, so there is none; make room or "
                  "choose another directory ({})",
                  what, message(status)));
}

absl::StatusOr<Digest> digest_of_file(const fs::path& path, std::uint64_t& size) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return errno_status("open", path, errno);
  Sha256 hash;
  std::string buffer(kCopyBytes, '\0');
  size = 0;
  while (true) {
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status("read", path, errno);
    if (got == 0) return hash.finish();
    hash.update(std::string_view(buffer).substr(0, static_cast<std::size_t>(got)));
    size += static_cast<std::uint64_t>(got);
  }
}

// Copies and syncs; returns the digest of what was read.
absl::StatusOr<Digest> copy_file(const fs::path& from, const fs::path& to, std::uint64_t& size,
                                 const std::function<void(std::uint64_t)>& on_bytes) {
  const FileDescriptor source(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!source.valid()) return errno_status("open", from, errno);
  const FileDescriptor target(
      ::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!target.valid()) return errno_status("create", to, errno);
  Sha256 hash;
  std::string buffer(kCopyBytes, '\0');
  size = 0;
  while (true) {
    const ssize_t got = ::read(source.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status("read", from, errno);
    if (got == 0) break;
    const std::string_view bytes(buffer.data(), static_cast<std::size_t>(got));
    hash.update(bytes);
    BITRUNG_RETURN_IF_ERROR(write_all(target.get(), bytes, to));
    size += bytes.size();
    on_bytes(size);
  }
  if (::fsync(target.get()) != 0) return errno_status("sync", to, errno);
  return hash.finish();
}

// ---- The database ----

// Every page is read and every reference followed. `original` is what people know of it.
absl::Status check_integrity(Connection& connection, const fs::path& original) {
  const auto damaged = [&](std::string_view how) {
    return absl::DataLossError(fmt::format("{} is damaged: {}", original.string(), how));
  };
  {
    BITRUNG_ASSIGN_OR_RETURN(Statement statement,
                             connection.prepare("check_integrity", "PRAGMA integrity_check(1)"));
    Rows rows = statement.query();
    std::string found;
    while (rows.next()) rows.read(found);
    BITRUNG_RETURN_IF_ERROR(rows.status());
    if (found != "ok") return damaged(found);
  }
  BITRUNG_ASSIGN_OR_RETURN(Statement statement,
                           connection.prepare("check_references", "PRAGMA foreign_key_check"));
  Rows rows = statement.query();
  std::string table;
  while (rows.next()) rows.read(table);
  BITRUNG_RETURN_IF_ERROR(rows.status());
  if (!table.empty())
    return damaged(fmt::format("table {} refers to a row that is not there", table));
  return absl::OkStatus();
}

// A snapshot of the source, whose server may write on meanwhile, into a file of its own.
absl::Status copy_database(const fs::path& from, const fs::path& to, const BackupOptions& options) {
  BITRUNG_ASSIGN_OR_RETURN(Connection source, Connection::open(from, Connection::Mode::kReadOnly));
  BITRUNG_RETURN_IF_ERROR(check_version(source, migrations()));
  BITRUNG_RETURN_IF_ERROR(check_not_backup(source));
  // Held from here on, so that every step copies from the same snapshot and none begins anew.
  BITRUNG_RETURN_IF_ERROR(source.execute("begin_snapshot", "BEGIN"));
  BITRUNG_ASSIGN_OR_RETURN(const std::int64_t version,
                           source.query_integer("read_version", "PRAGMA user_version"));
  if (version == 0) {
    return absl::NotFoundError(
        fmt::format("{} is empty: no server has worked on it yet", from.string()));
  }
  BITRUNG_ASSIGN_OR_RETURN(Connection target, Connection::open(to, Connection::Mode::kReadWrite));
  return source.copy_to(target, kPagesPerStep, [&](std::uint64_t done, std::uint64_t total) {
    options.on_progress({.what = "database", .done_bytes = done, .total_bytes = total});
  });
}

struct Named {
  Digest sha256;
  std::string user;  // "job 7", or nothing if only the list of artifacts has it.
};

// The artifacts that a database names, by digest.
absl::StatusOr<std::vector<Named>> named_artifacts(Connection& connection) {
  BITRUNG_ASSIGN_OR_RETURN(
      Statement statement,
      connection.prepare("named_artifacts",
                         "SELECT sha256, max(job) FROM ("
                         "SELECT artifact_sha256 AS sha256, id AS job FROM job UNION ALL "
                         "SELECT resume_sha256, id FROM job UNION ALL "
                         "SELECT artifact_sha256, job_id FROM job_input UNION ALL "
                         "SELECT sha256, NULL FROM artifact) "
                         "WHERE sha256 IS NOT NULL GROUP BY sha256 ORDER BY sha256"));
  std::vector<Named> named;
  Rows rows = statement.query();
  while (rows.next()) {
    std::optional<std::int64_t> job;
    rows.read(named.emplace_back().sha256, job);
    if (job) named.back().user = fmt::format("job {}", *job);
  }
  BITRUNG_RETURN_IF_ERROR(rows.status());
  return named;
}

// Links or copies what is named from one directory of artifacts to another. DATA_LOSS if more than
// `lacking_max` of them are missing or damaged.
absl::Status take_artifacts(const fs::path& from, const fs::path& to,
                            const std::vector<Named>& named, std::uint64_t lacking_max,
                            const BackupOptions& options, std::string_view what,
                            BackupSummary& summary) {
  std::error_code error;
  BITRUNG_ASSIGN_OR_RETURN(ArtifactStore target, ArtifactStore::open(to));
  const auto file_of = [&](const Digest& sha256) {
    const std::string hex = sha256.hex();
    return from / hex.substr(0, 2) / hex;
  };
  std::uint64_t total = 0;
  for (const Named& each : named) {
    const std::uintmax_t size = fs::file_size(file_of(each.sha256), error);
    if (!error) total += size;
  }
  if (!is_same_device(from, to)) BITRUNG_RETURN_IF_ERROR(check_space(to, total, what));
  std::uint64_t done = 0;
  for (const Named& each : named) {
    const auto taken = target.take_over(file_of(each.sha256), each.sha256);
    if (taken.ok()) {
      done += taken->size_bytes;
      ++summary.manifest.artifacts;
      summary.manifest.artifact_bytes += taken->size_bytes;
      summary.linked += taken->linked ? 1 : 0;
      options.on_progress({.what = "artifacts", .done_bytes = done, .total_bytes = total});
      continue;
    }
    if (!absl::IsNotFound(taken.status()) && !absl::IsDataLoss(taken.status())) {
      return explained(taken.status(), what);
    }
    const std::string line = fmt::format("artifact {}{} is {}", each.sha256.hex(),
                                         each.user.empty() ? "" : fmt::format(" of {}", each.user),
                                         absl::IsNotFound(taken.status()) ? "missing" : "damaged");
    if (summary.manifest.lacking == lacking_max) {
      return absl::DataLossError(fmt::format("{} in {}", line, from.string()));
    }
    ++summary.manifest.lacking;
    if (summary.lacking.size() < kLackingLinesMax) summary.lacking.push_back(line);
  }
  return absl::OkStatus();
}

// ---- The manifest ----

std::string manifest_text(const Manifest& manifest) {
  return fmt::format(
      "{}\nmade_at_ms {}\nprogram {}\nschema {}\nterm {}\ndatabase_sha256 {}\ndatabase_bytes {}\n"
      "artifacts {}\nartifact_bytes {}\nlacking {}\n",
      kManifestTitle, manifest.made_at_ms, manifest.program_version, manifest.schema, manifest.term,
      manifest.database_sha256.hex(), manifest.database_bytes, manifest.artifacts,
      manifest.artifact_bytes, manifest.lacking);
}

template <typename Number>
bool parse_number(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

std::optional<Manifest> parse_manifest(std::string_view text) {
  std::map<std::string_view, std::string_view> values;
  for (bool first = true; !text.empty(); first = false) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) return std::nullopt;
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 1);
    if (first) continue;
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos) return std::nullopt;
    values[line.substr(0, space)] = line.substr(space + 1);
  }
  Manifest manifest;
  const auto digest = Digest::from_hex(values["database_sha256"]);
  if (!digest || !parse_number(values["made_at_ms"], manifest.made_at_ms) ||
      !parse_number(values["schema"], manifest.schema) ||
      !parse_number(values["term"], manifest.term) ||
      !parse_number(values["database_bytes"], manifest.database_bytes) ||
      !parse_number(values["artifacts"], manifest.artifacts) ||
      !parse_number(values["artifact_bytes"], manifest.artifact_bytes) ||
      !parse_number(values["lacking"], manifest.lacking)) {
    return std::nullopt;
  }
  manifest.program_version = values["program"];
  manifest.database_sha256 = *digest;
  return manifest;
}

// ---- Backup ----

absl::Status check_backup_place(const fs::path& state, const fs::path& backup) {
  std::error_code error;
  if (!fs::is_regular_file(state / kDatabaseFile, error)) {
    return absl::NotFoundError(
        fs::is_directory(state, error)
            ? fmt::format("{} holds no {}: it is not a server's state directory", state.string(),
                          kDatabaseFile)
            : fmt::format("there is no directory {}; --state-dir is the server's", state.string()));
  }
  if (fs::exists(fs::symlink_status(backup, error))) {
    return absl::AlreadyExistsError(
        fmt::format("{} exists; a backup is made under a new name", backup.string()));
  }
  const fs::path parent = parent_of(backup);
  if (!fs::is_directory(parent, error)) {
    return absl::NotFoundError(
        fmt::format("there is no directory {} to put the backup into", parent.string()));
  }
  const fs::path inner = fs::canonical(parent, error);
  const fs::path outer = fs::canonical(state, error);
  const auto [at, ignored] = std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end());
  if (at == outer.end()) {
    return absl::InvalidArgumentError(
        fmt::format("{} is inside the state directory {}, and a backup there is lost together with "
                    "it; choose another place",
                    backup.string(), state.string()));
  }
  return absl::OkStatus();
}

// The directory in which a backup is made, ours alone until it gets its name.
absl::StatusOr<FileDescriptor> take_partial(const fs::path& partial) {
  const auto busy = [&] {
    return absl::FailedPreconditionError(
        fmt::format("another backup is being made in {}; wait for it", partial.string()));
  };
  for (int round = 0; round < 2; ++round) {
    if (::mkdir(partial.c_str(), 0700) != 0 && errno != EEXIST) {
      return errno_status("create directory", partial, errno);
    }
    FileDescriptor fd(::open(partial.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!fd.valid()) return errno_status("open directory", partial, errno);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return busy();
    std::error_code error;
    if (fs::is_empty(partial, error) && !error) return fd;
    // What a backup that was broken off has left. The lock goes with the directory, so once more.
    BITRUNG_RETURN_IF_ERROR(remove_tree(partial));
  }
  return busy();
}

absl::StatusOr<BackupSummary> fill_backup(const fs::path& state, const fs::path& partial,
                                          const BackupOptions& options) {
  BackupSummary summary;
  Manifest& manifest = summary.manifest;
  manifest.made_at_ms = std::max<std::int64_t>(1, options.now_ms);
  manifest.program_version = options.program_version;

  std::error_code error;
  const std::uintmax_t size = fs::file_size(state / kDatabaseFile, error);
  if (!error) BITRUNG_RETURN_IF_ERROR(check_space(partial, size, "backup"));
  const fs::path database = partial / kDatabaseFile;
  BITRUNG_RETURN_IF_ERROR(
      explained(copy_database(state / kDatabaseFile, database, options), "backup"));
  std::vector<Named> named;
  {
    BITRUNG_ASSIGN_OR_RETURN(Connection copy,
                             Connection::open(database, Connection::Mode::kReadWrite));
    // One plain file, without a log beside it.
    BITRUNG_RETURN_IF_ERROR(copy.execute("leave_log", "PRAGMA journal_mode = DELETE"));
    BITRUNG_RETURN_IF_ERROR(check_integrity(copy, state / kDatabaseFile));
    BITRUNG_ASSIGN_OR_RETURN(manifest.schema,
                             copy.query_integer("read_version", "PRAGMA user_version"));
    BITRUNG_ASSIGN_OR_RETURN(manifest.term, meta_value(copy, "term"));
    BITRUNG_ASSIGN_OR_RETURN(named, named_artifacts(copy));
    BITRUNG_ASSIGN_OR_RETURN(
        Statement stamp,
        copy.prepare("stamp_backup", "INSERT INTO meta (key, value) VALUES (?, ?)"));
    BITRUNG_RETURN_IF_ERROR(stamp.run(kBackupMadeAt, manifest.made_at_ms));
  }
  if (absl::Status status =
          take_artifacts(state / kArtifactFolder, partial / kArtifactFolder, named,
                         options.without_damaged ? named.size() : 0, options, "backup", summary);
      !status.ok()) {
    if (!absl::IsDataLoss(status)) return status;
    return absl::DataLossError(fmt::format(
        "{}; no backup was made. --without-damaged makes one that lacks it", message(status)));
  }
  BITRUNG_ASSIGN_OR_RETURN(manifest.database_sha256,
                           digest_of_file(database, manifest.database_bytes));
  BITRUNG_RETURN_IF_ERROR(explained(
      write_file_durably(partial / kManifestFile, manifest_text(manifest), 0600), "backup"));
  return summary;
}

// ---- Restore ----

absl::Status check_empty(const fs::path& state) {
  std::error_code error;
  const fs::file_status status = fs::status(state, error);
  if (!fs::exists(status)) return absl::OkStatus();
  if (!fs::is_directory(status)) {
    return absl::FailedPreconditionError(
        fmt::format("{} is not a directory; choose another --state-dir", state.string()));
  }
  BITRUNG_RETURN_IF_ERROR(check_restored(state));
  const bool empty = fs::is_empty(state, error);
  if (error) return errno_status("list", state, error.value());
  if (empty) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "{} is not empty; a restore never replaces anything: move it away, or choose another "
      "--state-dir",
      state.string()));
}

// A new beginning, see the header.
absl::Status begin_anew(Connection& connection, const Manifest& manifest, std::int64_t now_ms,
                        std::uint64_t& given_up) {
  BITRUNG_RETURN_IF_ERROR(connection.execute("begin", "BEGIN IMMEDIATE"));
  const auto run = [&](std::string_view name, std::string_view sql,
                       const auto&... values) -> absl::Status {
    BITRUNG_ASSIGN_OR_RETURN(Statement statement, connection.prepare(name, sql));
    return statement.run(values...);
  };
  // The counter of changes too: what a watcher has seen of the lost history lies below.
  BITRUNG_RETURN_IF_ERROR(run("raise_counters",
                              "UPDATE meta SET value = max(value, ?) WHERE key IN ('term', "
                              "'changed_seq')",
                              now_ms));
  BITRUNG_RETURN_IF_ERROR(run("remove_stamp", "DELETE FROM meta WHERE key = ?", kBackupMadeAt));
  BITRUNG_RETURN_IF_ERROR(
      run("save_restored_term",
          "INSERT INTO meta (key, value) SELECT ?, value FROM meta WHERE key = 'term' "
          "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
          kRestoredTerm));
  const std::string reason = fmt::format(
      "given up by a restore: the server's state is that of a backup of term {}", manifest.term);
  BITRUNG_RETURN_IF_ERROR(
      run("give_jobs_back",
          "UPDATE job SET finished_at_ms = iif(state = 'cancelling', ?1, finished_at_ms), "
          "failure_class = 'lost_worker', error = ?2, "
          "changed_seq = id + (SELECT value FROM meta WHERE key = 'changed_seq'), "
          "state = iif(state = 'cancelling', 'cancelled', 'ready') "
          "WHERE state IN ('offered', 'running', 'cancelling')",
          now_ms, reason));
  BITRUNG_RETURN_IF_ERROR(
      run("give_attempts_up",
          "UPDATE attempt SET state = 'lost', failure_class = 'lost_worker', error = ?2, "
          "finished_at_ms = ?1 WHERE state IN ('offered', 'running')",
          now_ms, reason));
  given_up = static_cast<std::uint64_t>(connection.changes());
  BITRUNG_RETURN_IF_ERROR(
      run("save_changed_seq",
          "UPDATE meta SET value = max(value, (SELECT coalesce(max(changed_seq), 0) FROM job)) "
          "WHERE key = 'changed_seq'"));
  return connection.execute("commit", "COMMIT");
}

absl::StatusOr<BackupSummary> fill_state(const fs::path& backup, const fs::path& state,
                                         const Manifest& manifest, const BackupOptions& options) {
  BackupSummary summary;
  BITRUNG_RETURN_IF_ERROR(check_space(state, manifest.database_bytes, "restored state"));
  fs::path database = state / kDatabaseFile;
  database += ".restoring";
  std::uint64_t size = 0;
  const auto found = copy_file(backup / kDatabaseFile, database, size, [&](std::uint64_t done) {
    options.on_progress(
        {.what = "database", .done_bytes = done, .total_bytes = manifest.database_bytes});
  });
  if (!found.ok()) return explained(found.status(), "restored state");
  if (*found != manifest.database_sha256) {
    return absl::DataLossError(fmt::format(
        "{} is not as it was written: its digest is {}, the manifest says {}; take "
        "another backup",
        (backup / kDatabaseFile).string(), found->hex(), manifest.database_sha256.hex()));
  }
  std::vector<Named> named;
  {
    BITRUNG_ASSIGN_OR_RETURN(Connection connection,
                             Connection::open(database, Connection::Mode::kReadWrite));
    BITRUNG_RETURN_IF_ERROR(check_version(connection, migrations()));
    BITRUNG_RETURN_IF_ERROR(check_integrity(connection, backup / kDatabaseFile));
    BITRUNG_ASSIGN_OR_RETURN(named, named_artifacts(connection));
    BITRUNG_RETURN_IF_ERROR(begin_anew(connection, manifest, options.now_ms, summary.given_up));
  }
  if (absl::Status status =
          take_artifacts(backup / kArtifactFolder, state / kArtifactFolder, named,
                         options.without_damaged ? named.size() : manifest.lacking, options,
                         "restored state", summary);
      !status.ok()) {
    if (!absl::IsDataLoss(status)) return status;
    return absl::DataLossError(fmt::format(
        "{}; nothing was restored. --without-damaged restores the rest", message(status)));
  }
  // From here on it is a state, once the mark is gone.
  if (::rename(database.c_str(), (state / kDatabaseFile).c_str()) != 0) {
    return errno_status("rename to", state / kDatabaseFile, errno);
  }
  BITRUNG_RETURN_IF_ERROR(sync_directory(state));
  summary.manifest = [&] {
    Manifest said = manifest;
    said.artifacts = summary.manifest.artifacts;
    said.artifact_bytes = summary.manifest.artifact_bytes;
    said.lacking = summary.manifest.lacking;
    return said;
  }();
  return summary;
}

}  // namespace

absl::StatusOr<Manifest> read_manifest(const fs::path& backup) {
  const fs::path file = backup / kManifestFile;
  std::error_code error;
  if (!fs::is_directory(backup, error)) {
    return absl::NotFoundError(fmt::format("there is no directory {}", backup.string()));
  }
  const auto text = read_file(file, kManifestBytesMax);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(
        fmt::format("{} is not a whole backup: it has no file {}. A backup is made by "
                    "`bitrung-server backup`; one that was broken off ends in {}",
                    backup.string(), kManifestFile, kPartialEnding));
  }
  BITRUNG_RETURN_IF_ERROR(text.status());
  const std::string_view title = std::string_view(*text).substr(0, text->find('\n'));
  if (title != kManifestTitle) {
    return absl::FailedPreconditionError(
        title.starts_with("bitrung backup ")
            ? fmt::format("{} was made by a newer program (\"{}\"); restore it with that one",
                          backup.string(), title)
            : fmt::format("{} is not the manifest of a backup of bitrung-server", file.string()));
  }
  const auto manifest = parse_manifest(*text);
  if (!manifest) {
    return absl::DataLossError(fmt::format("{} is damaged; take another backup", file.string()));
  }
  if (manifest->schema > std::ssize(migrations())) {
    return absl::FailedPreconditionError(fmt::format(
        "{} was made by bitrung-server {}, whose database has version {}; this program "
        "knows versions up to {}: restore it with the newer program",
        backup.string(), manifest->program_version, manifest->schema, migrations().size()));
  }
  return *manifest;
}

absl::StatusOr<BackupSummary> make_backup(const fs::path& state_directory, const fs::path& backup,
                                          const BackupOptions& options) {
  BITRUNG_RETURN_IF_ERROR(check_backup_place(state_directory, backup));
  BITRUNG_RETURN_IF_ERROR(check_restored(state_directory));
  const fs::path partial = partial_of(backup);
  BITRUNG_ASSIGN_OR_RETURN(const FileDescriptor lock, take_partial(partial));
  auto summary = fill_backup(state_directory, partial, options);
  if (summary.ok()) {
    // Nothing but the name is missing. An empty directory of that name would be replaced.
    if (absl::Status synced = sync_directory(partial); !synced.ok()) {
      summary = synced;
    } else if (::rename(partial.c_str(), backup.c_str()) != 0) {
      summary = errno_status("rename to", backup, errno);
    } else {
      BITRUNG_RETURN_IF_ERROR(sync_directory(parent_of(backup)));
      return summary;
    }
  }
  static_cast<void>(remove_tree(partial));
  return summary;
}

absl::StatusOr<BackupSummary> restore_backup(const fs::path& backup,
                                             const fs::path& state_directory,
                                             const BackupOptions& options) {
  BITRUNG_ASSIGN_OR_RETURN(const Manifest manifest, read_manifest(backup));
  BITRUNG_RETURN_IF_ERROR(check_empty(state_directory));
  BITRUNG_RETURN_IF_ERROR(make_directories(state_directory, 0700));
  const fs::path mark = state_directory / kRestoringFile;
  BITRUNG_RETURN_IF_ERROR(
      write_file_durably(mark, "A restore is at work here, or was broken off.\n", 0600));
  BITRUNG_ASSIGN_OR_RETURN(const FileDescriptor lock, lock_writer(state_directory));
  auto summary = fill_state(backup, state_directory, manifest, options);
  if (!summary.ok()) {
    // It was empty, and the mark says so until the end.
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(state_directory, error)) {
      if (entry.path() != mark) static_cast<void>(remove_tree(entry.path()));
    }
    ::unlink(mark.c_str());
    return summary;
  }
  if (::unlink(mark.c_str()) != 0) return errno_status("remove", mark, errno);
  BITRUNG_RETURN_IF_ERROR(sync_directory(state_directory));
  return summary;
}

absl::StatusOr<std::int64_t> restored_term(const fs::path& state_directory) {
  BITRUNG_ASSIGN_OR_RETURN(Connection connection, Connection::open(state_directory / kDatabaseFile,
                                                                   Connection::Mode::kReadOnly));
  return meta_value(connection, kRestoredTerm);
}

}  // namespace bitrung::db
