#include "server/auth/access_control.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "db/base/files.h"
#include "db/base/secret.h"
#include "db/base/status.h"
#include "db/base/wall_clock.h"
#include "db/words.h"

namespace bitrung::auth {
namespace {

constexpr std::size_t kPemBytesMax = 64 * 1024;
constexpr std::size_t kNameBytesMax = 128;
constexpr std::size_t kWorkerIdDigits = 32;
constexpr std::chrono::seconds kAuthorityLifetime = std::chrono::days(3652);
constexpr std::chrono::seconds kServerLifetime = std::chrono::days(366);
constexpr std::int64_t kRenewBeforeMs = std::int64_t{30} * 24 * 3'600'000;

absl::Status unauthenticated(std::string_view text) {
  return absl::UnauthenticatedError(std::string(text));
}

absl::Status check_name(std::string_view what, std::string_view name) {
  if (name.size() <= kNameBytesMax && is_valid_name(name) && name != "owner")
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("\"{}\" is no name of a {}: 1 to {} letters, digits and . _ = - (and not owner)",
                  name.substr(0, 80), what, kNameBytesMax));
}

absl::StatusOr<IssuingAuthority> read_authority(const AuthorityFiles& files) {
  IssuingAuthority authority;
  BITRUNG_ASSIGN_OR_RETURN(authority.certificate_pem,
                           read_file(files.authority_certificate(), kPemBytesMax));
  BITRUNG_ASSIGN_OR_RETURN(authority.key_pem,
                           read_private_file(files.authority_key(), kPemBytesMax));
  return authority;
}

absl::Status write_server_certificate(const AuthorityFiles& files,
                                      const IssuingAuthority& authority, std::string_view key_pem,
                                      const std::vector<std::string>& hosts, std::int64_t now_ms) {
  BITRUNG_ASSIGN_OR_RETURN(
      const std::string certificate,
      issue_server_certificate(authority, key_pem, hosts,
                               {.from_ms = now_ms, .lifetime = kServerLifetime}));
  return write_file_durably(files.server_certificate(), certificate, 0644);
}

db::TokenRow new_row(const Secret& secret, std::string_view name, std::string_view role,
                     std::string_view created_by, std::int64_t now_ms,
                     std::chrono::seconds lifetime) {
  return {.id = secret.id,
          .secret_sha256 = secret.sha256,
          .name = std::string(name),
          .role = std::string(role),
          .created_by = std::string(created_by),
          .created_at_ms = now_ms,
          .expires_at_ms = now_ms + lifetime.count() * 1000,
          .revoked_at_ms = 0};
}

}  // namespace

Clocks system_clocks() {
  return {.wall_ms = wall_clock_ms, .steady = [] { return std::chrono::steady_clock::now(); }};
}

absl::StatusOr<std::unique_ptr<AccessControl>> AccessControl::open(
    const std::filesystem::path& state_directory, Clocks clocks,
    std::function<void(const absl::Status&)> on_fault) {
  const AuthorityFiles files(state_directory);
  BITRUNG_ASSIGN_OR_RETURN(db::AccessStore store, db::AccessStore::open(files.database()));
  BITRUNG_ASSIGN_OR_RETURN(IssuingAuthority authority, read_authority(files));
  std::unique_ptr<AccessControl> access(new AccessControl(std::move(store), std::move(authority),
                                                          std::move(clocks), std::move(on_fault)));
  BITRUNG_RETURN_IF_ERROR(access->load());
  return access;
}

absl::Status AccessControl::load() {
  BITRUNG_ASSIGN_OR_RETURN(db::AccessSnapshot snapshot, store_.load());
  address_ = snapshot.address;
  for (const db::TokenRow& row : snapshot.tokens) add_token(row);
  for (db::EnrolmentRow& row : snapshot.enrolments) enrolments_.emplace(row.id, std::move(row));
  for (const db::WorkerCertificateRow& row : snapshot.certificates) add_certificate(row);
  return absl::OkStatus();
}

absl::Status AccessControl::checked(absl::Status status) {
  // A full disk has changed nothing, and the caller is told.
  if (!status.ok() && !absl::IsResourceExhausted(status)) {
    failed_ = true;
    if (on_fault_ != nullptr) on_fault_(status);
  }
  return status;
}

void AccessControl::add_token(const db::TokenRow& row) {
  auto credential = std::make_shared<Credential>();
  credential->id = row.id;
  credential->name = row.name;
  credential->role = parse_role(row.role).value_or(Role::kViewer);
  credential->expires_at_ms = row.expires_at_ms;
  credential->revoked = row.revoked_at_ms != 0;
  tokens_.insert_or_assign(row.id, Token{row, std::move(credential)});
}

void AccessControl::add_certificate(const db::WorkerCertificateRow& row) {
  auto credential = std::make_shared<Credential>();
  credential->id = row.serial;
  credential->name = row.worker;
  credential->role = Role::kWorker;
  credential->worker_id = row.worker_id;
  credential->expires_at_ms = row.expires_at_ms;
  credential->revoked = row.revoked_at_ms != 0;
  certificates_.insert_or_assign(row.serial, std::move(credential));
}

absl::StatusOr<std::shared_ptr<Credential>> AccessControl::find_token(std::string_view text) const {
  const std::optional<Secret> secret = parse_secret(text);
  if (!secret) return unauthenticated("what was shown is no token of bitrung");
  const std::lock_guard lock(mutex_);
  const auto found = tokens_.find(secret->id);
  if (found == tokens_.end() || !same_digest(found->second.row.secret_sha256, secret->sha256))
    return unauthenticated("this server does not know the token; log in again");
  const db::TokenRow& row = found->second.row;
  if (row.revoked_at_ms != 0) return unauthenticated("the token is revoked; ask for a new one");
  if (row.expires_at_ms <= clocks_.wall_ms())
    return unauthenticated("the token has expired; ask for a new one");
  return found->second.credential;
}

absl::StatusOr<std::shared_ptr<Credential>> AccessControl::find_certificate(
    std::string_view pem) const {
  BITRUNG_ASSIGN_OR_RETURN(const CertificateFacts facts, read_certificate(pem));
  const std::lock_guard lock(mutex_);
  const auto found = certificates_.find(facts.serial);
  if (found == certificates_.end())
    return unauthenticated("this server has not issued the worker's certificate; enrol it again");
  if (found->second->revoked)
    return unauthenticated("the worker's certificate is revoked; enrol it again");
  if (found->second->expires_at_ms <= clocks_.wall_ms())
    return unauthenticated("the worker's certificate has expired; enrol it again");
  return found->second;
}

absl::StatusOr<NewToken> AccessControl::create_token(std::string_view name, std::string_view role,
                                                     std::chrono::seconds lifetime,
                                                     std::string_view created_by) {
  BITRUNG_RETURN_IF_ERROR(check_name("token", name));
  const std::optional<Role> parsed = parse_role(role);
  if (!parsed || *parsed == Role::kWorker) {
    return absl::InvalidArgumentError(
        fmt::format("role \"{}\": a token has the role viewer, submitter, operator or admin",
                    role.substr(0, 80)));
  }
  if (lifetime == std::chrono::seconds(0)) lifetime = kTokenLifetime;
  if (lifetime < kTokenLifetimeMin || lifetime > kTokenLifetimeMax) {
    return absl::InvalidArgumentError(
        fmt::format("a lifetime of {} s: 1 hour to 366 days are allowed", lifetime.count()));
  }
  const std::lock_guard lock(mutex_);
  const std::int64_t now = clocks_.wall_ms();
  const auto live = std::ranges::count_if(tokens_, [now](const auto& entry) {
    const db::TokenRow& row = entry.second.row;
    return row.revoked_at_ms == 0 && row.expires_at_ms > now;
  });
  if (static_cast<std::size_t>(live) >= kTokensMax) {
    return absl::ResourceExhaustedError(fmt::format(
        "there are {} tokens, the limit is {}; revoke those that nobody needs", live, kTokensMax));
  }
  if (failed_) return absl::UnavailableError("the server is stopping");
  const Secret secret = make_secret();
  NewToken made{secret.text, new_row(secret, name, role, created_by, now, lifetime)};
  BITRUNG_RETURN_IF_ERROR(checked(store_.insert_token(made.row)));
  add_token(made.row);
  return made;
}

std::vector<db::TokenRow> AccessControl::tokens() const {
  std::vector<db::TokenRow> rows;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, token] : tokens_) rows.push_back(token.row);
  }
  std::ranges::stable_sort(rows, std::greater(), &db::TokenRow::created_at_ms);
  return rows;
}

absl::StatusOr<db::TokenRow> AccessControl::revoke_token(std::string_view id) {
  const std::lock_guard lock(mutex_);
  const auto found = tokens_.find(id);
  if (found == tokens_.end()) {
    return absl::NotFoundError(fmt::format(
        "there is no token \"{}\"; \"bitrung token list\" shows their ids", id.substr(0, 80)));
  }
  db::TokenRow& row = found->second.row;
  if (row.revoked_at_ms != 0) return row;
  if (failed_) return absl::UnavailableError("the server is stopping");
  const std::int64_t now = clocks_.wall_ms();
  BITRUNG_RETURN_IF_ERROR(checked(store_.revoke_token(id, now)));
  row.revoked_at_ms = now;
  found->second.credential->revoked = true;
  return row;
}

absl::StatusOr<NewEnrolment> AccessControl::create_enrolment(std::string_view worker,
                                                             std::string_view created_by) {
  BITRUNG_RETURN_IF_ERROR(check_name("worker", worker));
  const std::lock_guard lock(mutex_);
  const std::int64_t now = clocks_.wall_ms();
  const auto waiting = std::ranges::count_if(enrolments_, [now](const auto& entry) {
    return entry.second.used_at_ms == 0 && entry.second.expires_at_ms > now;
  });
  if (static_cast<std::size_t>(waiting) >= kEnrolmentsMax) {
    return absl::ResourceExhaustedError(
        fmt::format("{} enrolments wait for their workers, the limit is {}; they end after {} min",
                    waiting, kEnrolmentsMax, kEnrolmentLifetime.count() / 60));
  }
  if (failed_) return absl::UnavailableError("the server is stopping");
  const Secret secret = make_secret();
  db::EnrolmentRow row{.id = secret.id,
                       .secret_sha256 = secret.sha256,
                       .worker = std::string(worker),
                       .created_by = std::string(created_by),
                       .created_at_ms = now,
                       .expires_at_ms = now + kEnrolmentLifetime.count() * 1000,
                       .used_at_ms = 0};
  BITRUNG_RETURN_IF_ERROR(checked(store_.insert_enrolment(row)));
  NewEnrolment made{secret.text, row.expires_at_ms};
  enrolments_.emplace(row.id, std::move(row));
  return made;
}

absl::StatusOr<EnrolledWorker> AccessControl::enrol(std::string_view token,
                                                    std::string_view worker_id,
                                                    std::string_view request_pem) {
  const bool is_id = worker_id.size() == kWorkerIdDigits &&
                     worker_id.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  if (!is_id) {
    return absl::InvalidArgumentError(
        fmt::format("worker_id must be {} hex digits", kWorkerIdDigits));
  }
  const std::optional<Secret> secret = parse_secret(token);
  const std::lock_guard lock(mutex_);
  const std::int64_t now = clocks_.wall_ms();
  const auto found = secret ? enrolments_.find(secret->id) : enrolments_.end();
  if (found == enrolments_.end() || !same_digest(found->second.secret_sha256, secret->sha256))
    return unauthenticated("this server does not know the enrolment; make a new one");
  if (found->second.used_at_ms != 0)
    return unauthenticated("the enrolment was used already; make a new one");
  if (found->second.expires_at_ms <= now)
    return unauthenticated("the enrolment has expired; make a new one");
  if (failed_) return absl::UnavailableError("the server is stopping");
  EnrolledWorker worker{.certificate_pem = {}, .name = found->second.worker};
  BITRUNG_ASSIGN_OR_RETURN(
      worker.certificate_pem,
      issue_worker_certificate(authority_, request_pem, worker.name, worker_id,
                               {.from_ms = now, .lifetime = kWorkerCertificateLifetime}));
  BITRUNG_ASSIGN_OR_RETURN(const CertificateFacts facts, read_certificate(worker.certificate_pem));
  const db::WorkerCertificateRow row{.serial = facts.serial,
                                     .worker = worker.name,
                                     .worker_id = std::string(worker_id),
                                     .enrolment_id = found->first,
                                     .issued_at_ms = now,
                                     .expires_at_ms = facts.expires_at_ms,
                                     .revoked_at_ms = 0};
  BITRUNG_RETURN_IF_ERROR(checked(store_.issue(row)));
  found->second.used_at_ms = now;
  add_certificate(row);
  return worker;
}

absl::StatusOr<std::uint32_t> AccessControl::revoke_worker(std::string_view worker) {
  const std::lock_guard lock(mutex_);
  const std::int64_t now = clocks_.wall_ms();
  bool known = false;
  std::uint32_t revoked = 0;
  for (const auto& [serial, credential] : certificates_) {
    if (credential->name != worker && credential->worker_id != worker) continue;
    known = true;
    if (credential->revoked || credential->expires_at_ms <= now) continue;
    if (failed_) return absl::UnavailableError("the server is stopping");
    BITRUNG_RETURN_IF_ERROR(checked(store_.revoke_certificate(serial, now)));
    credential->revoked = true;
    ++revoked;
  }
  if (known) return revoked;
  return absl::NotFoundError(
      fmt::format("no certificate was ever issued to worker \"{}\"", worker.substr(0, 80)));
}

absl::Status AccessControl::append_audit(db::AuditRow row) {
  const std::lock_guard lock(mutex_);
  if (failed_) return absl::UnavailableError("the server is stopping");
  row.at_ms = clocks_.wall_ms();
  return checked(store_.append_audit(row));
}

absl::StatusOr<std::vector<db::AuditRow>> AccessControl::audit(std::size_t limit,
                                                               std::int64_t before) {
  const std::lock_guard lock(mutex_);
  return store_.audit(limit, before);
}

absl::StatusOr<NewToken> make_authority(const std::filesystem::path& state_directory,
                                        std::string_view address,
                                        const std::vector<std::string>& hosts,
                                        const Clocks& clocks) {
  const AuthorityFiles files(state_directory);
  BITRUNG_RETURN_IF_ERROR(make_directories(state_directory, 0700));
  BITRUNG_RETURN_IF_ERROR(make_directories(files.directory, 0700));
  // The database is made last: with it the authority is whole.
  std::error_code error;
  if (std::filesystem::exists(files.database(), error)) {
    return absl::AlreadyExistsError(
        fmt::format("{} has an authority already; its tokens and workers would lose their access. "
                    "Make tokens with \"bitrung token create\"",
                    state_directory.string()));
  }
  const std::int64_t now = clocks.wall_ms();
  BITRUNG_ASSIGN_OR_RETURN(
      const IssuingAuthority authority,
      make_issuing_authority(fmt::format("bitrung {}", hosts.front()),
                             {.from_ms = now, .lifetime = kAuthorityLifetime}));
  BITRUNG_RETURN_IF_ERROR(write_file_durably(files.authority_key(), authority.key_pem, 0600));
  BITRUNG_RETURN_IF_ERROR(
      write_file_durably(files.authority_certificate(), authority.certificate_pem, 0644));
  BITRUNG_ASSIGN_OR_RETURN(const std::string key, make_private_key());
  BITRUNG_RETURN_IF_ERROR(write_file_durably(files.server_key(), key, 0600));
  BITRUNG_RETURN_IF_ERROR(write_server_certificate(files, authority, key, hosts, now));

  const Secret secret = make_secret();
  NewToken made{secret.text,
                new_row(secret, "admin", "admin", "init", now, AccessControl::kTokenLifetime)};
  const std::filesystem::path unfinished = files.directory / "access.db.new";
  std::filesystem::remove(unfinished, error);
  {
    BITRUNG_ASSIGN_OR_RETURN(db::AccessStore store, db::AccessStore::create(unfinished, address));
    BITRUNG_RETURN_IF_ERROR(store.insert_token(made.row));
    BITRUNG_RETURN_IF_ERROR(store.append_audit({.id = 0,
                                                .at_ms = now,
                                                .name = "owner",
                                                .credential = {},
                                                .address = "local",
                                                .method = "init",
                                                .subject = std::string(address)}));
  }  // Closing it brings its log into the file.
  std::filesystem::rename(unfinished, files.database(), error);
  if (error) return errno_status("rename", unfinished, error.value());
  BITRUNG_RETURN_IF_ERROR(sync_directory(files.directory));
  return made;
}

absl::StatusOr<ServerIdentity> load_server_identity(const std::filesystem::path& state_directory,
                                                    const Clocks& clocks) {
  const AuthorityFiles files(state_directory);
  ServerIdentity identity;
  BITRUNG_ASSIGN_OR_RETURN(identity.key_pem, read_private_file(files.server_key(), kPemBytesMax));
  BITRUNG_ASSIGN_OR_RETURN(identity.certificate_pem,
                           read_file(files.server_certificate(), kPemBytesMax));
  BITRUNG_ASSIGN_OR_RETURN(const IssuingAuthority authority, read_authority(files));
  identity.authority_pem = authority.certificate_pem;
  BITRUNG_ASSIGN_OR_RETURN(const CertificateFacts facts,
                           read_certificate(identity.certificate_pem));
  if (facts.expires_at_ms - kRenewBeforeMs > clocks.wall_ms()) return identity;
  BITRUNG_RETURN_IF_ERROR(
      write_server_certificate(files, authority, identity.key_pem, facts.hosts, clocks.wall_ms()));
  BITRUNG_ASSIGN_OR_RETURN(identity.certificate_pem,
                           read_file(files.server_certificate(), kPemBytesMax));
  return identity;
}

}  // namespace bitrung::auth
