#include "worker/agent/record_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "db/base/check.h"
#include "db/base/status.h"
#include "worker/agent/record_format.h"

namespace bitrung::agent {
namespace {

constexpr char kData = 'd';
constexpr char kWatermark = 'w';

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
      end_, scan_records(file_.get(), path_, 0, kRecordBytesMax,
                         [&](const Record& record, std::uint64_t offset) {
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
    encode_record(bytes, kData, record);
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
  encode_record(bytes, kWatermark, payload);
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
                           scan_records(file_.get(), path_, index_[entry], kRecordBytesMax, visit));
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
