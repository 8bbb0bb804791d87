// X.509 certificates of a private authority: EC P-256 keys, PEM texts. For the server, which issues
// them, and for the worker, which asks for one.
//
// Thread-safe: nothing is kept between calls.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace bitrung {

struct CertificateFacts {
  std::string common_name;
  std::string serial;              // Lower-case hex.
  std::vector<std::string> hosts;  // Host names and addresses that it is valid for.
  std::string worker_id;           // Empty unless it names a worker.
  std::int64_t expires_at_ms = 0;  // Wall clock, milliseconds since 1970.
};

// A certificate together with the authority that issues it.
struct IssuingAuthority {
  std::string certificate_pem;
  std::string key_pem;
};

struct Validity {
  std::int64_t from_ms = 0;  // Wall clock; an hour earlier is written, for clocks that differ.
  std::chrono::seconds lifetime{};
};

// A new private key, PKCS #8 without a password.
absl::StatusOr<std::string> make_private_key();

// A self-signed certificate that may issue others, and no authorities.
absl::StatusOr<IssuingAuthority> make_issuing_authority(std::string_view common_name,
                                                        const Validity& validity);

// For a server that is reached under these host names and addresses; the first is its common name.
absl::StatusOr<std::string> issue_server_certificate(const IssuingAuthority& authority,
                                                     std::string_view key_pem,
                                                     const std::vector<std::string>& hosts,
                                                     const Validity& validity);

// Asks for a certificate for the public half of the key.
absl::StatusOr<std::string> make_certificate_request(std::string_view key_pem);

// For a worker: its name and id are the issuer's words, only the public key is taken from the
// request. INVALID_ARGUMENT for a request that is not signed by its own key, or whose key is no
// EC P-256 key.
absl::StatusOr<std::string> issue_worker_certificate(const IssuingAuthority& authority,
                                                     std::string_view request_pem,
                                                     std::string_view name,
                                                     std::string_view worker_id,
                                                     const Validity& validity);

// INVALID_ARGUMENT if the text holds no certificate.
absl::StatusOr<CertificateFacts> read_certificate(std::string_view certificate_pem);

// SHA-256 of the certificate as upper-case hex pairs with colons, as other tools print it.
absl::StatusOr<std::string> certificate_fingerprint(std::string_view certificate_pem);

}  // namespace bitrung
