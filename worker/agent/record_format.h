// Records in an append-only file: length of the payload, CRC-32C of kind and payload, kind,
// payload; little endian. What a crash tore at the end is told by its length or its checksum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace bitrung::agent {

inline constexpr std::size_t kRecordHeaderBytes = 4 + 4 + 1;

// Appends the record to `out`.
void encode_record(std::string& out, char kind, std::string_view payload);

struct Record {
  char kind = 0;
  std::string_view payload;
};

// Calls `visit(record, offset)` for each intact record from `offset` on until it returns false, the
// file ends or a record is damaged or has more than `payload_bytes_max`; returns the offset
// reached.
absl::StatusOr<std::uint64_t> scan_records(
    int fd, const std::filesystem::path& path, std::uint64_t offset, std::size_t payload_bytes_max,
    const std::function<bool(const Record&, std::uint64_t)>& visit);

}  // namespace bitrung::agent
