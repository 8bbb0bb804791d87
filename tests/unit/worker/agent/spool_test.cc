#include "worker/agent/spool.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "db/base/status.h"
#include "temporary_directory.h"

namespace bitrung::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> numbered(int first, int last) {
  std::vector<std::string> records;
  for (int i = first; i <= last; ++i) records.push_back("record " + std::to_string(i));
  return records;
}

class RecordLogTest : public testing::Test {
 protected:
  RecordLog open() {
    absl::StatusOr<RecordLog> log = RecordLog::open(path_);
    BITRUNG_CHECK(log.ok());
    return *std::move(log);
  }
  std::vector<std::string> read(const RecordLog& log, std::uint64_t first, std::uint64_t count) {
    const auto records = log.read(first, count);
    return records.ok() ? *records
                        : std::vector<std::string>{std::string(message(records.status()))};
  }

  TemporaryDirectory directory_;
  const std::filesystem::path path_ = directory_.path() / "log";
};

TEST_F(RecordLogTest, Appends_AreNumberedAndSurviveReopening) {
  {
    RecordLog log = open();
    EXPECT_EQ(log.size(), 0U);
    EXPECT_TRUE(log.append(numbered(1, 3)).ok());
    EXPECT_TRUE(log.append(numbered(4, 4)).ok());
  }
  const RecordLog log = open();
  EXPECT_EQ(log.size(), 4U);
  EXPECT_EQ(read(log, 1, 100), numbered(1, 4));
  EXPECT_EQ(read(log, 2, 2), numbered(2, 3));
  EXPECT_THAT(read(log, 5, 1), IsEmpty());
}

TEST_F(RecordLogTest, ManyRecords_AreReadFromTheMiddle) {
  RecordLog log = open();
  for (int i = 1; i <= 3000; i += 10) EXPECT_TRUE(log.append(numbered(i, i + 9)).ok());
  EXPECT_EQ(read(log, 1, 1), numbered(1, 1));
  EXPECT_EQ(read(log, 256, 3), numbered(256, 258));
  EXPECT_EQ(read(log, 2001, 1000), numbered(2001, 3000));
  const RecordLog again = open();
  EXPECT_EQ(read(again, 1999, 1000), numbered(1999, 2998));
}

TEST_F(RecordLogTest, Watermark_SurvivesReopeningAndNeverFalls) {
  {
    RecordLog log = open();
    EXPECT_TRUE(log.append(numbered(1, 3)).ok());
    EXPECT_TRUE(log.acknowledge(2).ok());
    EXPECT_TRUE(log.acknowledge(1).ok());
    EXPECT_TRUE(log.append(numbered(4, 5)).ok());
  }
  RecordLog log = open();
  EXPECT_EQ(log.acknowledged(), 2U);
  EXPECT_EQ(read(log, 3, 100), numbered(3, 5));
  EXPECT_TRUE(log.acknowledge(99).ok());
  EXPECT_EQ(log.acknowledged(), 5U);
}

TEST_F(RecordLogTest, TornEnd_IsCutOffAtEveryByte) {
  {
    RecordLog log = open();
    EXPECT_TRUE(log.append(numbered(1, 2)).ok());
  }
  const auto whole = std::filesystem::file_size(path_);
  const auto second = whole / 2;  // The two records are equally long.
  for (auto size = second; size < whole; ++size) {
    std::filesystem::resize_file(path_, size);
    RecordLog log = open();
    EXPECT_EQ(log.size(), 1U) << size;
    EXPECT_TRUE(log.append(numbered(2, 2)).ok());
    EXPECT_EQ(read(log, 1, 10), numbered(1, 2)) << size;
  }
}

TEST_F(RecordLogTest, DamagedRecord_EndsTheLogBeforeIt) {
  {
    RecordLog log = open();
    EXPECT_TRUE(log.append(numbered(1, 3)).ok());
  }
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(std::filesystem::file_size(path_) / 3 + 12));
  file.put('X');
  file.close();
  const RecordLog log = open();
  EXPECT_EQ(log.size(), 1U);
}

TEST_F(RecordLogTest, FullDisk_LosesNothingThatWasThere) {
  RecordLog log = open();
  EXPECT_TRUE(log.append(numbered(1, 2)).ok());
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small { std::filesystem::file_size(path_) + 10, before.rlim_max };
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = log.append(numbered(3, 6));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(message(status)), testing::HasSubstr(path_.string()));
  EXPECT_EQ(log.size(), 2U);
  EXPECT_TRUE(log.append(numbered(3, 3)).ok());
  EXPECT_EQ(read(open(), 1, 10), numbered(1, 3));
}

class SpoolTest : public testing::Test {
 protected:
  Offer offer() const {
    Offer offer;
    offer.key = key_;
    offer.slot = 2;
    offer.display_name = "ladder/alone.bits=4";
    offer.spec_json = R"({"dataset":"cifar10"})";
    offer.dataset = "cifar10";
    offer.inputs = {{InputRole::kTeacher, sha256("teacher")}, {InputRole::kInit, sha256("init")}};
    offer.resume = sha256("resume");
    offer.dataset_sha256 = sha256("data");
    offer.timeout = milliseconds{1500};
    return offer;
  }
  Journal journal() {
    absl::StatusOr<Journal> journal = Journal::open(layout_.journal());
    BITRUNG_CHECK(journal.ok());
    return *std::move(journal);
  }
  void write(std::vector<Journal::Note> notes) {
    const absl::Status status = journal().write(notes);
    EXPECT_TRUE(status.ok()) << status;
  }
  // As an earlier version kept it.
  void write_old_offer(std::string_view text) {
    std::filesystem::create_directories(layout_.spool(key_));
    std::ofstream(layout_.spool(key_) / "offer.json") << text;
  }
  AttemptSpool open() {
    std::filesystem::create_directories(layout_.spool(key_));
    std::filesystem::create_directories(layout_.work(key_));
    absl::StatusOr<AttemptSpool> spool = AttemptSpool::open(layout_.spool(key_));
    BITRUNG_CHECK(spool.ok());
    return *std::move(spool);
  }
  std::vector<RecoveredAttempt> recover_all() {
    absl::StatusOr<std::vector<RecoveredAttempt>> attempts = recover(layout_, journal());
    EXPECT_TRUE(attempts.ok()) << attempts.status();
    return attempts.ok() ? *std::move(attempts) : std::vector<RecoveredAttempt>{};
  }
  void touch(const std::filesystem::path& path) { std::ofstream(path) << "x"; }

  TemporaryDirectory directory_;
  const SpoolLayout layout_{directory_.path()};
  const AttemptKey key_{JobId{7}, AttemptNumber{2}};
};

TEST_F(SpoolTest, PointsAndLines_AreReadBack) {
  AttemptSpool spool = open();
  const std::vector<Point> points{
      {"train_loss", 10, 1.5}, {"learning_rate", 10, 1e-300}, {"", -1, -0.0}};
  ASSERT_TRUE(spool.append_points(points).ok());
  ASSERT_TRUE(spool.append_line({123, "hello"}).ok());
  EXPECT_EQ(spool.read_points(1, 3).value(), points);
  EXPECT_EQ(spool.read_points(2, 2).value(), (std::vector<Point>{points[1]}));
  EXPECT_EQ(spool.read_lines(1, 1).value(), (std::vector<LogLine>{{123, "hello"}}));
}

TEST_F(SpoolTest, Attempt_IsRecoveredWithItsPositionsAndNewestResumeState) {
  write({Journal::offered(offer())});
  {
    AttemptSpool spool = open();
    ASSERT_TRUE(spool.append_points(std::vector<Point>(5)).ok());
    ASSERT_TRUE(spool.append_line({1, "a"}).ok());
    ASSERT_TRUE(spool.acknowledge(3, 1).ok());
  }
  touch(layout_.work(key_) / "resume-9.safetensors");
  touch(layout_.work(key_) / "resume-10.safetensors");
  touch(layout_.work(key_) / "resume-11.safetensors.tmp");
  touch(layout_.work(key_) / "resume-12.safetensors");  // Nobody has heard of it.
  ASSERT_TRUE(persist_resume_epoch(layout_, key_, 10).ok());

  const std::vector<RecoveredAttempt> attempts = recover_all();
  ASSERT_EQ(attempts.size(), 1U);
  const RecoveredAttempt& attempt = attempts[0];
  EXPECT_EQ(attempt.offer.key, key_);
  EXPECT_EQ(attempt.offer.slot, 2U);
  EXPECT_EQ(attempt.offer.display_name, "ladder/alone.bits=4");
  EXPECT_EQ(attempt.offer.dataset, "cifar10");
  EXPECT_EQ(attempt.offer.inputs, offer().inputs);
  EXPECT_EQ(attempt.offer.resume, offer().resume);
  EXPECT_EQ(attempt.offer.dataset_sha256, offer().dataset_sha256);
  EXPECT_EQ(attempt.offer.timeout, offer().timeout);
  EXPECT_FALSE(attempt.outcome.has_value());
  EXPECT_EQ(attempt.points.written, 5U);
  EXPECT_EQ(attempt.points.acknowledged, 3U);
  EXPECT_EQ(attempt.lines.written, 1U);
  EXPECT_EQ(attempt.lines.acknowledged, 1U);
  ASSERT_TRUE(attempt.resume.has_value());
  EXPECT_EQ(attempt.resume->epoch, 10U);
}

TEST_F(SpoolTest, ResumeStateThatNobodyHeardOf_IsNotRecovered) {
  write({Journal::offered(offer())});
  open();
  touch(layout_.work(key_) / "resume-1.safetensors");
  EXPECT_FALSE(recover_all().at(0).resume.has_value());
  touch(layout_.work(key_) / "resume-2.safetensors");
  ASSERT_TRUE(persist_resume_epoch(layout_, key_, 1).ok());
  EXPECT_EQ(recover_all().at(0).resume->epoch, 1U);
}

TEST_F(SpoolTest, Outcomes_AreRecovered) {
  write({Journal::offered(offer())});
  const Result result{62.5, std::nullopt, 1.25, 3, 2.5, 1000};
  const std::string report = R"({"layers":[{"name":"conv1"}]})";
  write({Journal::ended(key_, Succeeded{result, sha256("model"), report})});
  auto attempts = recover_all();
  ASSERT_EQ(attempts.size(), 1U);
  ASSERT_TRUE(attempts[0].outcome.has_value());
  const auto& succeeded = std::get<Succeeded>(*attempts[0].outcome);
  EXPECT_EQ(succeeded.artifact, sha256("model"));
  EXPECT_EQ(succeeded.report_json, report);
  EXPECT_EQ(succeeded.result.test_accuracy, 62.5);
  EXPECT_EQ(succeeded.result.validation_accuracy, std::nullopt);
  EXPECT_EQ(succeeded.result.best_epoch, 3U);

  write({Journal::ended(key_, Failed{FailureClass::kDiverged, "NaN at \xFF step 5"})});
  attempts = recover_all();
  const auto& failed = std::get<Failed>(*attempts.at(0).outcome);
  EXPECT_EQ(failed.failure_class, FailureClass::kDiverged);
  EXPECT_EQ(failed.message, "NaN at \xFF step 5");

  write({Journal::ended(key_, Cancelled{})});
  EXPECT_TRUE(std::holds_alternative<Cancelled>(*recover_all().at(0).outcome));
}

TEST(OutcomeJson, OfAnEarlierVersion_HasNoReport) {
  const auto outcome = parse_outcome(fmt::format(
      R"({{"outcome":"succeeded","artifact_sha256":"{}","test_accuracy":1,"validation_accuracy":null,
          "test_loss":2,"best_epoch":3,"duration_seconds":4,"images_per_second":5}})",
      sha256("model").hex()));
  ASSERT_TRUE(outcome.ok());
  EXPECT_EQ(std::get<Succeeded>(*outcome).report_json, "");
}

TEST_F(SpoolTest, TheLargestReport_IsRecovered) {
  // Quotes take two bytes in the file.
  std::string report = "{\"a\":\"";
  while (report.size() + 4 <= kReportBytesMax) report += "\\\"";
  report += "\"}";
  ASSERT_LE(report.size(), kReportBytesMax);
  write({Journal::offered(offer())});
  write({Journal::ended(key_, Succeeded{{}, sha256("model"), report})});
  const std::vector<RecoveredAttempt> attempts = recover_all();
  ASSERT_EQ(attempts.size(), 1U);
  ASSERT_TRUE(attempts[0].outcome.has_value());
  EXPECT_EQ(std::get<Succeeded>(*attempts[0].outcome).report_json, report);
}

TEST_F(SpoolTest, HalfMadeAndHalfRemovedAttempts_AreSwept) {
  std::filesystem::create_directories(layout_.spool(key_));
  touch(layout_.spool(key_) / "points.log");
  std::filesystem::create_directories(layout_.work({JobId{8}, AttemptNumber{1}}));
  std::filesystem::create_directories(directory_.path() / "spool" / "not an attempt");
  EXPECT_THAT(recover_all(), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(layout_.spool(key_)));
  EXPECT_FALSE(std::filesystem::exists(layout_.work({JobId{8}, AttemptNumber{1}})));
  EXPECT_TRUE(std::filesystem::exists(directory_.path() / "spool" / "not an attempt"));
}

TEST_F(SpoolTest, RemovedAttempt_LeavesNothing) {
  write({Journal::offered(offer())});
  open();
  touch(layout_.work(key_) / "resume-1.safetensors");
  write({Journal::removed(key_)});
  EXPECT_TRUE(remove_attempt(layout_, key_).ok());
  EXPECT_TRUE(remove_attempt(layout_, key_).ok());
  EXPECT_THAT(recover_all(), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(layout_.spool(key_)));
  EXPECT_FALSE(std::filesystem::exists(layout_.work(key_)));
}

TEST_F(SpoolTest, UnreadableOffer_IsNamed) {
  write_old_offer("{");
  const auto attempts = recover(layout_, journal());
  ASSERT_FALSE(attempts.ok());
  EXPECT_THAT(std::string(message(attempts.status())),
              testing::HasSubstr("7-2/offer.json cannot be read"));
}

TEST_F(SpoolTest, AttemptOfAnEarlierVersion_IsRecovered) {
  write_old_offer(R"({"job_id":7,"attempt":2,"slot":1,"display_name":"a/b",
                      "spec_json":"{\"dataset\":\"cifar10\"}","inputs":[],"resume_sha256":null,
                      "dataset_sha256":null,"timeout_ms":0})");
  std::ofstream(layout_.spool(key_) / "outcome.json") << R"({"outcome":"cancelled"})";
  const std::vector<RecoveredAttempt> attempts = recover_all();
  ASSERT_EQ(attempts.size(), 1U);
  EXPECT_EQ(attempts[0].offer.key, key_);
  EXPECT_EQ(attempts[0].offer.dataset, "cifar10");
  ASSERT_TRUE(attempts[0].outcome.has_value());
  EXPECT_TRUE(std::holds_alternative<Cancelled>(*attempts[0].outcome));
}

TEST_F(SpoolTest, Journal_TornAtEveryByte_KeepsWhatWasWrittenBefore) {
  write({Journal::offered(offer())});
  const auto before = std::filesystem::file_size(layout_.journal());
  write({Journal::ended(key_, Failed{FailureClass::kDiverged, "NaN"})});
  const auto after = std::filesystem::file_size(layout_.journal());
  for (auto size = before; size < after; ++size) {
    std::filesystem::resize_file(layout_.journal(), size);
    ASSERT_EQ(recover_all().size(), 1U) << size;
    EXPECT_FALSE(recover_all()[0].outcome.has_value()) << size;
    write({Journal::ended(key_, Failed{FailureClass::kDiverged, "NaN"})});
    EXPECT_TRUE(recover_all()[0].outcome.has_value()) << size;
  }
}

TEST_F(SpoolTest, Journal_IsWrittenAnewWithoutWhatIsGone) {
  Journal journal = this->journal();
  Offer large = offer();
  large.spec_json.resize(100'000, ' ');
  const AttemptKey kept{JobId{1}, AttemptNumber{1}};
  large.key = kept;
  ASSERT_TRUE(journal.write(std::vector{Journal::offered(large)}).ok());
  for (int job = 2; job <= 200; ++job) {
    large.key.job = JobId{job};
    ASSERT_TRUE(journal.write(std::vector{Journal::offered(large)}).ok());
    ASSERT_TRUE(
        journal
            .write(std::vector{Journal::ended(large.key, Cancelled{}), Journal::removed(large.key)})
            .ok());
    EXPECT_LT(journal.size_bytes(), std::uint64_t{5} << 20);
  }
  const auto entries = Journal::open(layout_.journal())->entries();
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 1U);
  EXPECT_EQ(entries->begin()->first, kept);
}

TEST_F(SpoolTest, Journal_OffersAreSyncedLaterOrWithAnOutcome) {
  Journal journal = this->journal();
  EXPECT_FALSE(journal.has_unsynced_offer());
  ASSERT_TRUE(journal.write(std::vector{Journal::offered(offer())}).ok());
  EXPECT_TRUE(journal.has_unsynced_offer());
  EXPECT_EQ(recover_all().size(), 1U);  // The next process finds it all the same.
  ASSERT_TRUE(journal.sync().ok());
  EXPECT_FALSE(journal.has_unsynced_offer());

  Offer second = offer();
  second.key.job = JobId{8};
  ASSERT_TRUE(journal.write(std::vector{Journal::offered(second)}).ok());
  ASSERT_TRUE(journal.write(std::vector{Journal::removed(second.key)}).ok());
  EXPECT_TRUE(journal.has_unsynced_offer());  // A removal syncs nothing.
  ASSERT_TRUE(journal.write(std::vector{Journal::ended(key_, Cancelled{})}).ok());
  EXPECT_FALSE(journal.has_unsynced_offer());
}

TEST_F(SpoolTest, Journal_OnAFullDisk_WritesAllOrNothing) {
  Journal journal = this->journal();
  ASSERT_TRUE(journal.write(std::vector{Journal::offered(offer())}).ok());
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small { journal.size_bytes() + 60, before.rlim_max };
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  Offer second = offer();
  second.key.job = JobId{8};
  const absl::Status status =
      journal.write(std::vector{Journal::ended(key_, Cancelled{}), Journal::offered(second)});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  const std::vector<RecoveredAttempt> attempts = recover_all();
  ASSERT_EQ(attempts.size(), 1U);
  EXPECT_FALSE(attempts[0].outcome.has_value());
  EXPECT_TRUE(journal.write(std::vector{Journal::ended(key_, Cancelled{})}).ok());
  EXPECT_TRUE(recover_all()[0].outcome.has_value());
}

TEST(DatasetOf, Options_NameTheirDataSet) {
  EXPECT_EQ(dataset_of(R"({"dataset":"cifar10"})"), "cifar10");
  for (const char* text : {"", "[]", "{}", R"({"dataset":5})", "{"})
    EXPECT_EQ(dataset_of(text), "") << text;
}

}  // namespace
}  // namespace bitrung::agent
