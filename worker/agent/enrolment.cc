#include "worker/agent/enrolment.h"

#include <chrono>
#include <filesystem>

#include <fmt/format.h>
#include <grpcpp/client_context.h>

#include "bitrung/v1/access_service.grpc.pb.h"
#include "db/base/certificates.h"
#include "db/base/files.h"
#include "db/base/secret.h"
#include "db/base/status.h"
#include "worker/agent/session.h"

namespace bitrung::agent {
namespace {

constexpr std::size_t kFileBytesMax = 64 * 1024;
constexpr std::chrono::seconds kCallTimeout{30};

struct Files {
  explicit Files(const StateDirectory& state) : directory(state.path() / "identity") {}
  std::filesystem::path directory;
  std::filesystem::path key() const { return directory / "key.pem"; }
  std::filesystem::path authority() const { return directory / "authority.pem"; }
  std::filesystem::path server() const { return directory / "server"; }
  // Written last: with it the enrolment is whole.
  std::filesystem::path certificate() const { return directory / "certificate.pem"; }
};

absl::Status error_of(const grpc::Status& status, const std::string& server) {
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kDeadlineExceeded) {
    return {code,
            fmt::format("no answer from the server at {} ({})", server, status.error_message())};
  }
  return {code, status.error_message()};
}

}  // namespace

absl::StatusOr<std::optional<Enrolment>> load_enrolment(const StateDirectory& state) {
  const Files files(state);
  Enrolment enrolment;
  absl::StatusOr<std::string> certificate = read_file(files.certificate(), kFileBytesMax);
  if (absl::IsNotFound(certificate.status())) return std::optional<Enrolment>();
  BITRUNG_RETURN_IF_ERROR(certificate.status());
  enrolment.certificate_pem = *std::move(certificate);
  BITRUNG_ASSIGN_OR_RETURN(const CertificateFacts facts,
                           read_certificate(enrolment.certificate_pem));
  enrolment.name = facts.common_name;
  enrolment.expires_at_ms = facts.expires_at_ms;
  BITRUNG_ASSIGN_OR_RETURN(enrolment.key_pem, read_private_file(files.key(), kFileBytesMax));
  BITRUNG_ASSIGN_OR_RETURN(enrolment.authority_pem, read_file(files.authority(), kFileBytesMax));
  BITRUNG_ASSIGN_OR_RETURN(enrolment.server, read_file(files.server(), kFileBytesMax));
  return enrolment;
}

absl::StatusOr<Enrolment> enrol(const StateDirectory& state, const LoginFile& file) {
  Enrolment enrolment{.server = file.server,
                      .authority_pem = file.authority_pem,
                      .certificate_pem = {},
                      .key_pem = {},
                      .name = {},
                      .expires_at_ms = 0};
  BITRUNG_ASSIGN_OR_RETURN(enrolment.key_pem, make_private_key());
  v1::EnrolWorkerRequest request;
  request.set_token(file.token);
  request.set_worker_id(state.worker_id());
  BITRUNG_ASSIGN_OR_RETURN(*request.mutable_certificate_request_pem(),
                           make_certificate_request(enrolment.key_pem));

  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = file.authority_pem;
  BITRUNG_ASSIGN_OR_RETURN(const ServerAddress server, parse_server_address(file.server));
  const auto stub =
      v1::AccessService::NewStub(make_channel(server, grpc::SslCredentials(tls), false));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
  v1::EnrolWorkerResponse response;
  if (const grpc::Status status = stub->EnrolWorker(&context, request, &response); !status.ok())
    return error_of(status, file.server);
  enrolment.certificate_pem = response.certificate_pem();
  BITRUNG_ASSIGN_OR_RETURN(const CertificateFacts facts,
                           read_certificate(enrolment.certificate_pem));
  enrolment.name = facts.common_name;
  enrolment.expires_at_ms = facts.expires_at_ms;

  const Files files(state);
  BITRUNG_RETURN_IF_ERROR(make_directories(files.directory, 0700));
  // A crash in between leaves a certificate that does not fit its key, or none: enrol again.
  BITRUNG_RETURN_IF_ERROR(write_file_durably(files.key(), enrolment.key_pem, 0600));
  BITRUNG_RETURN_IF_ERROR(write_file_durably(files.authority(), enrolment.authority_pem, 0600));
  BITRUNG_RETURN_IF_ERROR(write_file_durably(files.server(), enrolment.server, 0600));
  BITRUNG_RETURN_IF_ERROR(write_file_durably(files.certificate(), enrolment.certificate_pem, 0600));
  return enrolment;
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> channel_credentials(
    const std::string& address, const std::optional<Enrolment>& enrolment) {
  if (address.starts_with("unix:")) return grpc::InsecureChannelCredentials();
  if (!enrolment) {
    return absl::FailedPreconditionError(fmt::format(
        "the server at {} wants a certificate and this worker has none; an operator makes an "
        "enrolment with \"bitrung enrol NAME\", then: bitrung-worker enrol FILE --state-dir DIR",
        address));
  }
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = enrolment->authority_pem;
  tls.pem_private_key = enrolment->key_pem;
  tls.pem_cert_chain = enrolment->certificate_pem;
  return grpc::SslCredentials(tls);
}

}  // namespace bitrung::agent
