// Who may use the server, durable in a SQLite file of its own: tokens, enrolments, certificates of
// workers, and the audit log, which is only ever added to. Secrets are kept as digests.
//
// Every change is synced before it returns. Not thread-safe. After an error nothing more should be
// asked: what was to be written may or may not be on disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/digest.h"
#include "db/sqlite.h"

namespace bitrung::db {

// Times are wall-clock milliseconds since 1970; 0 means "not yet".
struct TokenRow {
  std::string id;
  Digest secret_sha256;
  std::string name;
  std::string role;
  std::string created_by;
  std::int64_t created_at_ms = 0;
  std::int64_t expires_at_ms = 0;
  std::int64_t revoked_at_ms = 0;
};

struct EnrolmentRow {
  std::string id;
  Digest secret_sha256;
  std::string worker;
  std::string created_by;
  std::int64_t created_at_ms = 0;
  std::int64_t expires_at_ms = 0;
  std::int64_t used_at_ms = 0;
};

struct WorkerCertificateRow {
  std::string serial;
  std::string worker;
  std::string worker_id;
  std::string enrolment_id;
  std::int64_t issued_at_ms = 0;
  std::int64_t expires_at_ms = 0;
  std::int64_t revoked_at_ms = 0;
};

struct AuditRow {
  std::int64_t id = 0;  // Given by the store, from 1.
  std::int64_t at_ms = 0;
  std::string name;
  std::string credential;
  std::string address;
  std::string method;
  std::string subject;
};

struct AccessSnapshot {
  std::string address;  // Where clients reach the server, HOST:PORT.
  std::vector<TokenRow> tokens;
  std::vector<EnrolmentRow> enrolments;
  std::vector<WorkerCertificateRow> certificates;
};

class AccessStore {
 public:
  // Makes the file (mode 0600). ALREADY_EXISTS if there is one.
  static absl::StatusOr<AccessStore> create(const std::filesystem::path& file,
                                            std::string_view address);
  // NOT_FOUND if there is none; FAILED_PRECONDITION for a file of a newer program.
  static absl::StatusOr<AccessStore> open(const std::filesystem::path& file);

  absl::StatusOr<AccessSnapshot> load();

  absl::Status insert_token(const TokenRow& row);
  absl::Status revoke_token(std::string_view id, std::int64_t now_ms);
  absl::Status insert_enrolment(const EnrolmentRow& row);
  // Uses the enrolment up and records what was issued for it, both or neither.
  absl::Status issue(const WorkerCertificateRow& row);
  absl::Status revoke_certificate(std::string_view serial, std::int64_t now_ms);

  absl::Status append_audit(const AuditRow& row);
  // Newest first; ids below `before`, or all if it is 0.
  absl::StatusOr<std::vector<AuditRow>> audit(std::size_t limit, std::int64_t before);

 private:
  explicit AccessStore(Connection connection) : connection_(std::move(connection)) {}
  static absl::StatusOr<AccessStore> open_checked(const std::filesystem::path& file);
  template <typename... Values>
  absl::Status run(std::string_view operation, std::string_view sql, const Values&... values);
  template <typename Work>
  absl::Status in_transaction(Work work);

  Connection connection_;
};

}  // namespace bitrung::db
