#include "server/auth/authority.h"

#include <sys/stat.h>

#include <cerrno>

#include <openssl/crypto.h>

#include <fmt/format.h>

#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung::auth {
namespace {

constexpr std::string_view kPrefix = "bitrung_";
constexpr std::string_view kBearer = "Bearer ";
constexpr std::size_t kTokenFileBytesMax = 4096;

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

}  // namespace

absl::StatusOr<std::string> load_or_create_token(const std::filesystem::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) {
    if (errno != ENOENT) return errno_status("stat", file, errno);
    std::string token = fmt::format("{}{}", kPrefix, random_hex(32));
    BITRUNG_RETURN_IF_ERROR(write_file_durably(file, token + "\n", 0600));
    return token;
  }
  if ((info.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(
        fmt::format("{} can be read by others (mode {:04o}); run: chmod 600 {}", file.string(),
                    info.st_mode & 07777, file.string()));
  }
  BITRUNG_ASSIGN_OR_RETURN(const std::string text, read_file(file, kTokenFileBytesMax));
  const std::string_view token = trimmed(text);
  if (token.size() != kPrefix.size() + 64 || !token.starts_with(kPrefix)) {
    return absl::InvalidArgumentError(
        fmt::format("{} does not hold a token (bitrung_ and 64 hex digits); delete it and the "
                    "server writes a new one",
                    file.string()));
  }
  return std::string(token);
}

grpc::Status Authority::check(const grpc::ServerContextBase& context) const {
  if (context.peer().starts_with("unix:")) return grpc::Status::OK;
  if (has_token_) {
    const auto found = context.client_metadata().find("authorization");
    if (found == context.client_metadata().end()) {
      return {grpc::StatusCode::UNAUTHENTICATED,
              "this server wants a token; pass --token-file FILE or set BITRUNG_TOKEN_FILE"};
    }
    const std::string_view value(found->second.data(), found->second.size());
    if (value.starts_with(kBearer)) {
      const Digest shown = sha256(value.substr(kBearer.size()));
      if (CRYPTO_memcmp(shown.bytes.data(), token_sha256_.bytes.data(), shown.bytes.size()) == 0) {
        return grpc::Status::OK;
      }
    }
  }
  return {grpc::StatusCode::UNAUTHENTICATED, "the token is not this server's; check --token-file"};
}

}  // namespace bitrung::auth
