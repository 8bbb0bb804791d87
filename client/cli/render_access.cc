#include "client/cli/render_access.h"

#include <fmt/format.h>

#include "client/cli/json_shapes.h"

namespace bitrung::cli {
namespace {

Json token_json(const v1::Token& token, std::int64_t now_ms) {
  Json json;
  json["id"] = token.id();
  json["name"] = token.name();
  json["role"] = token.role();
  json["state"] = token_state(token, now_ms);
  json["created_by"] = token.created_by();
  json["created_at_ms"] = token.created_at_ms();
  json["expires_at_ms"] = token.expires_at_ms();
  json["revoked_at_ms"] = token.revoked_at_ms() == 0 ? Json(nullptr) : Json(token.revoked_at_ms());
  return json;
}

Json audit_json(const v1::AuditEntry& entry) {
  Json json;
  json["id"] = entry.id();
  json["time_ms"] = entry.time_ms();
  json["name"] = entry.name();
  json["credential"] = entry.credential();
  json["address"] = entry.address();
  json["method"] = entry.method();
  json["subject"] = entry.subject();
  return json;
}

std::string when_it_ends(const v1::Token& token, std::int64_t now_ms) {
  if (token.revoked_at_ms() != 0) return format_age(now_ms, token.revoked_at_ms());
  if (token.expires_at_ms() <= now_ms) return format_age(now_ms, token.expires_at_ms());
  return fmt::format("in {}",
                     format_duration(static_cast<double>(token.expires_at_ms() - now_ms) / 1000));
}

}  // namespace

std::string token_state(const v1::Token& token, std::int64_t now_ms) {
  if (token.revoked_at_ms() != 0) return "revoked";
  return token.expires_at_ms() <= now_ms ? "expired" : "valid";
}

std::string render_tokens(const std::vector<v1::Token>& tokens, OutputMode mode, const Style& style,
                          std::int64_t now_ms) {
  if (mode == OutputMode::kJson) {
    Json json;
    json["tokens"] = Json::array();
    for (const v1::Token& token : tokens) json["tokens"].push_back(token_json(token, now_ms));
    return json_text(json);
  }
  if (mode == OutputMode::kTsv) {
    std::string out =
        tsv_line({"id", "name", "role", "state", "created_by", "created_at_ms", "expires_at_ms"});
    for (const v1::Token& token : tokens) {
      out += tsv_line({token.id(), token.name(), token.role(), token_state(token, now_ms),
                       token.created_by(), fmt::format("{}", token.created_at_ms()),
                       fmt::format("{}", token.expires_at_ms())});
    }
    return out;
  }
  Table table({{"id", Align::kLeft},
               {"name", Align::kLeft},
               {"role", Align::kLeft},
               {"state", Align::kLeft},
               {"ends", Align::kLeft},
               {"made by", Align::kLeft},
               {"made", Align::kLeft}});
  for (const v1::Token& token : tokens) {
    const std::string state = token_state(token, now_ms);
    table.add_row({token.id(), printable(token.name()), token.role(),
                   Cell(state, state == "valid" ? Tone::kGood : Tone::kFaint),
                   when_it_ends(token, now_ms), printable(token.created_by()),
                   format_age(now_ms, token.created_at_ms())});
  }
  return table.text(style);
}

std::string render_audit(const std::vector<v1::AuditEntry>& entries, OutputMode mode,
                         const Style& style, std::int64_t now_ms) {
  if (mode == OutputMode::kJson) {
    Json json;
    json["entries"] = Json::array();
    for (const v1::AuditEntry& entry : entries) json["entries"].push_back(audit_json(entry));
    return json_text(json);
  }
  if (mode == OutputMode::kTsv) {
    std::string out =
        tsv_line({"id", "time_ms", "name", "credential", "address", "method", "subject"});
    for (const v1::AuditEntry& entry : entries) {
      out +=
          tsv_line({fmt::format("{}", entry.id()), fmt::format("{}", entry.time_ms()), entry.name(),
                    entry.credential(), entry.address(), entry.method(), entry.subject()});
    }
    return out;
  }
  if (entries.empty()) return "nothing yet\n";
  Table table({{"when", Align::kLeft},
               {"who", Align::kLeft},
               {"from", Align::kLeft},
               {"call", Align::kLeft},
               {"about", Align::kLeft}});
  for (const v1::AuditEntry& entry : entries) {
    const std::string_view method = entry.method();
    table.add_row({format_age(now_ms, entry.time_ms()), printable(entry.name()),
                   printable(entry.address()), std::string(method.substr(method.find('/') + 1)),
                   printable(entry.subject())});
  }
  return table.text(style);
}

}  // namespace bitrung::cli
