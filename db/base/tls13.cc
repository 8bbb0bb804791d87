#include "db/base/tls13.h"

#include <cstdlib>

#include <openssl/crypto.h>

namespace bitrung {

void require_tls13() {
  // gRPC 1.51 has no setting for the lowest version, only one for the ciphers of TLS 1.2; those of
  // TLS 1.3 are a list of their own. Our keys are EC keys, so with one cipher for RSA keys alone no
  // handshake of TLS 1.2 can succeed.
  ::setenv("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384", 1);
  // A thread of gRPC may be in the middle of a handshake when the process ends; OpenSSL must not be
  // torn down below it.
  OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);
}

}  // namespace bitrung
