// How this process uses TLS: version 1.3 and nothing older, for all of gRPC.
#pragma once

namespace bitrung {

// Before the first use of gRPC or OpenSSL, and before the first thread.
void require_tls13();

}  // namespace bitrung
