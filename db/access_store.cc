#include "db/access_store.h"

#include <fcntl.h>

#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "db/base/files.h"
#include "db/base/status.h"
#include "db/schema.h"

namespace bitrung::db {
namespace {

// The log is short: these are changes of people, not of jobs.
constexpr int kCheckpointPages = 64;

}  // namespace

absl::StatusOr<AccessStore> AccessStore::open_checked(const std::filesystem::path& file) {
  BITRUNG_ASSIGN_OR_RETURN(Connection connection,
                           Connection::open(file, Connection::Mode::kReadWrite));
  BITRUNG_RETURN_IF_ERROR(check_version(connection, access_migrations()));
  BITRUNG_RETURN_IF_ERROR(connection.use_write_ahead_log());
  BITRUNG_RETURN_IF_ERROR(migrate(connection, access_migrations()));
  return AccessStore(std::move(connection));
}

absl::StatusOr<AccessStore> AccessStore::create(const std::filesystem::path& file,
                                                std::string_view address) {
  // First an empty file of the right mode: the log and the index beside it take its mode over.
  const FileDescriptor fd(::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid()) {
    if (errno == EEXIST)
      return absl::AlreadyExistsError(fmt::format("{} exists already", file.string()));
    return errno_status("create", file, errno);
  }
  BITRUNG_ASSIGN_OR_RETURN(AccessStore store, open_checked(file));
  BITRUNG_RETURN_IF_ERROR(
      store.run("insert_server", "INSERT INTO server (address) VALUES (?)", address));
  return store;
}

absl::StatusOr<AccessStore> AccessStore::open(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error))
    return absl::NotFoundError(fmt::format("there is no {}", file.string()));
  return open_checked(file);
}

template <typename... Values>
absl::Status AccessStore::run(std::string_view operation, std::string_view sql,
                              const Values&... values) {
  BITRUNG_ASSIGN_OR_RETURN(Statement statement, connection_.prepare(operation, sql));
  BITRUNG_RETURN_IF_ERROR(statement.run(values...));
  if (!connection_.in_transaction() && connection_.log_pages() >= kCheckpointPages)
    return connection_.checkpoint();
  return absl::OkStatus();
}

template <typename Work>
absl::Status AccessStore::in_transaction(Work work) {
  BITRUNG_RETURN_IF_ERROR(connection_.execute("begin", "BEGIN IMMEDIATE"));
  if (const absl::Status status = work(); !status.ok()) {
    // Some errors have rolled back already; then this one fails and changes nothing.
    static_cast<void>(connection_.execute("rollback", "ROLLBACK"));
    return status;
  }
  return connection_.execute("commit", "COMMIT");
}

absl::StatusOr<AccessSnapshot> AccessStore::load() {
  AccessSnapshot snapshot;
  const auto read_all = [this](std::string_view operation, std::string_view sql,
                               auto read) -> absl::Status {
    BITRUNG_ASSIGN_OR_RETURN(Statement statement, connection_.prepare(operation, sql));
    Rows rows = statement.query();
    while (rows.next()) read(rows);
    return rows.status();
  };
  BITRUNG_RETURN_IF_ERROR(read_all("load_server", "SELECT address FROM server",
                                   [&](Rows& rows) { rows.read(snapshot.address); }));
  BITRUNG_RETURN_IF_ERROR(
      read_all("load_tokens",
               "SELECT id, secret_sha256, name, role, created_by, created_at_ms, expires_at_ms, "
               "revoked_at_ms FROM token ORDER BY created_at_ms DESC, id",
               [&](Rows& rows) {
                 TokenRow& row = snapshot.tokens.emplace_back();
                 rows.read(row.id, row.secret_sha256, row.name, row.role, row.created_by,
                           row.created_at_ms, row.expires_at_ms, row.revoked_at_ms);
               }));
  BITRUNG_RETURN_IF_ERROR(
      read_all("load_enrolments",
               "SELECT id, secret_sha256, worker, created_by, created_at_ms, expires_at_ms, "
               "used_at_ms FROM enrolment ORDER BY created_at_ms DESC, id",
               [&](Rows& rows) {
                 EnrolmentRow& row = snapshot.enrolments.emplace_back();
                 rows.read(row.id, row.secret_sha256, row.worker, row.created_by, row.created_at_ms,
                           row.expires_at_ms, row.used_at_ms);
               }));
  BITRUNG_RETURN_IF_ERROR(
      read_all("load_certificates",
               "SELECT serial, worker, worker_id, enrolment_id, issued_at_ms, expires_at_ms, "
               "revoked_at_ms FROM worker_certificate ORDER BY issued_at_ms DESC, serial",
               [&](Rows& rows) {
                 WorkerCertificateRow& row = snapshot.certificates.emplace_back();
                 rows.read(row.serial, row.worker, row.worker_id, row.enrolment_id,
                           row.issued_at_ms, row.expires_at_ms, row.revoked_at_ms);
               }));
  return snapshot;
}

absl::Status AccessStore::insert_token(const TokenRow& row) {
  return run("insert_token",
             "INSERT INTO token (id, secret_sha256, name, role, created_by, created_at_ms, "
             "expires_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
             row.id, row.secret_sha256, row.name, row.role, row.created_by, row.created_at_ms,
             row.expires_at_ms);
}

absl::Status AccessStore::revoke_token(std::string_view id, std::int64_t now_ms) {
  return run("revoke_token", "UPDATE token SET revoked_at_ms = ? WHERE id = ?", now_ms, id);
}

absl::Status AccessStore::insert_enrolment(const EnrolmentRow& row) {
  return run("insert_enrolment",
             "INSERT INTO enrolment (id, secret_sha256, worker, created_by, created_at_ms, "
             "expires_at_ms) VALUES (?, ?, ?, ?, ?, ?)",
             row.id, row.secret_sha256, row.worker, row.created_by, row.created_at_ms,
             row.expires_at_ms);
}

absl::Status AccessStore::issue(const WorkerCertificateRow& row) {
  return in_transaction([&]() -> absl::Status {
    BITRUNG_RETURN_IF_ERROR(run("use_enrolment", "UPDATE enrolment SET used_at_ms = ? WHERE id = ?",
                                row.issued_at_ms, row.enrolment_id));
    return run("insert_certificate",
               "INSERT INTO worker_certificate (serial, worker, worker_id, enrolment_id, "
               "issued_at_ms, expires_at_ms) VALUES (?, ?, ?, ?, ?, ?)",
               row.serial, row.worker, row.worker_id, row.enrolment_id, row.issued_at_ms,
               row.expires_at_ms);
  });
}

absl::Status AccessStore::revoke_certificate(std::string_view serial, std::int64_t now_ms) {
  return run("revoke_certificate",
             "UPDATE worker_certificate SET revoked_at_ms = ? WHERE serial = ?", now_ms, serial);
}

absl::Status AccessStore::append_audit(const AuditRow& row) {
  return run("append_audit",
             "INSERT INTO audit (at_ms, name, credential, address, method, subject) VALUES "
             "(?, ?, ?, ?, ?, ?)",
             row.at_ms, row.name, row.credential, row.address, row.method, row.subject);
}

absl::StatusOr<std::vector<AuditRow>> AccessStore::audit(std::size_t limit, std::int64_t before) {
  BITRUNG_ASSIGN_OR_RETURN(
      Statement statement,
      connection_.prepare("read_audit",
                          "SELECT id, at_ms, name, credential, address, method, subject FROM audit "
                          "WHERE ?1 = 0 OR id < ?1 ORDER BY id DESC LIMIT ?2"));
  std::vector<AuditRow> found;
  Rows rows = statement.query(before, static_cast<std::int64_t>(limit));
  while (rows.next()) {
    AuditRow& row = found.emplace_back();
    rows.read(row.id, row.at_ms, row.name, row.credential, row.address, row.method, row.subject);
  }
  BITRUNG_RETURN_IF_ERROR(rows.status());
  return found;
}

}  // namespace bitrung::db
