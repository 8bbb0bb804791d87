// Tokens, enrolments and certificates: in memory for every call, on disk for every change.
//
// Thread-safe. A change is durable before it returns; after an error of the disk `on_fault` is told
// and nothing changes any more.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/access_store.h"
#include "db/base/certificates.h"
#include "server/auth/permissions.h"
#include "server/auth/rate_limit.h"

namespace bitrung::auth {

// What the clocks say; tests have their own.
struct Clocks {
  std::function<std::int64_t()> wall_ms;  // Milliseconds since 1970.
  std::function<Time()> steady;
};
Clocks system_clocks();

// A token or a certificate of a worker. Shared with the callers that it has let in, so that a
// revocation reaches them.
struct Credential {
  std::string id;    // Of the token, or serial number of the certificate.
  std::string name;  // Of who has it.
  Role role{};
  std::string worker_id;  // Of a worker.
  std::int64_t expires_at_ms = 0;
  std::atomic<bool> revoked = false;

  std::mutex bucket_mutex;
  Bucket bucket{kRequests};

  static constexpr Rate kRequests{.burst = 200, .per_second = 50};
};

// What a new token was made with; the text is nowhere else.
struct NewToken {
  std::string text;
  db::TokenRow row;
};
struct NewEnrolment {
  std::string text;
  std::int64_t expires_at_ms = 0;
};
struct EnrolledWorker {
  std::string certificate_pem;
  std::string name;
};

// Files of the authority in STATE_DIR/auth (mode 0700).
struct AuthorityFiles {
  std::filesystem::path directory;

  explicit AuthorityFiles(const std::filesystem::path& state_directory)
      : directory(state_directory / "auth") {}
  std::filesystem::path database() const { return directory / "access.db"; }
  std::filesystem::path authority_certificate() const { return directory / "authority.pem"; }
  std::filesystem::path authority_key() const { return directory / "authority.key"; }
  std::filesystem::path server_certificate() const { return directory / "server.pem"; }
  std::filesystem::path server_key() const { return directory / "server.key"; }
};

class AccessControl {
 public:
  static constexpr std::chrono::seconds kTokenLifetime = std::chrono::days(90);
  static constexpr std::chrono::seconds kTokenLifetimeMin = std::chrono::hours(1);
  static constexpr std::chrono::seconds kTokenLifetimeMax = std::chrono::days(366);
  static constexpr std::size_t kTokensMax = 10'000;  // Neither expired nor revoked.
  static constexpr std::chrono::seconds kEnrolmentLifetime = std::chrono::minutes(10);
  static constexpr std::size_t kEnrolmentsMax = 1000;  // That wait.
  static constexpr std::chrono::seconds kWorkerCertificateLifetime = std::chrono::days(366);

  // NOT_FOUND if the state directory has no authority.
  static absl::StatusOr<std::unique_ptr<AccessControl>> open(
      const std::filesystem::path& state_directory, Clocks clocks,
      std::function<void(const absl::Status&)> on_fault);

  const std::string& address() const { return address_; }
  const std::string& authority_pem() const { return authority_.certificate_pem; }
  std::int64_t wall_ms() const { return clocks_.wall_ms(); }
  Time steady() const { return clocks_.steady(); }

  // UNAUTHENTICATED for what is unknown, expired or revoked.
  absl::StatusOr<std::shared_ptr<Credential>> find_token(std::string_view text) const;
  absl::StatusOr<std::shared_ptr<Credential>> find_certificate(std::string_view pem) const;

  // `lifetime` 0 means kTokenLifetime. INVALID_ARGUMENT, RESOURCE_EXHAUSTED name the limits.
  absl::StatusOr<NewToken> create_token(std::string_view name, std::string_view role,
                                        std::chrono::seconds lifetime, std::string_view created_by);
  std::vector<db::TokenRow> tokens() const;  // Newest first.
  absl::StatusOr<db::TokenRow> revoke_token(std::string_view id);

  absl::StatusOr<NewEnrolment> create_enrolment(std::string_view worker,
                                                std::string_view created_by);
  // UNAUTHENTICATED for an enrolment that is unknown, expired or used.
  absl::StatusOr<EnrolledWorker> enrol(std::string_view token, std::string_view worker_id,
                                       std::string_view request_pem);
  // By name or id; how many certificates that were valid are so no more. NOT_FOUND if the worker
  // never had one.
  absl::StatusOr<std::uint32_t> revoke_worker(std::string_view worker);

  absl::Status append_audit(db::AuditRow row);  // At the time of now.
  absl::StatusOr<std::vector<db::AuditRow>> audit(std::size_t limit, std::int64_t before);

 private:
  AccessControl(db::AccessStore store, IssuingAuthority authority, Clocks clocks,
                std::function<void(const absl::Status&)> on_fault)
      : store_(std::move(store)),
        authority_(std::move(authority)),
        clocks_(std::move(clocks)),
        on_fault_(std::move(on_fault)) {}

  struct Token {
    db::TokenRow row;
    std::shared_ptr<Credential> credential;
  };

  absl::Status load();
  // Of the store; tells on_fault.
  absl::Status checked(absl::Status status);
  void add_token(const db::TokenRow& row);
  void add_certificate(const db::WorkerCertificateRow& row);

  mutable std::mutex mutex_;
  db::AccessStore store_;
  const IssuingAuthority authority_;
  const Clocks clocks_;
  const std::function<void(const absl::Status&)> on_fault_;
  bool failed_ = false;
  std::string address_;
  std::map<std::string, Token, std::less<>> tokens_;                              // By id.
  std::map<std::string, db::EnrolmentRow, std::less<>> enrolments_;               // By id.
  std::map<std::string, std::shared_ptr<Credential>, std::less<>> certificates_;  // By serial.
};

// Makes the authority of a state directory: its key and certificate (10 years), the server's
// certificate for these hosts, an empty list of tokens, and the first token, of an admin.
// ALREADY_EXISTS if there is one.
absl::StatusOr<NewToken> make_authority(const std::filesystem::path& state_directory,
                                        std::string_view address,
                                        const std::vector<std::string>& hosts,
                                        const Clocks& clocks);

// What the server shows to its clients. A certificate that is about to end is made anew.
struct ServerIdentity {
  std::string certificate_pem;
  std::string key_pem;
  std::string authority_pem;
};
absl::StatusOr<ServerIdentity> load_server_identity(const std::filesystem::path& state_directory,
                                                    const Clocks& clocks);

}  // namespace bitrung::auth
