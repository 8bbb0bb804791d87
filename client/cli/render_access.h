// Tokens and the audit log as text, TSV and JSON. Pure; `now_ms` is the wall clock that ages are
// counted from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bitrung/v1/access_service.pb.h"
#include "client/cli/output.h"

namespace bitrung::cli {

std::string render_tokens(const std::vector<v1::Token>& tokens, OutputMode mode, const Style& style,
                          std::int64_t now_ms);

// Newest first, as the server gives them.
std::string render_audit(const std::vector<v1::AuditEntry>& entries, OutputMode mode,
                         const Style& style, std::int64_t now_ms);

// "valid", "expired" or "revoked".
std::string token_state(const v1::Token& token, std::int64_t now_ms);

}  // namespace bitrung::cli
