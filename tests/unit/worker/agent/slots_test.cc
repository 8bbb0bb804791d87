#include "worker/agent/slots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "db/base/status.h"
#include "temporary_directory.h"
#include "worker/agent/cores.h"

namespace bitrung::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

const Device kCpu{"cpu", "Some CPU", 1000};
const Device kCuda0{"cuda:0", "Some GPU", 2000};
const Device kCuda1{"cuda:1", "Some GPU", 2000};

std::vector<std::string> summary(const Layout& layout) {
  std::vector<std::string> lines;
  for (const Slot& slot : layout.slots) {
    std::string line = slot.device.device + " threads " + std::to_string(slot.threads) + " cores";
    for (const int core : slot.cores) line += " " + std::to_string(core);
    lines.push_back(line);
  }
  if (layout.shared_cores > 0) {
    std::string line = "shared " + std::to_string(layout.shared_cores) + " cores";
    for (const int core : layout.core_numbers) line += " " + std::to_string(core);
    lines.push_back(line);
  }
  return lines;
}

std::vector<std::string> lay_out(std::vector<Device> devices, std::vector<int> cores,
                                 std::optional<std::uint32_t> count,
                                 std::optional<std::uint32_t> quota = {}) {
  const auto all = static_cast<std::uint32_t>(cores.size());
  const auto layout =
      lay_out_slots({1, "1", std::move(devices)}, {std::move(cores), quota.value_or(all)}, count);
  if (!layout.ok()) return {std::string(message(layout.status()))};
  return summary(*layout);
}

TEST(Slots, CpuOnly_IsASlotForEachCoreAndTheyShareThem) {
  EXPECT_THAT(lay_out({kCpu}, {2, 5}, {}),
              ElementsAre("cpu threads 1 cores", "cpu threads 1 cores", "shared 2 cores 2 5"));
}

TEST(Slots, CoresBeyondTheQuota_AreLeftToOthers_AndNoneIsBound) {
  EXPECT_THAT(lay_out({kCpu}, {0, 1, 2, 3}, {}, 2),
              ElementsAre("cpu threads 1 cores", "cpu threads 1 cores", "shared 2 cores"));
}

TEST(Slots, CpuWithoutKnownCores_IsOneSlot) {
  EXPECT_THAT(lay_out({kCpu}, {}, {}), ElementsAre("cpu threads 1 cores"));
}

TEST(Slots, MoreCoresThanSlotsAllowed_AreLeftAlone) {
  EXPECT_THAT(lay_out({kCpu}, std::vector<int>(2000, 1), {}), testing::SizeIs(kSlotsMax + 1));
}

TEST(Slots, CountOfOne_HasEveryCoreForGood) {
  EXPECT_THAT(lay_out({kCpu}, {0, 1}, 1), ElementsAre("cpu threads 2 cores 0 1"));
}

TEST(Slots, CudaDevices_AreASlotEachAndTheCpuIsNone) {
  EXPECT_THAT(lay_out({kCpu, kCuda0, kCuda1}, {0, 1, 2, 3}, {}),
              ElementsAre("cuda:0 threads 2 cores", "cuda:1 threads 2 cores"));
}

TEST(Slots, CountThatDividesTheCores_BindsEachToItsShare) {
  EXPECT_THAT(lay_out({kCpu}, {2, 3, 8, 9}, 2),
              ElementsAre("cpu threads 2 cores 2 3", "cpu threads 2 cores 8 9"));
}

TEST(Slots, CountThatDoesNotDivideTheCores_BindsNone) {
  EXPECT_THAT(lay_out({kCpu}, {0, 1, 2}, 2),
              ElementsAre("cpu threads 1 cores", "cpu threads 1 cores"));
}

TEST(Slots, MoreSlotsThanCores_HaveOneThreadEach) {
  EXPECT_THAT(lay_out({kCpu}, {0, 1}, 3),
              ElementsAre("cpu threads 1 cores", "cpu threads 1 cores", "cpu threads 1 cores"));
}

TEST(Slots, MoreSlotsThanCudaDevices_GoRoundRobin) {
  EXPECT_THAT(
      lay_out({kCpu, kCuda0, kCuda1}, {0, 1, 2}, 3),
      ElementsAre("cuda:0 threads 1 cores", "cuda:1 threads 1 cores", "cuda:0 threads 1 cores"));
}

TEST(Slots, ImpossibleCounts_AreRefused) {
  EXPECT_THAT(lay_out({kCpu}, {0}, 0), ElementsAre("0 slots asked for; a worker has 1 to 1024"));
  EXPECT_THAT(lay_out({kCpu}, {0}, 1025),
              ElementsAre("1025 slots asked for; a worker has 1 to 1024"));
  EXPECT_THAT(lay_out({}, {0}, {}),
              ElementsAre("the trainer's inventory names neither a CPU nor a CUDA device"));
}

void write(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

TEST(ProcessorQuota, ControlGroupsOfBothVersions_AreRead) {
  const TemporaryDirectory directory;
  const std::filesystem::path& root = directory.path();
  EXPECT_EQ(processor_quota(root), std::nullopt);
  write(root / "proc/self/cgroup", "4:cpu,cpuacct:/a\n3:memory:/a\n0::/b/c\n");
  write(root / "sys/fs/cgroup/b/c/cpu.max", "max 100000\n");
  EXPECT_EQ(processor_quota(root), std::nullopt);
  write(root / "sys/fs/cgroup/b/cpu.max", "250000 100000\n");  // The group above limits it.
  EXPECT_EQ(processor_quota(root), 3);
  write(root / "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n");
  write(root / "sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(processor_quota(root), 3);
  write(root / "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "50000\n");
  EXPECT_EQ(processor_quota(root), 1);
}

TEST(Inventory, WhatTheTrainerPrints_IsRead) {
  const auto inventory = parse_inventory(
      R"({"numerics":1,"torch":"1.13.1","devices":[{"device":"cpu","name":"AMD EPYC","memory_bytes":25000000000}]})");
  ASSERT_TRUE(inventory.ok()) << inventory.status();
  EXPECT_EQ(inventory->numerics, 1U);
  EXPECT_EQ(inventory->torch, "1.13.1");
  ASSERT_EQ(inventory->devices.size(), 1U);
  EXPECT_EQ(inventory->devices[0].device, "cpu");
  EXPECT_EQ(inventory->devices[0].name, "AMD EPYC");
  EXPECT_EQ(inventory->devices[0].memory_bytes, 25'000'000'000U);
}

TEST(Inventory, OtherText_IsRefused) {
  for (const char* text : {"", "{}", "[1]", R"({"numerics":"x","torch":"1","devices":[]})"}) {
    EXPECT_FALSE(parse_inventory(text).ok()) << text;
  }
}

}  // namespace
}  // namespace bitrung::agent
