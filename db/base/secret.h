// Secrets that are shown once: tokens of people and enrolments of workers. And files that only
// their owner may read.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "db/base/digest.h"

namespace bitrung {

// "bitrung_" ID "_" SECRET: 16 and 64 hex digits. The id is public and finds the row, the secret
// has 256 random bits.
struct Secret {
  std::string text;
  std::string id;
  Digest sha256;  // Of the whole text: what is stored.
};

Secret make_secret();
// Nothing for a text of another form.
std::optional<Secret> parse_secret(std::string_view text);
// Takes as long for equal as for different digests.
bool same_digest(const Digest& a, const Digest& b);

// Content of a file that only its owner may read or write. PERMISSION_DENIED, with the remedy, when
// others may.
absl::StatusOr<std::string> read_private_file(const std::filesystem::path& file,
                                              std::size_t size_max);

}  // namespace bitrung
