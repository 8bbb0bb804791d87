// TLS 1.3 and nothing older, for all of gRPC in this process.
#pragma once

#include <cstdlib>

namespace bitrung {

// gRPC 1.51 has no setting for the lowest version, only one for the ciphers of TLS 1.2
// (GRPC_SSL_CIPHER_SUITES); those of TLS 1.3 are a list of their own. Our keys are EC keys, so with
// one cipher for RSA keys alone no handshake of TLS 1.2 can succeed. Before the first use of gRPC
// and before the first thread.
inline void require_tls13() {
  ::setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384", 1);
}

}  // namespace bitrung
