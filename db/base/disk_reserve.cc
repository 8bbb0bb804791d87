#include "db/base/disk_reserve.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "db/base/files.h"
#include "db/base/status.h"

namespace bitrung {
namespace {

constexpr std::string_view kReserveFile = "reserve";
// The first line is at most this part of the disk.
constexpr std::uint64_t kFloorShare = 20;

std::string mib_text(std::uint64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

}  // namespace

absl::StatusOr<DiskReserve::Space> DiskReserve::look_up(const std::filesystem::path& directory) {
  struct statvfs info {};
  if (::statvfs(directory.c_str(), &info) != 0) {
    return errno_status("look for free space in", directory, errno);
  }
  const std::uint64_t block = info.f_frsize;
  return Space{.free = info.f_bavail * block, .total = info.f_blocks * block};
}

DiskReserve::DiskReserve(std::filesystem::path directory, LookUp look_up, std::uint64_t total)
    : directory_(std::move(directory)),
      file_(directory_ / kReserveFile),
      look_up_(std::move(look_up)),
      total_(total) {}

absl::StatusOr<std::unique_ptr<DiskReserve>> DiskReserve::open(std::filesystem::path directory,
                                                               LookUp look_up) {
  BITRUNG_ASSIGN_OR_RETURN(const Space space, look_up(directory));
  return std::unique_ptr<DiskReserve>(
      new DiskReserve(std::move(directory), std::move(look_up), space.total));
}

std::uint64_t DiskReserve::scaled(std::uint64_t bytes) const {
  const std::uint64_t floor = std::min(kSubmitFloorBytes, total_ / kFloorShare);
  return static_cast<std::uint64_t>(static_cast<double>(bytes) * static_cast<double>(floor) /
                                    static_cast<double>(kSubmitFloorBytes));
}

absl::Status DiskReserve::refuse(std::string_view what, std::uint64_t free,
                                 std::uint64_t floor) const {
  return absl::ResourceExhaustedError(
      fmt::format("the server's disk is full: {} has {} free, and below {} {} is accepted, so that "
                  "running jobs can finish and report; free {} there, or move the state directory "
                  "to a larger disk, and try again",
                  directory_.string(), mib_text(free), mib_text(floor), what,
                  mib_text(floor - std::min(floor, free))));
}

absl::Status DiskReserve::admit_submit() {
  BITRUNG_ASSIGN_OR_RETURN(const Space space, look_up_(directory_));
  const std::lock_guard lock(mutex_);
  keep_up_with(space);
  const std::uint64_t floor = scaled(kSubmitFloorBytes);
  if (space.free >= floor) return absl::OkStatus();
  return refuse("no new experiment", space.free, floor);
}

absl::Status DiskReserve::admit_upload(std::uint64_t bytes) {
  BITRUNG_ASSIGN_OR_RETURN(const Space space, look_up_(directory_));
  const std::uint64_t floor = scaled(kUploadFloorBytes) + bytes;
  if (space.free >= floor) return absl::OkStatus();
  return refuse("no such artifact", space.free, floor);
}

void DiskReserve::keep_up() {
  const auto space = look_up_(directory_);
  if (!space.ok()) return;  // The write that follows meets the same disk.
  const std::lock_guard lock(mutex_);
  keep_up_with(*space);
}

void DiskReserve::keep_up_with(const Space& space) {
  // That of an earlier run may have had another size, or not have been complete.
  if (!std::exchange(is_ours_, true)) ::unlink(file_.c_str());
  if (held_) {
    if (space.free >= scaled(kReleaseBytes)) return;
    ::unlink(file_.c_str());
    held_ = false;
    return;
  }
  const std::uint64_t size = scaled(kReserveBytes);
  if (!can_hold_ || size == 0 || space.free < scaled(kSubmitFloorBytes) + size) return;
  const FileDescriptor fd(::open(file_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return;
  if (::fallocate(fd.get(), 0, 0, static_cast<off_t>(size)) == 0) {
    held_ = true;
    return;
  }
  can_hold_ = errno != EOPNOTSUPP && errno != EFBIG;
  ::unlink(file_.c_str());
}

bool DiskReserve::is_held() const {
  const std::lock_guard lock(mutex_);
  return held_;
}

}  // namespace bitrung
