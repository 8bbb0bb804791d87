// The zip archives that PyTorch writes: entries that are stored as they are, never compressed.
//
// Own bounded reader and writer. Because nothing is inflated, no archive unfolds into more than its
// own size; names are compared, never used as paths. Pure functions of their arguments,
// thread-safe. Format: APPNOTE.TXT of PKWARE, sections 4.3 to 4.5.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace bitrung::interop {

// A network of 110 layers has some 700 tensors, each an entry.
inline constexpr std::size_t kZipEntriesMax = 16 * 1024;
inline constexpr std::size_t kZipNameBytesMax = 512;

// By name; the views are into `bytes`. Accepts exactly: one central directory at the end of the
// bytes; plain stored entries whose local headers agree with it, whose ranges lie in the file and
// do not overlap, whose CRC-32 is right, and whose names differ. Messages do not name the file.
absl::StatusOr<std::map<std::string, std::string_view>> parse_zip(std::string_view bytes);

// The archive with these entries in this order, contents aligned to 64 bytes as PyTorch's are.
// Equal entries give equal bytes: no time is in it. Names must be valid and differ, and the whole
// must stay below 4 GiB (checked).
std::string encode_zip(const std::vector<std::pair<std::string, std::string_view>>& entries);

}  // namespace bitrung::interop
