#include "db/base/secret.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include <openssl/crypto.h>

#include <fmt/format.h>

#include "db/base/files.h"

namespace bitrung {
namespace {

constexpr std::string_view kPrefix = "bitrung_";
constexpr std::size_t kIdDigits = 16;
constexpr std::size_t kSecretDigits = 64;
constexpr std::size_t kSecretAt = kPrefix.size() + kIdDigits + 1;

bool is_hex(std::string_view text) {
  return std::ranges::all_of(
      text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

Secret make_secret() {
  return *parse_secret(
      fmt::format("{}{}_{}", kPrefix, random_hex(kIdDigits / 2), random_hex(kSecretDigits / 2)));
}

std::optional<Secret> parse_secret(std::string_view text) {
  if (text.size() != kSecretAt + kSecretDigits || !text.starts_with(kPrefix) ||
      text[kSecretAt - 1] != '_') {
    return std::nullopt;
  }
  const std::string_view id = text.substr(kPrefix.size(), kIdDigits);
  if (!is_hex(id) || !is_hex(text.substr(kSecretAt))) return std::nullopt;
  return Secret{std::string(text), std::string(id), sha256(text)};
}

bool same_digest(const Digest& a, const Digest& b) {
  return CRYPTO_memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0;
}

absl::StatusOr<std::string> read_private_file(const std::filesystem::path& file,
                                              std::size_t size_max) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) return errno_status("open", file, errno);
  if ((info.st_mode & 077U) != 0) {
    return absl::PermissionDeniedError(
        fmt::format("{} has mode {:04o}, others may use it; the mode must be 0600: chmod 600 {}",
                    file.string(), info.st_mode & 07777U, file.string()));
  }
  return read_file(file, size_max);
}

}  // namespace bitrung
