#include "worker/agent/record_format.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "db/base/files.h"

namespace bitrung::agent {
namespace {

// kTables[0] is the usual table of CRC-32C; kTables[k] is the effect of a byte that k more follow,
// so that eight bytes are taken at a time.
constexpr std::array<std::array<std::uint32_t, 256>, 8> make_crc_tables() {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value & 1 ? value >> 1 ^ 0x82F63B78U : value >> 1;
    tables[0][i] = value;
  }
  for (std::size_t k = 1; k < tables.size(); ++k) {
    for (std::size_t i = 0; i < 256; ++i) {
      const std::uint32_t before = tables[k - 1][i];
      tables[k][i] = tables[0][before & 0xFF] ^ before >> 8;
    }
  }
  return tables;
}
constexpr std::array<std::array<std::uint32_t, 256>, 8> kTables = make_crc_tables();

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0U;
  while (bytes.size() >= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), 8);
    word ^= crc;
    crc = 0;
    for (std::size_t i = 0; i < 8; ++i) crc ^= kTables[7 - i][word >> (8 * i) & 0xFF];
    bytes.remove_prefix(8);
  }
  for (const char c : bytes)
    crc = kTables[0][(crc ^ static_cast<unsigned char>(c)) & 0xFF] ^ crc >> 8;
  return ~crc;
}

}  // namespace

void encode_record(std::string& out, char kind, std::string_view payload) {
  const std::size_t start = out.size();
  out.resize(start + kRecordHeaderBytes);
  out[start + 8] = kind;
  out += payload;
  const auto length = static_cast<std::uint32_t>(payload.size());
  const std::uint32_t crc = crc32c(std::string_view(out).substr(start + 8));
  std::memcpy(out.data() + start, &length, 4);
  std::memcpy(out.data() + start + 4, &crc, 4);
}

absl::StatusOr<std::uint64_t> scan_records(
    int fd, const std::filesystem::path& path, std::uint64_t offset, std::size_t payload_bytes_max,
    const std::function<bool(const Record&, std::uint64_t)>& visit) {
  std::string buffer;
  std::size_t used = 0;
  bool end_of_file = false;
  while (true) {
    std::string_view rest = std::string_view(buffer).substr(used);
    if (rest.size() >= kRecordHeaderBytes) {
      std::uint32_t length = 0;
      std::uint32_t crc = 0;
      std::memcpy(&length, rest.data(), 4);
      std::memcpy(&crc, rest.data() + 4, 4);
      if (length > payload_bytes_max) return offset;
      const std::size_t whole = kRecordHeaderBytes + length;
      if (rest.size() >= whole) {
        if (crc32c(rest.substr(8, length + 1)) != crc) return offset;
        if (!visit({rest[8], rest.substr(kRecordHeaderBytes, length)}, offset)) return offset;
        used += whole;
        offset += whole;
        continue;
      }
    }
    if (end_of_file) return offset;
    buffer.erase(0, used);
    used = 0;
    const std::size_t have = buffer.size();
    buffer.resize(have + 2 * payload_bytes_max);
    ssize_t got = 0;
    do {
      got = ::pread(fd, buffer.data() + have, buffer.size() - have,
                    static_cast<off_t>(offset + have));
    } while (got < 0 && errno == EINTR);
    if (got < 0) return errno_status("read", path, errno);
    buffer.resize(have + static_cast<std::size_t>(got));
    end_of_file = got == 0;
  }
}

}  // namespace bitrung::agent
