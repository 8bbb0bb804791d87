#include "db/base/disk_reserve.h"

#include "tests/unit/db/db_testing.h"

namespace bitrung {
namespace {

using db::TemporaryDirectory;
using db::value_of;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::uint64_t kMib = std::uint64_t{1} << 20;

// A reserve on a disk whose free space the test says.
struct Disk {
  explicit Disk(std::uint64_t total_mib, std::uint64_t free_mib)
      : space{.free = free_mib * kMib, .total = total_mib * kMib},
        reserve(value_of(DiskReserve::open(
            directory.path(), [this](const std::filesystem::path&) { return space; }))) {
    reserve->keep_up();
  }

  std::uint64_t file_bytes() const {
    std::error_code error;
    const auto size = std::filesystem::file_size(directory.path() / "reserve", error);
    return error ? 0 : size;
  }

  TemporaryDirectory directory;
  DiskReserve::Space space;
  std::unique_ptr<DiskReserve> reserve;
};

TEST(DiskReserve, RoomyDisk_HoldsTheReserveAndAdmitsEverything) {
  Disk disk(100'000, 10'000);
  EXPECT_TRUE(disk.reserve->is_held());
  EXPECT_EQ(disk.file_bytes(), 64 * kMib);
  EXPECT_OK(disk.reserve->admit_submit());
  EXPECT_OK(disk.reserve->admit_upload(1000 * kMib));
}

TEST(DiskReserve, JustBelowTheFirstLine_SubmitsAreRefusedWithWhatIsFreeAndWhatToDo) {
  Disk disk(100'000, 10'000);
  disk.space.free = 256 * kMib;
  EXPECT_OK(disk.reserve->admit_submit());
  disk.space.free = 255 * kMib;
  const absl::Status refused = disk.reserve->admit_submit();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(message(refused)),
              AllOf(HasSubstr("the server's disk is full"), HasSubstr("255.0 MiB free"),
                    HasSubstr("below 256.0 MiB"), HasSubstr("free 1.0 MiB there"),
                    HasSubstr(disk.directory.path().string())));
  // Running jobs bring their checkpoints.
  EXPECT_OK(disk.reserve->admit_upload(100 * kMib));
  EXPECT_TRUE(disk.reserve->is_held());
}

TEST(DiskReserve, BelowTheSecondLine_WhatIsLeftIsForTheDatabase) {
  Disk disk(100'000, 10'000);
  disk.space.free = 74 * kMib;
  EXPECT_OK(disk.reserve->admit_upload(10 * kMib));
  EXPECT_EQ(disk.reserve->admit_upload(11 * kMib).code(), absl::StatusCode::kResourceExhausted);
}

TEST(DiskReserve, BelowTheLastLine_IsGivenUp_AndMadeAgainWhenThereIsRoomAboveTheFirst) {
  Disk disk(100'000, 10'000);
  disk.space.free = 32 * kMib;
  disk.reserve->keep_up();
  EXPECT_TRUE(disk.reserve->is_held());
  disk.space.free = 31 * kMib;
  disk.reserve->keep_up();
  EXPECT_FALSE(disk.reserve->is_held());
  EXPECT_FALSE(std::filesystem::exists(disk.directory.path() / "reserve"));
  disk.space.free = 319 * kMib;
  disk.reserve->keep_up();
  EXPECT_FALSE(disk.reserve->is_held());
  disk.space.free = 320 * kMib;
  disk.reserve->keep_up();
  EXPECT_TRUE(disk.reserve->is_held());
}

TEST(DiskReserve, SmallDisk_HasSmallerLines) {
  Disk disk(1'000, 500);  // A fifth of 5 GiB: the first line is 50 MiB.
  EXPECT_NEAR(static_cast<double>(disk.file_bytes()), 12.5 * kMib, kMib / 10);
  disk.space.free = 50 * kMib;
  EXPECT_OK(disk.reserve->admit_submit());
  disk.space.free = 49 * kMib;
  EXPECT_FALSE(disk.reserve->admit_submit().ok());
}

TEST(DiskReserve, FullFromTheStart_OpensWithoutIt) {
  Disk disk(100'000, 3);
  EXPECT_FALSE(disk.reserve->is_held());
  EXPECT_FALSE(disk.reserve->admit_submit().ok());
}

TEST(DiskReserve, ThatOfAnEarlierRun_IsReplaced) {
  Disk disk(100'000, 10'000);
  const auto again =
      value_of(DiskReserve::open(disk.directory.path(), [](const std::filesystem::path&) {
        return DiskReserve::Space{3 * kMib, 100'000 * kMib};
      }));
  EXPECT_EQ(disk.file_bytes(), 64 * kMib);
  again->keep_up();
  EXPECT_FALSE(again->is_held());
  EXPECT_EQ(disk.file_bytes(), 0U);
}

TEST(DiskReserve, NoDirectory_SaysSo) {
  const absl::Status status = DiskReserve::open("/absent/directory").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
}

// The figure that the header gives for the size of the reserve.
TEST(DiskReserve, SixtyFourMib_HoldTenThousandOutcomes) {
  constexpr std::int64_t kOutcomes = 10'000;
  TemporaryDirectory directory;
  auto store = value_of(db::Store::open(directory.path()));
  ASSERT_OK(store->begin());
  ASSERT_OK(store->insert_experiment(db::make_experiment(1)));
  for (std::int64_t id = 1; id <= kOutcomes; ++id) {
    ASSERT_OK(store->insert_job(db::make_job(id, 1, fmt::format("job-{}", id)),
                                db::make_state(id, JobState::kRunning)));
    ASSERT_OK(store->save_attempt(db::make_attempt(id, 1, AttemptState::kRunning)));
  }
  ASSERT_OK(store->commit());
  const auto bytes = [&] {
    std::uint64_t sum = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory.path())) {
      sum += entry.file_size();
    }
    return sum;
  };
  store = nullptr;  // The log of the large transaction is none of the outcomes'.
  store = value_of(db::Store::open(directory.path()));
  const std::uint64_t before = bytes();
  std::uint64_t most = 0;
  const std::string report = R"({"evaluation":{"top1":71.5,"top5":98.25,"nll":0.9},"layers":[)" +
                             std::string(1500, '1') + "]}";
  for (std::int64_t id = 1; id <= kOutcomes; id += 4) {  // Four slots end in one turn.
    ASSERT_OK(store->begin());
    for (std::int64_t job = id; job < id + 4; ++job) {
      db::JobStateRow ended = db::make_state(job, JobState::kSucceeded);
      ended.attempt = 1;
      ended.result = db::make_result(90);
      ASSERT_OK(store->update_job(ended));
      ASSERT_OK(store->save_attempt(db::make_attempt(job, 1, AttemptState::kSucceeded)));
      ASSERT_OK(store->insert_report(JobId{job}, report));
      ASSERT_OK(store->record_artifact(db::digest_of(fmt::format("network {}", job)), 1, 1));
    }
    ASSERT_OK(store->commit());
    most = std::max(most, bytes() - before);
  }
  fmt::print("{} outcomes took {:.1f} MiB at most\n", kOutcomes,
             static_cast<double>(most) / static_cast<double>(kMib));
  EXPECT_LT(most, kReserveBytes);
}

}  // namespace
}  // namespace bitrung
