// An append-only file of numbered records with a watermark: the spool's points and log lines.
//
// Records are numbered from 1 in the order of their appends. Each carries its length and a CRC-32C;
// what a crash tore at the end is cut off when the file is opened. Not thread-safe. An append is
// one write(2) and is not synced: it survives the death of the process, and sync() makes it survive
// the death of the host.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "db/base/files.h"

namespace bitrung::agent {

class RecordLog {
 public:
  static constexpr std::size_t kRecordBytesMax = std::size_t{64} << 10;

  // Creates the file or reads it through, cutting off a torn end.
  static absl::StatusOr<RecordLog> open(const std::filesystem::path& path);

  // Appends all of them or, on an error (a full disk), none.
  absl::Status append(std::span<const std::string> records);
  // Records up to this number need not be sent again. Never falls; a number beyond size() means
  // size().
  absl::Status acknowledge(std::uint64_t watermark);
  // At most `count` records from number `first` on.
  absl::StatusOr<std::vector<std::string>> read(std::uint64_t first, std::uint64_t count) const;

  std::uint64_t size() const { return size_; }
  std::uint64_t acknowledged() const { return acknowledged_; }
  const std::filesystem::path& path() const { return path_; }
  // A second descriptor of the same file, to be synced on another thread.
  absl::StatusOr<FileDescriptor> duplicate() const;

 private:
  // The start of every kIndexStride-th record is remembered, so that reading on is not reading all.
  static constexpr std::uint64_t kIndexStride = 256;

  RecordLog(std::filesystem::path path, FileDescriptor file)
      : path_(std::move(path)), file_(std::move(file)) {}
  absl::Status replay();
  absl::Status write(std::string_view bytes);

  std::filesystem::path path_;
  FileDescriptor file_;
  std::uint64_t end_ = 0;  // Bytes of the file.
  std::uint64_t size_ = 0;
  std::uint64_t acknowledged_ = 0;
  std::vector<std::uint64_t> index_;  // index_[i] is the offset of record i * kIndexStride + 1.
};

}  // namespace bitrung::agent
