#include "server/auth/authority.h"

#include <cmath>
#include <utility>

#include <fmt/format.h>
#include <grpcpp/security/auth_metadata_processor.h>
#include <spdlog/spdlog.h>

#include "db/base/status.h"

namespace bitrung::auth {
namespace {

constexpr std::string_view kBearer = "Bearer ";
constexpr std::string_view kOurs = "bitrung.";
constexpr std::size_t kSubjectBytesMax = 512;

std::string_view view(const grpc::string_ref& text) {
  return {text.data(), text.size()};
}

grpc::Status to_grpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(message(status))};
}

bool is_unix(const grpc::ServerContextBase& context) {
  return context.peer().starts_with("unix:");
}

std::string_view short_name(std::string_view method) {
  const std::size_t dot = method.substr(0, method.find('/')).rfind('.');
  return dot == std::string_view::npos ? method : method.substr(dot + 1);
}

}  // namespace

// From "ipv4:10.0.0.7:50412" or "ipv6:%5B::1%5D:50412".
std::string Authority::address_of(const grpc::ServerContextBase& context) {
  if (is_unix(context)) return "unix";
  const std::string peer = context.peer();
  const std::size_t kind = peer.find(':');
  const std::size_t port = peer.rfind(':');
  if (kind == std::string::npos || port <= kind) return peer;
  std::string address = peer.substr(kind + 1, port - kind - 1);
  for (const std::string_view bracket : {"%5B", "%5D", "[", "]"}) {
    if (const std::size_t at = address.find(bracket); at != std::string::npos)
      address.erase(at, bracket.size());
  }
  return address;
}

absl::StatusOr<std::shared_ptr<Credential>> Authority::identify(
    const grpc::AuthContext* connection, std::string_view authorization) const {
  if (!authorization.empty()) {
    if (!authorization.starts_with(kBearer))
      return absl::UnauthenticatedError("authorization must be \"Bearer\" and a token");
    return access_->find_token(authorization.substr(kBearer.size()));
  }
  if (connection != nullptr) {
    const auto certificates = connection->FindPropertyValues("x509_pem_cert");
    if (!certificates.empty()) return access_->find_certificate(view(certificates.front()));
  }
  return absl::UnauthenticatedError(
      "this server wants a login: \"bitrung login FILE\", or --login FILE; a worker wants "
      "\"bitrung-worker enrol FILE\"");
}

absl::Status Authority::check_role(const Permission& permission, const Credential& credential) {
  const bool allowed = credential.role == Role::kWorker
                           ? permission.worker
                           : permission.least && credential.role >= *permission.least;
  if (allowed) return absl::OkStatus();
  const std::string wanted = permission.least
                                 ? fmt::format("role {} or above", auth::name(*permission.least))
                                 : "a worker's certificate";
  return absl::PermissionDeniedError(fmt::format("{} wants {}; {} has role {}",
                                                 short_name(permission.method), wanted,
                                                 credential.name, auth::name(credential.role)));
}

absl::Status Authority::check_rate(Credential& credential) const {
  // A worker's calls are its session and transfers, few and long.
  if (credential.role == Role::kWorker) return absl::OkStatus();
  const std::lock_guard lock(credential.bucket_mutex);
  const Time now = access_->steady();
  if (credential.bucket.take(now)) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("more than {} calls a second with one token ({} at once); wait {:.1f} s",
                  Credential::kRequests.per_second, Credential::kRequests.burst,
                  credential.bucket.wait_seconds(now)));
}

absl::Status Authority::add_failed_login(std::string_view address) const {
  const Time now = access_->steady();
  const double wait = failed_logins_.wait_seconds(address, now);
  if (wait > 0) {
    return absl::ResourceExhaustedError(
        fmt::format("{} logins from {} have failed, the limit is 10 a minute; wait {:.0f} s",
                    FailedLogins::kRate.burst, address, std::ceil(wait)));
  }
  failed_logins_.add(address, now);
  return absl::OkStatus();
}

absl::Status Authority::add_failed_login(const grpc::ServerContextBase& context) const {
  if (access_ == nullptr || is_unix(context)) return absl::OkStatus();
  return add_failed_login(address_of(context));
}

absl::StatusOr<Caller> Authority::admit(const grpc::ServerContextBase& context,
                                        std::string_view method, std::string_view subject) const {
  const Permission* const permission = find_permission(method);
  if (permission == nullptr)
    return absl::PermissionDeniedError(fmt::format("nobody may call {}", method));
  Caller caller;
  if (!is_unix(context)) {
    if (access_ == nullptr)
      return absl::UnauthenticatedError("this server knows its owner only, by the unix socket");
    std::string address = address_of(context);
    const auto shown = context.client_metadata().find("authorization");
    auto credential = identify(
        context.auth_context().get(),
        shown == context.client_metadata().end() ? std::string_view() : view(shown->second));
    if (!credential.ok()) {
      BITRUNG_RETURN_IF_ERROR(add_failed_login(address));
      spdlog::warn("refused {} from {}: {}", short_name(method), address,
                   message(credential.status()));
      return credential.status();
    }
    if (absl::Status status = check_role(*permission, **credential); !status.ok()) {
      spdlog::warn("refused a call from {}: {}", address, message(status));
      return status;
    }
    BITRUNG_RETURN_IF_ERROR(check_rate(**credential));
    caller = Caller(*std::move(credential), std::move(address));
  }
  if (permission->audited && access_ != nullptr) {
    BITRUNG_RETURN_IF_ERROR(
        access_->append_audit({.id = 0,
                               .at_ms = 0,
                               .name = std::string(caller.name()),
                               .credential = std::string(caller.credential()),
                               .address = std::string(caller.address()),
                               .method = std::string(short_name(method)),
                               .subject = std::string(subject.substr(0, kSubjectBytesMax))}));
  }
  return caller;
}

// Runs before any service, for every call over TLS. Our own services ask the authority themselves,
// because only they know the peer's address; gRPC's own do not ask.
class LibraryCalls final : public grpc::AuthMetadataProcessor {
 public:
  explicit LibraryCalls(const Authority& authority) : authority_(authority) {}

  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* connection,
                       OutputMetadata* /*consumed*/, OutputMetadata* /*response*/) override {
    const auto path = metadata.find(":path");
    std::string_view method = path == metadata.end() ? std::string_view() : view(path->second);
    if (method.starts_with('/')) method.remove_prefix(1);
    const Permission* const permission = find_permission(method);
    if (permission == nullptr) {
      return {grpc::StatusCode::PERMISSION_DENIED, fmt::format("nobody may call {}", method)};
    }
    if (method.starts_with(kOurs)) return grpc::Status::OK;
    const auto shown = metadata.find("authorization");
    const auto credential = authority_.identify(
        connection, shown == metadata.end() ? std::string_view() : view(shown->second));
    if (!credential.ok()) return to_grpc(credential.status());
    if (const absl::Status status = Authority::check_role(*permission, **credential); !status.ok())
      return to_grpc(status);
    return to_grpc(authority_.check_rate(**credential));
  }

 private:
  const Authority& authority_;
};

std::shared_ptr<grpc::ServerCredentials> make_server_credentials(const ServerIdentity& identity,
                                                                 const Authority& authority) {
  grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = identity.authority_pem;
  options.pem_key_cert_pairs.push_back({identity.key_pem, identity.certificate_pem});
  auto credentials = grpc::SslServerCredentials(options);
  credentials->SetAuthMetadataProcessor(std::make_shared<LibraryCalls>(authority));
  return credentials;
}

}  // namespace bitrung::auth
