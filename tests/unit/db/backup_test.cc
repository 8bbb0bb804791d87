#include "db/backup.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <iterator>
#include <thread>

#include "db/artifacts.h"
#include "db/schema.h"
#include "tests/unit/db/db_testing.h"

namespace bitrung::db {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::int64_t kNow = 1'800'000'000'000;

std::string file_content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// Everything below a directory, with contents.
std::vector<std::string> listing(const fs::path& directory) {
  std::vector<std::string> lines;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_directory()) continue;
    lines.push_back(fmt::format("{} {}", fs::relative(entry.path(), directory).string(),
                                digest_of(file_content(entry.path())).hex()));
  }
  std::ranges::sort(lines);
  return lines;
}

// A state with three jobs: 1 succeeded, 2 runs (attempt 2, with a resume state), 3 is being
// cancelled. One more artifact is only listed, and one file is in no list.
class BackupTest : public testing::Test {
 protected:
  BackupTest() {
    auto store = value_of(Store::open(state()));
    fill(*store);
  }

  fs::path state() const { return directory_.path() / "state"; }
  fs::path backup() const { return directory_.path() / "backup"; }
  fs::path restored() const { return directory_.path() / "restored"; }

  Digest put(const std::string& bytes) {
    auto artifacts = value_of(ArtifactStore::open(state() / "artifacts"));
    write(directory_.path() / "file", bytes);
    return value_of(artifacts.put_file(directory_.path() / "file")).sha256;
  }
  fs::path artifact(const fs::path& below, const Digest& sha256) const {
    return below / "artifacts" / sha256.hex().substr(0, 2) / sha256.hex();
  }

  void fill(Store& store) {
    network_ = put("network");
    resume_ = put("resume state");
    old_ = put("an older resume state");
    unnamed_ = put("of nobody");
    ASSERT_OK(store.begin());
    ASSERT_OK(store.insert_experiment(make_experiment(1)));
    for (std::int64_t id = 1; id <= 3; ++id) {
      JobStateRow row = make_state(id, JobState::kRunning);
      row.attempt = id == 2 ? 2 : 1;
      if (id == 2) {
        row.resume = resume_;
        row.resume_epoch = 7;
      }
      if (id == 3) row.state = JobState::kCancelling;
      ASSERT_OK(store.insert_job(make_job(id, 1, fmt::format("job-{}", id)), row));
      if (id == 2) ASSERT_OK(store.save_attempt(make_attempt(2, 1, AttemptState::kLost)));
      ASSERT_OK(store.save_attempt(make_attempt(id, row.attempt, AttemptState::kRunning)));
    }
    for (const auto& [sha256, size] :
         {std::pair(network_, 7), std::pair(resume_, 12), std::pair(old_, 21)}) {
      ASSERT_OK(store.record_artifact(sha256, static_cast<std::uint64_t>(size), 1));
    }
    JobStateRow ended = make_state(1, JobState::kSucceeded);
    ended.attempt = 1;
    ended.result = make_result(90);
    ended.result->artifact = network_;
    ASSERT_OK(store.update_job(ended));
    ASSERT_OK(store.save_attempt(make_attempt(1, 1, AttemptState::kSucceeded)));
    ASSERT_OK(store.commit());
  }

  static BackupOptions options() { return {.now_ms = kNow, .program_version = "test"}; }
  absl::StatusOr<BackupSummary> make() { return make_backup(state(), backup(), options()); }
  absl::StatusOr<BackupSummary> restore() {
    return restore_backup(backup(), restored(), options());
  }
  void expect_no_trace() const {
    EXPECT_FALSE(fs::exists(backup()));
    EXPECT_FALSE(fs::exists(backup().string() + ".partial"));
  }

  TemporaryDirectory directory_;
  Digest network_;
  Digest resume_;
  Digest old_;
  Digest unnamed_;
};

TEST_F(BackupTest, Backup_HasTheDatabaseAndTheArtifactsItNames) {
  const BackupSummary summary = value_of(make());
  EXPECT_EQ(summary.manifest.artifacts, 3U);
  EXPECT_EQ(summary.manifest.artifact_bytes, 7U + 12U + 21U);
  EXPECT_EQ(summary.manifest.term, 1);
  EXPECT_EQ(summary.manifest.made_at_ms, kNow);
  EXPECT_EQ(value_of(read_manifest(backup())), summary.manifest);
  EXPECT_EQ(file_content(artifact(backup(), network_)), "network");
  EXPECT_EQ(file_content(artifact(backup(), resume_)), "resume state");
  EXPECT_TRUE(fs::exists(artifact(backup(), old_)));
  EXPECT_FALSE(fs::exists(artifact(backup(), unnamed_)));
  EXPECT_FALSE(fs::exists(backup().string() + ".partial"));
  EXPECT_THAT(select(backup(), "PRAGMA journal_mode"), ElementsAre("delete"));
  EXPECT_EQ(select(backup(), "SELECT * FROM job"), select(state(), "SELECT * FROM job"));
}

TEST_F(BackupTest, Backup_ChangesNothingInTheState) {
  const auto before = select(state(), "SELECT key, value FROM meta");
  ASSERT_OK(make());
  EXPECT_EQ(select(state(), "SELECT key, value FROM meta"), before);
  EXPECT_OK(Store::open(state()));
}

TEST_F(BackupTest, WhileTheServerWrites_IsOneOfItsCommits) {
  auto store = value_of(Store::open(state()));
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    // Each commit adds a job and its attempt, never one of them alone.
    for (std::int64_t id = 4; !stop; ++id) {
      ASSERT_OK(store->begin());
      ASSERT_OK(store->insert_job(make_job(id, 1, fmt::format("job-{}", id)),
                                  make_state(id, JobState::kRunning)));
      ASSERT_OK(store->save_attempt(make_attempt(id, 1, AttemptState::kRunning)));
      ASSERT_OK(store->commit());
    }
  });
  for (int i = 0; i < 10; ++i) {
    const fs::path out = directory_.path() / fmt::format("backup-{}", i);
    ASSERT_OK(make_backup(state(), out, options()));
    EXPECT_THAT(select(out,
                       "SELECT (SELECT count(*) FROM job) = (SELECT count(DISTINCT job_id) FROM "
                       "attempt)"),
                ElementsAre("1"));
  }
  stop = true;
  writer.join();
}

TEST_F(BackupTest, AServerOnABackup_IsRefused) {
  ASSERT_OK(make());
  const absl::Status status = Store::open(backup()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(status)),
              AllOf(HasSubstr("database of a backup"), HasSubstr("2027-01-15 08:00:00 UTC"),
                    HasSubstr("bitrung-server restore")));
}

TEST_F(BackupTest, Restore_HasEverythingAndBeginsANewHistory) {
  ASSERT_OK(make());
  const BackupSummary summary = value_of(restore());
  EXPECT_EQ(summary.given_up, 2U);
  EXPECT_EQ(summary.manifest.artifacts, 3U);
  EXPECT_EQ(file_content(artifact(restored(), network_)), "network");
  EXPECT_EQ(value_of(restored_term(restored())), kNow);
  auto store = value_of(Store::open(restored()));
  EXPECT_EQ(store->term(), kNow + 1);
  EXPECT_THAT(select(restored(), "SELECT id, state, attempt, error <> '' FROM job ORDER BY id"),
              ElementsAre("1|succeeded|1|0", "2|ready|2|1", "3|cancelled|1|1"));
  EXPECT_THAT(select(restored(), "SELECT job_id, attempt, state FROM attempt ORDER BY 1, 2"),
              ElementsAre("1|1|succeeded", "2|1|lost", "2|2|lost", "3|1|lost"));
  EXPECT_THAT(select(restored(), "SELECT resume_epoch FROM job WHERE id = 2"), ElementsAre("7"));
  // A watcher that has seen the lost history is not ahead.
  EXPECT_THAT(
      select(restored(), fmt::format("SELECT count(*) FROM job WHERE changed_seq > {}", kNow)),
      ElementsAre("2"));
  EXPECT_EQ(value_of(store->load()).jobs.size(), 3U);
  EXPECT_OK(StoreReader::open(restored()));
}

TEST_F(BackupTest, RestoredTwice_TheLaterOneHasTheHigherTerm) {
  ASSERT_OK(make());
  ASSERT_OK(restore());
  const std::int64_t first = value_of(Store::open(restored()))->term();
  BackupOptions later = options();
  later.now_ms = kNow + 60'000;
  ASSERT_OK(restore_backup(backup(), directory_.path() / "again", later));
  EXPECT_GT(value_of(Store::open(directory_.path() / "again"))->term(), first);
}

TEST_F(BackupTest, WithTheClockSetBack_TheTermRisesAllTheSame) {
  tamper(state(), "UPDATE meta SET value = 2000000000000 WHERE key = 'term'");
  ASSERT_OK(make());
  ASSERT_OK(restore());
  EXPECT_EQ(value_of(Store::open(restored()))->term(), 2'000'000'000'001);
}

TEST_F(BackupTest, ABackupOfARestoredState_IsOneLikeAnyOther) {
  ASSERT_OK(make());
  ASSERT_OK(restore());
  ASSERT_OK(Store::open(restored()));
  ASSERT_OK(make_backup(restored(), directory_.path() / "second", options()));
  ASSERT_OK(restore_backup(directory_.path() / "second", directory_.path() / "third", options()));
  EXPECT_EQ(value_of(Store::open(directory_.path() / "third"))->term(), kNow + 2);
}

TEST_F(BackupTest, WrongUse_SaysWhatIsWrong) {
  const auto error = [](const absl::StatusOr<BackupSummary>& result) {
    return std::string(message(result.status()));
  };
  const fs::path here = directory_.path();
  EXPECT_THAT(error(make_backup(here / "absent", backup(), options())),
              HasSubstr("there is no directory " + (here / "absent").string()));
  fs::create_directory(here / "empty");
  EXPECT_THAT(error(make_backup(here / "empty", backup(), options())),
              HasSubstr("not a server's state directory"));
  EXPECT_THAT(error(make_backup(state(), here / "no" / "where", options())),
              HasSubstr("there is no directory " + (here / "no").string()));
  EXPECT_THAT(error(make_backup(state(), here / "empty", options())),
              HasSubstr("is made under a new name"));
  EXPECT_THAT(error(make_backup(state(), state() / "backup", options())),
              HasSubstr("lost together with it"));
  fs::create_directory_symlink(state(), here / "link");
  EXPECT_THAT(error(make_backup(state(), here / "link" / "backup", options())),
              HasSubstr("lost together with it"));
  EXPECT_THAT(error(restore_backup(here / "absent", restored(), options())),
              HasSubstr("there is no directory"));
  EXPECT_THAT(error(restore_backup(state(), restored(), options())),
              HasSubstr("is not a whole backup"));
  EXPECT_FALSE(fs::exists(restored()));

  ASSERT_OK(make());
  EXPECT_THAT(error(make()), HasSubstr("is made under a new name"));
  const auto before = listing(state());
  EXPECT_THAT(error(restore_backup(backup(), state(), options())),
              HasSubstr("never replaces anything"));
  EXPECT_EQ(listing(state()), before);
  write(here / "file", "x");
  EXPECT_THAT(error(restore_backup(backup(), here / "file", options())),
              HasSubstr("is not a directory"));
}

TEST_F(BackupTest, OfANewerProgram_IsRefused) {
  ASSERT_OK(make());
  const std::string manifest = file_content(backup() / kManifestFile);
  std::string newer = manifest;
  newer.replace(newer.find("schema "), std::string("schema 6").size(), "schema 99");
  write(backup() / kManifestFile, newer);
  absl::Status status = restore().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(status)), HasSubstr("newer program"));
  newer = manifest;
  newer.replace(0, std::string("bitrung backup 1").size(), "bitrung backup 2");
  write(backup() / kManifestFile, newer);
  status = restore().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(status)), HasSubstr("newer program"));
  EXPECT_FALSE(fs::exists(restored()));

  tamper(state(), "PRAGMA user_version = 99");
  status = make_backup(state(), directory_.path() / "other", options()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(message(status)), HasSubstr("newer"));
}

TEST_F(BackupTest, AMissingOrDamagedArtifact_IsNamedAndNoBackupIsMade) {
  const fs::path file = artifact(state(), network_);
  fs::permissions(file, fs::perms::owner_all);
  write(file, "netwerk");
  absl::Status status = make().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(message(status)),
              AllOf(HasSubstr(network_.hex()), HasSubstr("of job 1 is damaged"),
                    HasSubstr("--without-damaged")));
  expect_no_trace();
  fs::remove(file);
  status = make().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(message(status)), HasSubstr("of job 1 is missing"));
  expect_no_trace();

  BackupOptions without = options();
  without.without_damaged = true;
  const BackupSummary summary = value_of(make_backup(state(), backup(), without));
  EXPECT_EQ(summary.manifest.artifacts, 2U);
  EXPECT_EQ(summary.manifest.lacking, 1U);
  ASSERT_EQ(summary.lacking.size(), 1U);
  EXPECT_THAT(summary.lacking[0], HasSubstr(network_.hex()));
  // What it lacks by its own word is no reason to refuse it; another one is.
  EXPECT_OK(restore());
  fs::remove(artifact(backup(), resume_));
  status = restore_backup(backup(), directory_.path() / "other", options()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
}

TEST_F(BackupTest, ADamagedBackup_IsRefusedAndNothingIsLeftBehind) {
  ASSERT_OK(make());
  const auto expect_refused = [&](const fs::path& file, const char* why) {
    const std::string good = file_content(file);
    std::string bad = good;
    bad[bad.size() / 2] = static_cast<char>(bad[bad.size() / 2] ^ 1);
    fs::remove(file);
    write(file, bad);
    const absl::Status status = restore().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << file << status;
    EXPECT_THAT(std::string(message(status)), HasSubstr(why));
    EXPECT_TRUE(!fs::exists(restored()) || fs::is_empty(restored()));
    write(file, good);
  };
  expect_refused(backup() / kDatabaseFile, "take another backup");
  expect_refused(artifact(backup(), old_), "is damaged");
  write(backup() / kManifestFile, "bitrung backup 1\nmade_at_ms x\n");
  EXPECT_EQ(restore().status().code(), absl::StatusCode::kDataLoss);
  write(backup() / kManifestFile, "shopping list\n");
  EXPECT_EQ(restore().status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(BackupTest, ADamagedDatabase_IsNotBackedUp) {
  {
    const int fd = ::open((state() / kDatabaseFile).c_str(), O_WRONLY | O_CLOEXEC);
    const std::string garbage(4096, '\xa5');
    ASSERT_EQ(::pwrite(fd, garbage.data(), garbage.size(), 4096 * 3), 4096);
    ::close(fd);
  }
  EXPECT_EQ(make().status().code(), absl::StatusCode::kDataLoss);
  expect_no_trace();
}

// Runs in a process of its own, which is killed as soon as the progress says so.
template <typename Act>
void run_and_kill(Act act) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    BackupOptions options{.now_ms = kNow, .program_version = "test"};
    options.on_progress = [](const BackupProgress& progress) {
      if (progress.what == "artifacts") ::raise(SIGKILL);
    };
    act(options);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
}

TEST_F(BackupTest, BrokenOff_IsNeverTakenForAWholeOne_AndIsNoHindrance) {
  run_and_kill([&](const BackupOptions& killing) {
    static_cast<void>(make_backup(state(), backup(), killing));
  });
  EXPECT_FALSE(fs::exists(backup()));
  const fs::path partial = backup().string() + ".partial";
  ASSERT_TRUE(fs::exists(partial / kDatabaseFile));
  const absl::Status status = restore_backup(partial, restored(), options()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(message(status)), HasSubstr("is not a whole backup"));
  EXPECT_OK(make());
  EXPECT_FALSE(fs::exists(partial));
  EXPECT_OK(restore());
}

TEST_F(BackupTest, ARestoreThatWasBrokenOff_IsNoState) {
  ASSERT_OK(make());
  run_and_kill([&](const BackupOptions& killing) {
    static_cast<void>(restore_backup(backup(), restored(), killing));
  });
  for (const absl::Status& status :
       {Store::open(restored()).status(), restore().status(),
        make_backup(restored(), directory_.path() / "other", options()).status()}) {
    EXPECT_FALSE(status.ok());
  }
  EXPECT_THAT(std::string(message(Store::open(restored()).status())), HasSubstr("was broken off"));
  EXPECT_THAT(std::string(message(restore().status())), HasSubstr("was broken off"));
  fs::remove_all(restored());
  EXPECT_OK(restore());
  EXPECT_OK(Store::open(restored()));
}

TEST_F(BackupTest, FilesMayNotGrow_SaysThatThereIsNoBackupAndLeavesNothing) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{20'000, 20'000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(7);
    const absl::Status status = make().status();
    const bool as_expected =
        absl::IsResourceExhausted(status) &&
        message(status).find("before the backup was complete") != std::string_view::npos;
    if (!as_expected) fmt::print(stderr, "{}\n", status.ToString());
    ::_exit(as_expected ? 0 : 8);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0);
  expect_no_trace();
  EXPECT_OK(make());
}

TEST_F(BackupTest, TwoAtATime_TheSecondIsRefused) {
  bool was_asked = false;
  BackupOptions outer = options();
  outer.on_progress = [&](const BackupProgress&) {
    if (std::exchange(was_asked, true)) return;
    const absl::Status second = make().status();
    EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(message(second)), HasSubstr("another backup"));
  };
  EXPECT_OK(make_backup(state(), backup(), outer));
  EXPECT_TRUE(was_asked);
}

TEST_F(BackupTest, OnOneFileSystem_ArtifactsAreLinks_AndReadOnly) {
  const BackupSummary summary = value_of(make());
  EXPECT_EQ(summary.linked, 3U);
  EXPECT_EQ(fs::hard_link_count(artifact(state(), network_)), 2U);
  // Whatever the state forgets, the backup keeps.
  fs::remove_all(state());
  EXPECT_OK(restore());
  EXPECT_EQ(file_content(artifact(restored(), network_)), "network");
}

}  // namespace
}  // namespace bitrung::db
