// What makes a worker known to a server over TLS: a key that never leaves this host and the
// certificate that the server gave for it. In the state directory, folder `identity` (mode 0700).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <grpcpp/security/credentials.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/login_file.h"
#include "worker/agent/state_directory.h"

namespace bitrung::agent {

struct Enrolment {
  std::string server;         // HOST:PORT, as it was at the enrolment.
  std::string authority_pem;  // The server's certificate is from this authority.
  std::string certificate_pem;
  std::string key_pem;
  std::string name;  // Of the worker, by its certificate.
  std::int64_t expires_at_ms = 0;
};

// Nothing if the worker was never enrolled. PERMISSION_DENIED if others may read its key.
absl::StatusOr<std::optional<Enrolment>> load_enrolment(const StateDirectory& state);

// Makes a key, asks the server for a certificate and keeps both; an earlier enrolment is replaced.
absl::StatusOr<Enrolment> enrol(const StateDirectory& state, const LoginFile& file);

// For the server at `address`: none for a unix socket, else mutual TLS.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> channel_credentials(
    const std::string& address, const std::optional<Enrolment>& enrolment);

}  // namespace bitrung::agent
