#include "worker/agent/record_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>

#include <fmt/format.h>

#include "db/base/check.h"
#include "db/base/status.h"

namespace bitrung::agent {
namespace {

// On disk: length of the payload, CRC-32C of kind and payload, kind, payload. Little endian, as
// every host we run on.
constexpr std::size_t kHeaderBytes = 4 + 4 + 1;
constexpr char kData = 'd';
constexpr char kWatermark = 'w';

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value & 1 ? value >> 1 ^ 0x82F63B78U : value >> 1;
    table[i] = value;
  }
  return table;
}
constexpr std::array<std::uint32_t, 256> kCrcTable = make_crc_table();

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0U;
  for (const char c : bytes)
    crc = kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF] ^ crc >> 8;
  return ~crc;
}

void encode(std::string& out, char kind, std::string_view payload) {
  const std::size_t start = out.size();
  out.resize(start + kHeaderBytes);
  out[start + 8] = kind;
  out += payload;
  const auto length = static_cast<std::uint32_t>(payload.size());
  const std::uint32_t crc = crc32c(std::string_view(out).substr(start + 8));
  std::memcpy(out.data() + start, &length, 4);
  std::memcpy(out.data() + start + 4, &crc, 4);
}

struct Record {
  char kind = 0;
  std::string_view payload;
};

// Calls `visit(record, offset)` for each intact record from `offset` on until it returns false, the
// file ends or a record is damaged; returns the offset reached.
absl::StatusOr<std::uint64_t> scan(int fd, const std::filesystem::path& path, std::uint64_t offset,
                                   const std::function<bool(const Record&, std::uint64_t)>& visit) {
  std::string buffer;
  std::size_t used = 0;
  bool end_of_file = false;
  while (true) {
    std::string_view rest = std::string_view(buffer).substr(used);
    if (rest.size() >= kHeaderBytes) {
      std::uint32_t length = 0;
      std::uint32_t crc = 0;
      std::memcpy(&length, rest.data(), 4);
      std::memcpy(&crc, rest.data() + 4, 4);
      if (length > RecordLog::kRecordBytesMax) return offset;
      const std::size_t whole = kHeaderBytes + length;
      if (rest.size() >= whole) {
        if (crc32c(rest.substr(8, length + 1)) != crc) return offset;
        if (!visit({rest[8], rest.substr(kHeaderBytes, length)}, offset)) return offset;
        used += whole;
        offset += whole;
        continue;
      }
    }
    if (end_of_file) return offset;
    buffer.erase(0, used);
    used = 0;
    const std::size_t have = buffer.size();
    buffer.resize(have + 2 * RecordLog::kRecordBytesMax);
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

}  // namespace

absl::StatusOr<RecordLog> RecordLog::open(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!file.valid()) return errno_status("open", path, errno);
  RecordLog log(path, std::move(file));
  BITRUNG_RETURN_IF_ERROR(log.replay());
  return log;
}

absl::Status RecordLog::replay() {
  BITRUNG_ASSIGN_OR_RETURN(
      end_, scan(file_.get(), path_, 0, [&](const Record& record, std::uint64_t offset) {
        if (record.kind == kData) {
          if (size_ % kIndexStride == 0) index_.push_back(offset);
          ++size_;
        } else if (record.kind == kWatermark && record.payload.size() == 8) {
          std::memcpy(&acknowledged_, record.payload.data(), 8);
        }
        return true;
      }));
  acknowledged_ = std::min(acknowledged_, size_);
  struct stat info {};
  if (::fstat(file_.get(), &info) != 0) return errno_status("stat", path_, errno);
  if (static_cast<std::uint64_t>(info.st_size) > end_ &&
      ::ftruncate(file_.get(), static_cast<off_t>(end_)) != 0) {
    return errno_status("cut the torn end of", path_, errno);
  }
  return absl::OkStatus();
}

absl::Status RecordLog::write(std::string_view bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t put = ::pwrite(file_.get(), bytes.data() + done, bytes.size() - done,
                                 static_cast<off_t>(end_ + done));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      const absl::Status status = errno_status("write", path_, put < 0 ? errno : ENOSPC);
      // Half a record must not stay in front of the next one. If even this fails the end is torn,
      // and the next append writes over it.
      if (::ftruncate(file_.get(), static_cast<off_t>(end_)) != 0) return status;
      return status;
    }
    done += static_cast<std::size_t>(put);
  }
  return absl::OkStatus();
}

absl::Status RecordLog::append(std::span<const std::string> records) {
  std::string bytes;
  std::vector<std::uint64_t> index;
  std::uint64_t size = size_;
  for (const std::string& record : records) {
    BITRUNG_CHECK(record.size() <= kRecordBytesMax);
    if (size % kIndexStride == 0) index.push_back(end_ + bytes.size());
    ++size;
    encode(bytes, kData, record);
  }
  BITRUNG_RETURN_IF_ERROR(write(bytes));
  end_ += bytes.size();
  size_ = size;
  index_.insert(index_.end(), index.begin(), index.end());
  return absl::OkStatus();
}

absl::Status RecordLog::acknowledge(std::uint64_t watermark) {
  watermark = std::min(watermark, size_);
  if (watermark <= acknowledged_) return absl::OkStatus();
  std::string payload(8, '\0');
  std::memcpy(payload.data(), &watermark, 8);
  std::string bytes;
  encode(bytes, kWatermark, payload);
  BITRUNG_RETURN_IF_ERROR(write(bytes));
  end_ += bytes.size();
  acknowledged_ = watermark;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> RecordLog::read(std::uint64_t first,
                                                         std::uint64_t count) const {
  BITRUNG_CHECK(first >= 1);
  std::vector<std::string> records;
  if (first > size_ || count == 0) return records;
  const std::uint64_t last = std::min(size_, first + count - 1);
  const std::uint64_t entry = (first - 1) / kIndexStride;
  std::uint64_t number = entry * kIndexStride;
  const auto visit = [&](const Record& record, std::uint64_t) {
    if (record.kind != kData) return true;
    ++number;
    if (number >= first) records.emplace_back(record.payload);
    return number < last;
  };
  BITRUNG_ASSIGN_OR_RETURN(const std::uint64_t reached,
                           scan(file_.get(), path_, index_[entry], visit));
  if (number < last) {
    return absl::DataLossError(
        fmt::format("{} is damaged at byte {}: record {} of {} cannot be read", path_.string(),
                    reached, number + 1, size_));
  }
  return records;
}

absl::StatusOr<FileDescriptor> RecordLog::duplicate() const {
  FileDescriptor copy(::fcntl(file_.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return errno_status("duplicate the descriptor of", path_, errno);
  return copy;
}

}  // namespace bitrung::agent
