#include "client/interop/zip.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>

#include "client/interop/little_endian.h"
#include "client/interop/quotes.h"
#include "db/base/check.h"
#include "db/base/status.h"

namespace bitrung::interop {
namespace {

constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::uint32_t kCentralSignature = 0x02014b50;
constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kEnd64Signature = 0x06064b50;
constexpr std::uint32_t kLocator64Signature = 0x07064b50;
constexpr std::size_t kLocalBytes = 30;
constexpr std::size_t kCentralBytes = 46;
constexpr std::size_t kEndBytes = 22;
constexpr std::size_t kEnd64Bytes = 56;
constexpr std::size_t kLocator64Bytes = 20;
constexpr std::uint16_t kExtra64 = 1;
constexpr std::uint16_t kFlagEncrypted = 1;
constexpr std::uint16_t kMethodStored = 0;
constexpr std::uint32_t kIn64 = 0xFFFFFFFF;
constexpr std::size_t kAlignment = 64;

absl::Status damaged(const std::string& what) {
  return absl::InvalidArgumentError("it is a damaged zip archive: " + what);
}

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < table.size(); ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ ((value & 1U) != 0 ? 0xEDB88320U : 0U);
    table[i] = value;
  }
  return table;
}

std::uint32_t crc32(std::string_view bytes) {
  static constexpr std::array<std::uint32_t, 256> kTable = make_crc_table();
  std::uint32_t crc = ~std::uint32_t{0};
  for (const char byte : bytes) {
    crc = crc >> 8 ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xFFU];
  }
  return ~crc;
}

struct Directory {
  std::uint64_t entries = 0;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

// The end record stands last; a comment behind it is not accepted, since then there could be two.
absl::StatusOr<Directory> find_directory(std::string_view bytes) {
  if (bytes.size() < kEndBytes) return damaged("it is too short");
  const std::size_t end = bytes.size() - kEndBytes;
  if (u32_at(bytes, end) != kEndSignature) {
    return damaged("its end is missing; was it copied whole?");
  }
  if (u16_at(bytes, end + 4) != 0 || u16_at(bytes, end + 6) != 0 ||
      u16_at(bytes, end + 8) != u16_at(bytes, end + 10)) {
    return damaged("it is one of several parts");
  }
  Directory directory{u16_at(bytes, end + 10), u32_at(bytes, end + 16), u32_at(bytes, end + 12)};
  if (directory.entries == 0xFFFF || directory.offset == kIn64 || directory.size == kIn64) {
    if (end < kLocator64Bytes || u32_at(bytes, end - kLocator64Bytes) != kLocator64Signature) {
      return damaged("its 64-bit directory is missing");
    }
    const std::uint64_t record = u64_at(bytes, end - kLocator64Bytes + 8);
    if (record > end || end - record < kEnd64Bytes || u32_at(bytes, record) != kEnd64Signature) {
      return damaged("its 64-bit directory is missing");
    }
    directory = {u64_at(bytes, record + 32), u64_at(bytes, record + 48),
                 u64_at(bytes, record + 40)};
  }
  if (directory.entries > kZipEntriesMax) {
    return absl::InvalidArgumentError(fmt::format("its zip archive has {} entries, the limit is {}",
                                                  directory.entries, kZipEntriesMax));
  }
  if (directory.offset > end || directory.size > end - directory.offset) {
    return damaged(fmt::format("its directory is said to be bytes {} to {} of {}", directory.offset,
                               directory.offset + directory.size, bytes.size()));
  }
  return directory;
}

struct Entry {
  std::string name;
  std::uint64_t size = 0;
  std::uint64_t header = 0;  // Where its local header begins.
  std::uint32_t crc = 0;
};

// Fields of 32 bits that are all ones stand in the extra field with 64 bits, in a fixed order.
absl::Status widen(std::string_view extra, std::uint64_t& stored, Entry& entry) {
  while (extra.size() >= 4) {
    const std::uint16_t id = u16_at(extra, 0);
    const std::size_t length = u16_at(extra, 2);
    if (length > extra.size() - 4) break;
    if (id == kExtra64) {
      std::string_view values = extra.substr(4, length);
      for (std::uint64_t* field : {&entry.size, &stored, &entry.header}) {
        if (*field != kIn64) continue;
        if (values.size() < 8) return damaged("a 64-bit size is missing");
        *field = u64_at(values, 0);
        values.remove_prefix(8);
      }
      return absl::OkStatus();
    }
    extra.remove_prefix(4 + length);
  }
  return damaged("a 64-bit size is missing");
}

// Takes one entry of the directory off the front of `rest`.
absl::StatusOr<Entry> take_entry(std::string_view& rest) {
  if (rest.size() < kCentralBytes || u32_at(rest, 0) != kCentralSignature) {
    return damaged("its directory ends early");
  }
  const std::size_t name_bytes = u16_at(rest, 28);
  const std::size_t extra_bytes = u16_at(rest, 30);
  const std::size_t all_bytes = kCentralBytes + name_bytes + extra_bytes + u16_at(rest, 32);
  if (all_bytes > rest.size()) return damaged("its directory ends early");
  Entry entry{.name = std::string(rest.substr(kCentralBytes, name_bytes)),
              .size = u32_at(rest, 24),
              .header = u32_at(rest, 42),
              .crc = u32_at(rest, 16)};
  std::uint64_t stored = u32_at(rest, 20);
  if (entry.name.empty() || name_bytes > kZipNameBytesMax) {
    return damaged(fmt::format("an entry's name has {} bytes, 1 to {} are allowed", name_bytes,
                               kZipNameBytesMax));
  }
  if ((u16_at(rest, 8) & kFlagEncrypted) != 0) {
    return damaged(fmt::format("entry {} is encrypted", in_quotes(entry.name)));
  }
  if (u16_at(rest, 10) != kMethodStored) {
    return absl::InvalidArgumentError(fmt::format(
        "entry {} of its zip archive is compressed, which torch.save never does; unpack "
        "it and save it again in Python: torch.save(torch.load(FILE), FILE)",
        in_quotes(entry.name)));
  }
  if (entry.size == kIn64 || stored == kIn64 || entry.header == kIn64) {
    BITRUNG_RETURN_IF_ERROR(
        widen(rest.substr(kCentralBytes + name_bytes, extra_bytes), stored, entry));
  }
  if (stored != entry.size) {
    return damaged(
        fmt::format("entry {} has {} bytes stored and {} unpacked, though it is not "
                    "compressed",
                    in_quotes(entry.name), stored, entry.size));
  }
  rest.remove_prefix(all_bytes);
  return entry;
}

// From the local header to the end of the content.
struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::string_view content;
};

absl::StatusOr<Range> locate(std::string_view bytes, const Entry& entry,
                             std::uint64_t directory_offset) {
  if (entry.header > directory_offset || directory_offset - entry.header < kLocalBytes ||
      u32_at(bytes, entry.header) != kLocalSignature) {
    return damaged(fmt::format("entry {} is not where the directory says", in_quotes(entry.name)));
  }
  const std::size_t name_bytes = u16_at(bytes, entry.header + 26);
  const std::uint64_t begin =
      entry.header + kLocalBytes + name_bytes + u16_at(bytes, entry.header + 28);
  if (begin > directory_offset || entry.size > directory_offset - begin) {
    return damaged(fmt::format("entry {} claims {} bytes from byte {} on, the file has {}",
                               in_quotes(entry.name), entry.size, begin, bytes.size()));
  }
  if (bytes.substr(entry.header + kLocalBytes, name_bytes) != entry.name ||
      u16_at(bytes, entry.header + 8) != kMethodStored) {
    return damaged(fmt::format("entry {} differs from its directory", in_quotes(entry.name)));
  }
  return Range{entry.header, begin + entry.size, bytes.substr(begin, entry.size)};
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string_view>> parse_zip(std::string_view bytes) {
  BITRUNG_ASSIGN_OR_RETURN(const Directory directory, find_directory(bytes));
  std::string_view rest = bytes.substr(directory.offset, directory.size);
  std::map<std::string, std::string_view> contents;
  std::vector<std::pair<Range, Entry>> found;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    BITRUNG_ASSIGN_OR_RETURN(Entry entry, take_entry(rest));
    BITRUNG_ASSIGN_OR_RETURN(const Range range, locate(bytes, entry, directory.offset));
    if (!contents.emplace(entry.name, range.content).second) {
      return damaged(fmt::format("entry {} occurs twice", in_quotes(entry.name)));
    }
    found.emplace_back(range, std::move(entry));
  }
  if (!rest.empty()) return damaged("its directory is longer than its entries");
  std::ranges::sort(found, {}, [](const auto& pair) { return pair.first.begin; });
  std::uint64_t covered = 0;
  for (const auto& [range, entry] : found) {
    if (range.begin < covered) {
      return damaged(fmt::format("entry {} overlaps another", in_quotes(entry.name)));
    }
    covered = range.end;
  }
  // Only now: disjoint ranges together are no longer than the file, whatever the directory says.
  for (const auto& [range, entry] : found) {
    if (crc32(range.content) != entry.crc) {
      return damaged(fmt::format("the checksum of entry {} is wrong", in_quotes(entry.name)));
    }
  }
  return contents;
}

std::string encode_zip(const std::vector<std::pair<std::string, std::string_view>>& entries) {
  BITRUNG_CHECK(entries.size() <= kZipEntriesMax);
  std::set<std::string_view> names;
  std::string bytes;
  std::string directory;
  for (const auto& [name, content] : entries) {
    BITRUNG_CHECK(!name.empty() && name.size() <= kZipNameBytesMax && names.insert(name).second);
    BITRUNG_CHECK(content.size() < kIn64 && bytes.size() < kIn64 - content.size() - 4096);
    const std::uint32_t crc = crc32(content);
    const auto size = static_cast<std::uint32_t>(content.size());
    const auto header = static_cast<std::uint32_t>(bytes.size());
    const std::size_t unpadded = bytes.size() + kLocalBytes + name.size() + 4;
    const std::size_t padding = (kAlignment - unpadded % kAlignment) % kAlignment;

    // Version 2.0, names in UTF-8, stored; 1 January 1980 is the format's first day.
    std::string common;
    append_u16(common, 20);
    append_u16(common, 1U << 11);
    append_u16(common, kMethodStored);
    append_u16(common, 0);
    append_u16(common, 33);
    append_u32(common, crc);
    append_u32(common, size);
    append_u32(common, size);
    append_u16(common, static_cast<std::uint16_t>(name.size()));

    append_u32(bytes, kLocalSignature);
    bytes += common;
    append_u16(bytes, static_cast<std::uint16_t>(4 + padding));
    bytes += name;
    bytes += "FB";  // An extra field that only fills, under the id that PyTorch uses for it.
    append_u16(bytes, static_cast<std::uint16_t>(padding));
    bytes.append(padding, 'Z');
    bytes += content;

    append_u32(directory, kCentralSignature);
    append_u16(directory, 20);
    directory += common;
    append_u16(directory, 0);  // No extra field, no comment, part 0, no attributes.
    append_u16(directory, 0);
    append_u16(directory, 0);
    append_u16(directory, 0);
    append_u32(directory, 0);
    append_u32(directory, header);
    directory += name;
  }
  const std::size_t offset = bytes.size();
  BITRUNG_CHECK(offset < kIn64 - directory.size());
  bytes += directory;
  append_u32(bytes, kEndSignature);
  append_u32(bytes, 0);
  append_u16(bytes, static_cast<std::uint16_t>(entries.size()));
  append_u16(bytes, static_cast<std::uint16_t>(entries.size()));
  append_u32(bytes, static_cast<std::uint32_t>(directory.size()));
  append_u32(bytes, static_cast<std::uint32_t>(offset));
  append_u16(bytes, 0);
  return bytes;
}

}  // namespace bitrung::interop
