// Room on the server's disk that running jobs can count on when everything else is full.
//
// Three lines, from the first that a filling disk crosses to the last:
//   kSubmitFloorBytes  below it no new experiment is accepted
//   kUploadFloorBytes  below it no artifact is accepted: what is left is for the database alone
//   kReleaseBytes      below it the reserve, a preallocated file, is given up to the database
// The reserve is made again when there is room for it above the first line. Other programs that
// fill the disk cannot take it, and the database, which alone is below the second line, needs
// little: 64 MiB hold more than 10,000 outcomes.
//
// On a disk below 5 GiB the lines and the reserve are smaller in proportion: 5 % of it is the
// first. Where the file system cannot preallocate, the lines remain. Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitrung {

// 64 MiB for the database as above, 64 MiB that its log may have after a large transaction, and
// 128 MiB for the checkpoints of the trainings at work: eight slots with a ResNet-18 and its
// optimizer's state.
inline constexpr std::uint64_t kSubmitFloorBytes = std::uint64_t{256} << 20;
inline constexpr std::uint64_t kUploadFloorBytes = std::uint64_t{64} << 20;
inline constexpr std::uint64_t kReserveBytes = std::uint64_t{64} << 20;
inline constexpr std::uint64_t kReleaseBytes = std::uint64_t{32} << 20;

class DiskReserve {
 public:
  struct Space {
    std::uint64_t free = 0;  // For this user.
    std::uint64_t total = 0;
  };
  using LookUp = std::function<absl::StatusOr<Space>(const std::filesystem::path&)>;
  // statvfs().
  static absl::StatusOr<Space> look_up(const std::filesystem::path& directory);

  // Touches nothing yet: the first keep_up() does, when the caller has the directory for itself.
  static absl::StatusOr<std::unique_ptr<DiskReserve>> open(std::filesystem::path directory,
                                                           LookUp look_up = DiskReserve::look_up);

  // RESOURCE_EXHAUSTED, with what is free and what to do, where the disk is too full for it.
  absl::Status admit_submit();
  absl::Status admit_upload(std::uint64_t bytes);
  // Gives the reserve up if the disk is nearly full, and makes it again when there is room. Before
  // each transaction: it costs a system call.
  void keep_up();

  bool is_held() const;

 private:
  DiskReserve(std::filesystem::path directory, LookUp look_up, std::uint64_t total);
  void keep_up_with(const Space& space);
  std::uint64_t scaled(std::uint64_t bytes) const;
  absl::Status refuse(std::string_view what, std::uint64_t free, std::uint64_t floor) const;

  const std::filesystem::path directory_;
  const std::filesystem::path file_;
  const LookUp look_up_;
  const std::uint64_t total_;
  mutable std::mutex mutex_;
  bool is_ours_ = false;  // The file of an earlier run is gone.
  bool held_ = false;
  bool can_hold_ = true;  // The file system can preallocate.
};

}  // namespace bitrung
