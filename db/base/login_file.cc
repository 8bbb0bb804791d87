#include "db/base/login_file.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "db/base/certificates.h"
#include "db/base/files.h"
#include "db/base/secret.h"
#include "db/base/status.h"

namespace bitrung {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kFileBytesMax = 64 * 1024;

std::string_view name(LoginFile::Kind kind) {
  return kind == LoginFile::Kind::kLogin ? "login" : "enrolment";
}

std::string_view use(LoginFile::Kind kind) {
  return kind == LoginFile::Kind::kLogin ? "it is used by \"bitrung login FILE\""
                                         : "it is used by \"bitrung-worker enrol FILE\"";
}

}  // namespace

absl::Status write_login_file(const std::filesystem::path& file, const LoginFile& login) {
  Json json;
  json["bitrung"] = name(login.kind);
  json["server"] = login.server;
  json["authority"] = login.authority_pem;
  json["token"] = login.token;
  return write_file_durably(file, json.dump(2) + "\n", 0600);
}

absl::StatusOr<LoginFile> read_login_file(const std::filesystem::path& file, LoginFile::Kind kind) {
  BITRUNG_ASSIGN_OR_RETURN(const std::string text, read_private_file(file, kFileBytesMax));
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  LoginFile login;
  login.kind = kind;
  const auto wrong = [&](std::string_view what) {
    return absl::InvalidArgumentError(
        fmt::format("{} is no {} file of bitrung: {}", file.string(), name(kind), what));
  };
  if (!json.is_object()) return wrong("it is no JSON object");
  const auto text_of = [&](const char* key, std::string& value) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string()) return false;
    value = found->get<std::string>();
    return true;
  };
  std::string kind_name;
  if (!text_of("bitrung", kind_name)) return wrong("it does not say what it is");
  if (kind_name != name(kind)) {
    const bool other = kind_name == name(LoginFile::Kind::kLogin) ||
                       kind_name == name(LoginFile::Kind::kEnrolment);
    return wrong(
        other ? use(kind_name == "login" ? LoginFile::Kind::kLogin : LoginFile::Kind::kEnrolment)
              : "it is of an unknown kind");
  }
  if (!text_of("server", login.server) || login.server.empty()) return wrong("it has no server");
  if (!text_of("authority", login.authority_pem) || !read_certificate(login.authority_pem).ok())
    return wrong("it has no certificate of an authority");
  if (!text_of("token", login.token) || !parse_secret(login.token))
    return wrong("it has no token (bitrung_, 16 hex digits, _, 64 hex digits)");
  return login;
}

}  // namespace bitrung
