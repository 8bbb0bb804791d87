#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "db/schema.h"
#include "db/sqlite.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::db {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string file_content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

absl::Status open_status(const std::filesystem::path& directory) {
  return Store::open(directory).status();
}

TEST(StoreOpen, Nothing_BecomesAnEmptyStore) {
  TemporaryDirectory directory;
  const std::filesystem::path state = directory.path() / "a" / "state";
  auto store = value_of(Store::open(state));
  EXPECT_EQ(store->term(), 1);
  const Snapshot snapshot = value_of(store->load());
  EXPECT_THAT(snapshot.jobs, IsEmpty());
  EXPECT_THAT(snapshot.pins, IsEmpty());
  EXPECT_THAT(snapshot.workers, IsEmpty());
  EXPECT_EQ(snapshot.next_experiment_id, 1);
  EXPECT_EQ(snapshot.next_job_id, 1);
  EXPECT_THAT(select(state, "PRAGMA journal_mode"), ElementsAre("wal"));
}

TEST(StoreOpen, Again_KeepsEverythingAndRaisesTheTerm) {
  TemporaryDirectory directory;
  std::vector<std::string> schema;
  for (std::int64_t term = 1; term <= 3; ++term) {
    auto store = value_of(Store::open(directory.path()));
    EXPECT_EQ(store->term(), term);
    if (term == 1) {
      schema = select(directory.path(), "SELECT * FROM sqlite_schema");
      ASSERT_OK(store->begin());
      ASSERT_OK(store->insert_experiment(make_experiment(1)));
      ASSERT_OK(store->commit());
    }
  }
  EXPECT_EQ(select(directory.path(), "SELECT * FROM sqlite_schema"), schema);
  EXPECT_THAT(select(directory.path(), "SELECT name FROM experiment"), ElementsAre("bit-ladder"));
  EXPECT_THAT(select(directory.path(), "PRAGMA user_version"),
              ElementsAre(std::to_string(migrations().size())));
}

TEST(StoreOpen, EveryTable_IsStrict) {
  TemporaryDirectory directory;
  ASSERT_OK(Store::open(directory.path()));
  EXPECT_THAT(
      select(directory.path(),
             "SELECT name FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
             "AND strict = 0"),
      IsEmpty());
}

TEST(StoreOpen, ASecondWriter_IsRefusedUntilTheFirstIsGone) {
  TemporaryDirectory directory;
  auto first = value_of(Store::open(directory.path()));
  const absl::Status status = open_status(directory.path());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(status)),
              AllOf(HasSubstr("another server"), HasSubstr(directory.path().string())));
  first.reset();
  EXPECT_OK(Store::open(directory.path()));
}

TEST(StoreOpen, ANewerVersion_IsRefusedAndNothingIsChanged) {
  TemporaryDirectory directory;
  ASSERT_OK(Store::open(directory.path()));
  tamper(directory.path(), "PRAGMA user_version = 9999");
  const std::string before = file_content(directory.path() / kDatabaseFile);
  const absl::Status status = open_status(directory.path());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(status)),
              AllOf(HasSubstr("version 9999"), HasSubstr("newer program")));
  EXPECT_EQ(StoreReader::open(directory.path()).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(file_content(directory.path() / kDatabaseFile) == before);
}

TEST(StoreOpen, ANewerVersionStillInTheLog_IsRefusedAndNothingIsChanged) {
  TemporaryDirectory directory;
  TemporaryDirectory copy;
  const std::string log = std::string(kDatabaseFile) + "-wal";
  {
    auto store = value_of(Store::open(directory.path()));
    tamper(directory.path(), "PRAGMA user_version = 9999");
    for (const std::string& file : {std::string(kDatabaseFile), log}) {
      std::filesystem::copy_file(directory.path() / file, copy.path() / file);
    }
  }
  const std::string before = file_content(copy.path() / kDatabaseFile);
  const std::string log_before = file_content(copy.path() / log);
  ASSERT_FALSE(log_before.empty());
  EXPECT_EQ(open_status(copy.path()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(file_content(copy.path() / kDatabaseFile) == before);
  EXPECT_TRUE(file_content(copy.path() / log) == log_before);
}

TEST(StoreOpen, AnOlderVersion_IsBroughtUpToDate) {
  TemporaryDirectory directory;
  {
    auto connection =
        value_of(Connection::open(directory.path() / kDatabaseFile, Connection::Mode::kReadWrite));
    ASSERT_OK(connection.use_write_ahead_log());
    ASSERT_OK(migrate(connection, migrations().first(2)));
  }
  const absl::Status early = StoreReader::open(directory.path()).status();
  EXPECT_EQ(early.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(early)), HasSubstr("has version 2"));
  EXPECT_OK(Store::open(directory.path()));
  EXPECT_OK(StoreReader::open(directory.path()));
}

TEST(StoreOpen, AFailingMigration_LeavesTheFileAsItWas) {
  TemporaryDirectory directory;
  auto connection =
      value_of(Connection::open(directory.path() / kDatabaseFile, Connection::Mode::kReadWrite));
  ASSERT_OK(connection.use_write_ahead_log());
  constexpr Migration kMigrations[] = {
      {1, "0001_good.sql", "CREATE TABLE good (x INTEGER) STRICT;"},
      {2, "0002_bad.sql", "CREATE TABLE bad (x INTEGER) STRICT; SELECT nonsense;"}};
  const absl::Status status = migrate(connection, kMigrations);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(message(status)),
              AllOf(HasSubstr("0002_bad.sql"), HasSubstr("nonsense")));
  EXPECT_EQ(value_of(connection.query_integer("count", "SELECT count(*) FROM sqlite_schema")), 0);
  EXPECT_EQ(value_of(connection.query_integer("version", "PRAGMA user_version")), 0);
  // The connection is usable: the transaction has ended.
  EXPECT_OK(migrate(connection, std::span(kMigrations).first(1)));
}

TEST(StoreOpen, WhatIsNoDatabase_IsDataLossAndUnchanged) {
  TemporaryDirectory directory;
  const std::string text(10'000, 'x');
  std::ofstream(directory.path() / kDatabaseFile) << text;
  for (const absl::Status& status :
       {open_status(directory.path()), StoreReader::open(directory.path()).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(
        std::string(message(status)),
        AllOf(HasSubstr((directory.path() / kDatabaseFile).string()), HasSubstr("not a database")));
  }
  EXPECT_EQ(file_content(directory.path() / kDatabaseFile), text);
}

TEST(StoreOpen, TheDatabaseOfAnotherProgram_IsRefusedAndUnchanged) {
  TemporaryDirectory directory;
  tamper(directory.path(), "CREATE TABLE bookmarks (url TEXT)");
  const std::string before = file_content(directory.path() / kDatabaseFile);
  const absl::Status status = open_status(directory.path());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(status)), HasSubstr("another program"));
  EXPECT_EQ(file_content(directory.path() / kDatabaseFile), before);
}

TEST(StoreOpen, ADirectoryInItsPlace_IsRefused) {
  TemporaryDirectory directory;
  std::filesystem::create_directory(directory.path() / kDatabaseFile);
  for (const absl::Status& status :
       {open_status(directory.path()), StoreReader::open(directory.path()).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(message(status)),
                AllOf(HasSubstr((directory.path() / kDatabaseFile).string()),
                      HasSubstr("not a regular file")));
  }
}

TEST(StoreOpen, ADamagedPage_IsDataLoss) {
  TemporaryDirectory directory;
  {
    auto store = value_of(Store::open(directory.path()));
    ASSERT_OK(store->begin());
    ASSERT_OK(store->insert_experiment(make_experiment(1)));
    for (std::int64_t id = 1; id <= 500; ++id) {
      ASSERT_OK(store->insert_job(make_job(id, 1, fmt::format("job-{}", id)), make_state(id)));
    }
    ASSERT_OK(store->commit());
  }
  const std::vector<std::string> root =
      select(directory.path(),
             "SELECT rootpage * (SELECT page_size FROM pragma_page_size) FROM sqlite_schema "
             "WHERE name = 'job'");
  ASSERT_EQ(root.size(), 1U);
  const int fd = ::open((directory.path() / kDatabaseFile).c_str(), O_WRONLY);
  const std::string garbage(4096, '\xa5');
  ASSERT_EQ(::pwrite(fd, garbage.data(), garbage.size(), std::stol(root[0]) - 4096), 4096);
  ::close(fd);

  // All jobs are counted when it is opened.
  EXPECT_EQ(open_status(directory.path()).code(), absl::StatusCode::kDataLoss);
  auto reader = value_of(StoreReader::open(directory.path()));
  EXPECT_EQ(reader->job(JobId{7}).status().code(), absl::StatusCode::kDataLoss);
}

TEST(StoreReaderOpen, BeforeAServer_IsNotFoundAndCreatesNothing) {
  TemporaryDirectory directory;
  EXPECT_EQ(StoreReader::open(directory.path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(Sqlite, APathThatCannotBeOpened_IsUnavailable) {
  TemporaryDirectory directory;
  const std::filesystem::path path = directory.path() / "absent" / "file";
  const absl::Status status = Connection::open(path, Connection::Mode::kReadWrite).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(message(status)),
              AllOf(HasSubstr("open on " + path.string()), HasSubstr("unable to open")));
}

TEST(Sqlite, AWrongWord_IsDataLoss) {
  TemporaryDirectory directory;
  auto connection =
      value_of(Connection::open(directory.path() / kDatabaseFile, Connection::Mode::kReadWrite));
  Statement select_word =
      value_of(connection.prepare("select_word", "SELECT 'sleeping' AS state, ?"));
  Rows rows = select_word.query(std::int64_t{1});
  ASSERT_TRUE(rows.next());
  JobState state{};
  rows.read(state);
  EXPECT_EQ(rows.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(message(rows.status())),
              AllOf(HasSubstr("select_word"), HasSubstr("state"), HasSubstr("job state")));
  EXPECT_FALSE(rows.next());
}

}  // namespace
}  // namespace bitrung::db
