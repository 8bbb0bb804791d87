// Each call that the workload makes of the disk fails once: the engine stops with one line, nothing
// is acknowledged after it, and a power cut at that moment takes back nothing that was.
//
// BITRUNG_CRASH_POINTS, see crash_points_test.cc, also says how many calls fail: every fourth of
// its number, or all.
#include <algorithm>
#include <chrono>
#include <map>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "db/base/status.h"
#include "tests/disk/fault_disk.h"
#include "tests/disk/points.h"
#include "tests/disk/recovery.h"
#include "tests/disk/workload.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::disk {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Kind {
  const char* name;
  Fault fault;
};

constexpr Fault::Call kRead = Fault::Call::kRead;
constexpr Fault::Error kIo = Fault::Error::kIo;
const Kind kKinds[] = {
    {"read fails", {.call = kRead, .error = kIo}},
    {"write fails", {.call = Fault::Call::kWrite, .error = kIo}},
    {"sync fails", {.call = Fault::Call::kSync, .error = kIo}},
    {"truncation fails", {.call = Fault::Call::kTruncate, .error = kIo}},
    {"open fails", {.call = Fault::Call::kOpen, .error = kIo}},
    {"removal fails", {.call = Fault::Call::kDelete, .error = kIo}},
    {"disk is full for one write", {.call = Fault::Call::kWrite, .error = Fault::Error::kFull}},
    {"disk is gone", {.call = Fault::Call::kAny, .error = kIo, .for_ever = true}},
    {"disk is full", {.call = Fault::Call::kAny, .error = Fault::Error::kFull, .for_ever = true}},
};

TEST(CallFaults, AnyCallFails_TheEngineStopsAndNothingAcknowledgedIsLost) {
  const auto began = std::chrono::steady_clock::now();
  db::TemporaryDirectory directory;
  Witness reference;
  std::map<std::string, std::size_t> calls;
  {
    FaultDisk disk;
    reference = run_workload(disk, directory.path(), true);
    ASSERT_TRUE(reference.ended.ok()) << reference.ended;
  }
  {
    FaultDisk disk;  // Without the questions of the witness.
    ASSERT_TRUE(run_workload(disk, directory.path(), false).ended.ok());
    for (const Kind& kind : kKinds) calls[kind.name] = disk.calls(kind.fault);
  }
  const std::size_t per_kind = std::max<std::size_t>(1, points_wanted() / 4 / std::size(kKinds));
  std::size_t faults = 0;
  std::size_t survived = 0;
  for (const Kind& kind : kKinds) {
    const std::size_t all = calls[kind.name];
    ASSERT_GT(all, 0U) << kind.name;
    const std::size_t tried = std::min(all, per_kind);
    for (std::size_t i = 0; i < tried; ++i) {
      const std::size_t at = 1 + i * all / tried;
      SCOPED_TRACE(fmt::format("{}, call {} of {}", kind.name, at, all));
      Witness witness;
      Platter left;
      {
        FaultDisk disk;
        Fault fault = kind.fault;
        fault.at = at;
        disk.fail(fault);
        witness = run_workload(disk, directory.path(), false);
        ASSERT_TRUE(disk.has_failed());
        PowerCut power(disk.platter(), disk.journal());
        power.advance(disk.journal().size());
        left = power.cut(kKeeps[i % std::size(kKeeps)], at);
      }
      ++faults;
      EXPECT_THAT(witness.told_after_failure, IsEmpty());
      if (witness.ended.ok()) {
        // A store that is being closed has acknowledged everything before.
        ++survived;
      } else {
        EXPECT_EQ(witness.ended.code(), kind.fault.error == kIo
                                            ? absl::StatusCode::kUnavailable
                                            : absl::StatusCode::kResourceExhausted)
            << witness.ended;
        const std::string text(message(witness.ended));
        EXPECT_THAT(text, HasSubstr((directory.path() / db::kDatabaseFile).string()));
        EXPECT_EQ(text.find('\n'), std::string::npos);
      }
      Recovery recovery(reference, directory.path());
      std::vector<Change> opening;
      const Expected expected{
          .commits = witness.commits.size(),
          .acknowledgements = witness.acknowledgements.size(),
          .term = witness.terms.empty() ? 0 : witness.terms.back().term,
      };
      ASSERT_EQ(recovery.check(left, expected, opening), "");
    }
  }
  EXPECT_LT(survived, faults / 4);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  fmt::print(
      "{} failing calls: {} ended the server, {} fell on a store that was being closed; "
      "{:.1f} s\n",
      faults, faults - survived, survived, took.count());
}

// SQLite by itself says nothing of a checkpoint that fails after a commit.
TEST(CallFaults, TheSyncOfACheckpointFails_TheEngineStopsAtOnce) {
  db::TemporaryDirectory directory;
  std::size_t syncs = 0;
  std::size_t position = 0;
  {
    FaultDisk disk;
    const Witness witness = run_workload(disk, directory.path(), false);
    ASSERT_TRUE(witness.ended.ok()) << witness.ended;
    ASSERT_EQ(disk.journal().at(0).kind, Change::Kind::kCreate);
    const std::size_t database = disk.journal()[0].file;
    // The first life has more than ten commits, so this is none of a store that is being closed.
    const std::size_t from = witness.commits.at(1).position;
    for (std::size_t i = 0; i < witness.commits.at(10).position && position == 0; ++i) {
      const Change& change = disk.journal()[i];
      if (change.kind != Change::Kind::kSync) continue;
      ++syncs;
      if (i >= from && change.file == database) position = i;
    }
    ASSERT_GT(position, 0U) << "there was no checkpoint";
  }
  FaultDisk disk;
  disk.fail({.call = Fault::Call::kSync, .at = syncs, .error = kIo});
  const Witness witness = run_workload(disk, directory.path(), false);
  EXPECT_EQ(witness.ended.code(), absl::StatusCode::kUnavailable) << witness.ended;
  EXPECT_THAT(std::string(message(witness.ended)), HasSubstr("checkpoint on "));
  EXPECT_THAT(witness.told_after_failure, IsEmpty());
  ASSERT_EQ(disk.journal().at(position).kind, Change::Kind::kFailedSync);
  for (std::size_t i = position; i < disk.journal().size(); ++i) {
    EXPECT_NE(disk.journal()[i].kind, Change::Kind::kSync) << "a sync after the one that failed";
  }
}

}  // namespace
}  // namespace bitrung::disk
