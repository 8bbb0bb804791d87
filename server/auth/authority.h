// Who speaks to the server, and whether he may.
//
// A peer of the unix socket is the owner of the state directory (the socket's mode says so) and may
// do everything. Any other peer speaks TLS and shows a token, or is a worker with a certificate of
// this server's authority. There is no listener without authentication. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/auth/access_control.h"
#include "server/auth/permissions.h"

namespace bitrung::auth {

// Who makes a call, or opened a stream.
class Caller {
 public:
  // The owner of the state directory.
  Caller() = default;
  Caller(std::shared_ptr<Credential> credential, std::string address)
      : credential_(std::move(credential)), address_(std::move(address)) {}

  bool is_owner() const { return credential_ == nullptr; }
  bool is_worker() const { return !is_owner() && credential_->role == Role::kWorker; }
  std::string_view name() const {
    return is_owner() ? std::string_view("owner") : std::string_view(credential_->name);
  }
  // Id of the token or serial number of the certificate; empty for the owner.
  std::string_view credential() const {
    return is_owner() ? std::string_view() : std::string_view(credential_->id);
  }
  std::string_view worker_id() const {
    return is_owner() ? std::string_view() : std::string_view(credential_->worker_id);
  }
  std::string_view address() const { return address_; }
  Role role() const { return is_owner() ? Role::kAdmin : credential_->role; }
  // Among people; a worker never.
  bool may(Role least) const { return !is_worker() && role() >= least; }
  std::int64_t expires_at_ms() const { return is_owner() ? 0 : credential_->expires_at_ms; }
  // Not revoked since: asked by streams, which outlive the decision that let them in.
  bool is_valid() const { return is_owner() || !credential_->revoked; }

 private:
  std::shared_ptr<Credential> credential_;
  std::string address_ = "unix";
};

class Authority {
 public:
  // Without `access` only the unix socket gets in. Borrowed; outlives this.
  explicit Authority(AccessControl* access = nullptr) : access_(access) {}

  // Null on a server that knows nobody but its owner.
  AccessControl* access() const { return access_; }

  // Who calls `method` ("bitrung.v1.JobService/GetJob"), if he may: UNAUTHENTICATED,
  // PERMISSION_DENIED or RESOURCE_EXHAUSTED (too many calls, too many failed logins) say what to
  // do. A call that changes something is written to the audit log, with what it is about, before
  // this returns.
  absl::StatusOr<Caller> admit(const grpc::ServerContextBase& context, std::string_view method,
                               std::string_view subject = {}) const;

  // Of the peer, without its port: an IP address, or "unix".
  static std::string address_of(const grpc::ServerContextBase& context);
  // A login by other means than a token or a certificate has failed. RESOURCE_EXHAUSTED if too many
  // from the peer's address have: nothing more is to be said then. Good logins are let in all the
  // same, so that nobody is shut out by his neighbours.
  absl::Status add_failed_login(const grpc::ServerContextBase& context) const;

 private:
  friend class LibraryCalls;
  absl::StatusOr<std::shared_ptr<Credential>> identify(const grpc::AuthContext* connection,
                                                       std::string_view authorization) const;
  static absl::Status check_role(const Permission& permission, const Credential& credential);
  absl::Status check_rate(Credential& credential) const;
  absl::Status add_failed_login(std::string_view address) const;

  AccessControl* access_;
  mutable FailedLogins failed_logins_;
};

// TLS 1.3 for a listener: the server shows its certificate; a client may show one of the same
// authority. Calls of methods that have no row in the table of permissions, and those that gRPC
// answers itself (health, reflection) without permission, are refused before they reach a service.
// `authority` outlives the server.
std::shared_ptr<grpc::ServerCredentials> make_server_credentials(const ServerIdentity& identity,
                                                                 const Authority& authority);

}  // namespace bitrung::auth
