// Power is cut at every change that the workload asks of the disk. What had been acknowledged is
// there afterwards, and nothing but whole transactions.
//
// BITRUNG_CRASH_POINTS is how many points are tried, 500 if it is not set.
#include <chrono>
#include <iterator>
#include <map>
#include <random>
#include <set>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/disk/fault_disk.h"
#include "tests/disk/points.h"
#include "tests/disk/recovery.h"
#include "tests/disk/workload.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::disk {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Power is cut once more while the database is opened again, and once more while that is repeated.
constexpr int kDepthMax = 3;

class CrashPoints : public testing::Test {
 protected:
  db::TemporaryDirectory directory_;
};

TEST_F(CrashPoints, Workload_IsTheSameEachTime_AndUsesEveryPartOfTheStore) {
  FaultDisk first;
  const Witness witness = run_workload(first, directory_.path(), true);
  ASSERT_TRUE(witness.ended.ok()) << witness.ended;
  std::map<Change::Kind, int> kinds;
  for (const Change& change : first.journal()) ++kinds[change.kind];
  EXPECT_GT(kinds[Change::Kind::kWrite], 300);
  EXPECT_GT(kinds[Change::Kind::kSync], 100);
  EXPECT_GT(kinds[Change::Kind::kDelete], 2);
  EXPECT_GE(witness.steps, 55U);
  fmt::print("{} steps, {} commits, {} acknowledgements, {} changes of the disk\n", witness.steps,
             witness.commits.size(), witness.acknowledgements.size(), first.journal().size());

  const std::vector<Change> journal = first.journal();
  Question question(directory_.path());
  EXPECT_THAT(
      question.rows("SELECT count(*), (SELECT count(*) FROM job), (SELECT count(*) > 5 FROM "
                    "report) FROM experiment"),
      ElementsAre("4|18|1"));
  EXPECT_THAT(question.rows("SELECT DISTINCT state FROM attempt ORDER BY state"),
              ElementsAre("failed", "lost", "running", "succeeded"));
  EXPECT_THAT(question.rows("SELECT DISTINCT state FROM job ORDER BY state"),
              ElementsAre("blocked", "cancelled", "ready", "running", "succeeded"));

  db::TemporaryDirectory other;
  FaultDisk second;
  const Witness again = run_workload(second, other.path(), true);
  EXPECT_EQ(again.commits.back().content, witness.commits.back().content);
  const auto text = [](const Change& change) {
    return fmt::format("kind {} of file {} at {}, {} bytes", static_cast<int>(change.kind),
                       change.file, change.offset, change.bytes.size());
  };
  for (std::size_t i = 0; i < std::min(journal.size(), second.journal().size()); ++i) {
    ASSERT_EQ(text(second.journal()[i]), text(journal[i])) << "change " << i;
  }
  EXPECT_EQ(second.journal().size(), journal.size());
}

TEST_F(CrashPoints, PowerIsCutAnywhere_EverythingAcknowledgedIsThereAndOnlyWholeTransactions) {
  const std::size_t wanted = points_wanted();
  Witness witness;
  std::vector<Change> journal;
  Platter start;
  {
    FaultDisk disk;
    witness = run_workload(disk, directory_.path(), true);
    ASSERT_TRUE(witness.ended.ok()) << witness.ended;
    journal = disk.journal();
    start = disk.platter();
  }
  const auto began = std::chrono::steady_clock::now();
  Recovery recovery(witness, directory_.path());
  std::size_t nested = 0;
  std::set<std::size_t> positions;
  PowerCut power(start, journal);
  for (std::size_t point = 0; point < wanted; ++point) {
    // Evenly over the journal; several points at one position keep different parts.
    const std::size_t position = 1 + point * journal.size() / wanted;
    positions.insert(position);
    const Keep keep = kKeeps[point % std::size(kKeeps)];
    power.advance(position);
    const Expected expected = expected_at(witness, position);
    Platter left = power.cut(keep, point);
    std::vector<Change> opening;
    SCOPED_TRACE(fmt::format("point {} of {}: change {} of {}, keep mode {}", point, wanted,
                             position, journal.size(), point % std::size(kKeeps)));
    ASSERT_EQ(recovery.check(left, expected, opening), "");

    std::mt19937_64 random(point);
    for (int depth = 2; depth <= kDepthMax && point % 5 == 4; ++depth) {
      if (opening.empty()) break;
      PowerCut again(left, opening);
      again.advance(1 + random() % opening.size());
      left = again.cut(kKeeps[random() % std::size(kKeeps)], point);
      ++nested;
      ASSERT_EQ(recovery.check(left, expected, opening), "")
          << "cut again while opening, depth " << depth;
    }
  }
  EXPECT_GE(positions.size(), std::min(wanted, journal.size()) * 9 / 10);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  fmt::print(
      "{} crash points at {} of {} changes and {} more while opening again: everything "
      "acknowledged was there, {} times a commit that could not be acknowledged too; {:.1f} s\n",
      wanted, positions.size(), journal.size(), nested, recovery.unacknowledged(), took.count());
}

TEST_F(CrashPoints, ACommitThatIsNotSynced_IsFound) {
  // The check of the check: a disk that forgets the syncs of the log must be noticed.
  Witness witness;
  std::vector<Change> journal;
  {
    FaultDisk disk;
    witness = run_workload(disk, directory_.path(), true);
    journal = disk.journal();
  }
  std::erase_if(journal, [](const Change& change) { return change.kind == Change::Kind::kSync; });
  // The positions of the witness are beyond those of the shortened journal.
  PowerCut power({}, journal);
  power.advance(journal.size());
  Recovery recovery(witness, directory_.path());
  std::vector<Change> opening;
  EXPECT_NE(
      recovery.check(power.cut(Keep::kNothing, 1), expected_at(witness, journal.size()), opening),
      "");
}

}  // namespace
}  // namespace bitrung::disk
