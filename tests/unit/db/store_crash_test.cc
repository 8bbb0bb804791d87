// What is acknowledged survives: a writer killed at random moments, a disk that is full.
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include "tests/unit/db/db_testing.h"

namespace bitrung::db {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint64_t kPointsPerTurn = 40;
constexpr std::uint64_t kLinesPerTurn = 3;

// Turn n starts job n with points and lines, and ends job n-1.
absl::Status write_turn(Store& store, std::int64_t turn) {
  BITRUNG_RETURN_IF_ERROR(store.begin());
  if (turn == 1) BITRUNG_RETURN_IF_ERROR(store.insert_experiment(make_experiment(1)));
  BITRUNG_RETURN_IF_ERROR(store.insert_job(make_job(turn, 1, fmt::format("job-{}", turn)),
                                           make_state(turn, JobState::kRunning)));
  BITRUNG_RETURN_IF_ERROR(store.save_attempt(make_attempt(turn, 1, AttemptState::kRunning)));
  std::vector<PointRow> points;
  for (std::uint64_t i = 0; i < kPointsPerTurn; ++i) {
    points.push_back({"loss", static_cast<std::int64_t>(i), 1.0 / static_cast<double>(i + 1)});
  }
  BITRUNG_RETURN_IF_ERROR(store.append_points(JobId{turn}, 1, 1, points).status());
  BITRUNG_RETURN_IF_ERROR(
      store
          .append_logs(JobId{turn}, 1, 1,
                       std::vector<LogRow>(kLinesPerTurn, {0, 0, 0, "a line of text"}))
          .status());
  if (turn > 1) {
    JobStateRow ended = make_state(turn - 1, JobState::kSucceeded);
    ended.attempt = 1;
    ended.result = make_result(90);
    BITRUNG_RETURN_IF_ERROR(store.update_job(ended));
    BITRUNG_RETURN_IF_ERROR(
        store.save_attempt(make_attempt(turn - 1, 1, AttemptState::kSucceeded)));
  }
  return store.commit();
}

// Writes turns for ever; after each commit its number goes into the pipe.
[[noreturn]] void write_turns(const std::filesystem::path& directory, int pipe) {
  auto store = value_of(Store::open(directory));
  std::int64_t turn = value_of(store->load()).next_job_id;
  while (true) {
    if (!write_turn(*store, turn).ok()) ::_exit(2);
    if (::write(pipe, &turn, sizeof turn) != sizeof turn) ::_exit(3);
    ++turn;
  }
}

// Everything of turns 1 to `turns` is there, nothing of a later one.
void expect_whole_turns(const std::filesystem::path& directory, std::int64_t turns) {
  EXPECT_THAT(select(directory, "PRAGMA integrity_check"), ElementsAre("ok"));
  EXPECT_THAT(select(directory, "PRAGMA foreign_key_check"), IsEmpty());
  EXPECT_THAT(
      select(directory,
             "SELECT (SELECT count(*) FROM job), (SELECT count(*) FROM job WHERE state = "
             "'succeeded'), "
             "(SELECT count(*) FROM job_spec), (SELECT count(*) FROM attempt), (SELECT count(*) "
             "FROM log_line), "
             "(SELECT count(*) FROM metrics), (SELECT value FROM meta WHERE key = 'changed_seq')"),
      ElementsAre(fmt::format("{}|{}|{}|{}|{}|{}|{}", turns, turns - 1, turns, turns,
                              turns * static_cast<std::int64_t>(kLinesPerTurn),
                              turns * static_cast<std::int64_t>(kPointsPerTurn), 2 * turns - 1)));
}

TEST(StoreCrash, KilledAtRandomMoments_EveryAcknowledgedTurnIsThere) {
  constexpr int kKills = 25;
  TemporaryDirectory directory;
  const auto seed = std::random_device()();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(seed);
  std::int64_t acknowledged = 0;
  std::int64_t unacknowledged = 0;
  for (int kill = 0; kill < kKills; ++kill) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(ends[0]);
      write_turns(directory.path(), ends[1]);
    }
    ::close(ends[1]);
    // Some turns, then a part of a turn: the pipe stays silent while the next commit is on its way.
    const auto wanted = std::uniform_int_distribution<std::int64_t>(0, 20)(random);
    std::int64_t turn = 0;
    for (std::int64_t i = 0; i < wanted && ::read(ends[0], &turn, sizeof turn) == sizeof turn;
         ++i) {
      acknowledged = turn;
    }
    const auto until =
        std::chrono::steady_clock::now() +
        std::chrono::microseconds(std::uniform_int_distribution<int>(0, 3000)(random));
    while (std::chrono::steady_clock::now() < until) {
    }
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer ended by itself: " << WEXITSTATUS(status);
    while (::read(ends[0], &turn, sizeof turn) == sizeof turn) acknowledged = turn;
    ::close(ends[0]);

    auto store = value_of(Store::open(directory.path()));
    const std::int64_t present = value_of(store->load()).next_job_id - 1;
    ASSERT_GE(present, acknowledged);
    ASSERT_LE(present, acknowledged + 1);  // A commit that could not be acknowledged any more.
    unacknowledged += present - acknowledged;
    acknowledged = present;
    if (present > 0) expect_whole_turns(directory.path(), present);
  }
  fmt::print("{} kills, {} turns, {} committed without an acknowledgement\n", kKills, acknowledged,
             unacknowledged);
}

// Writes until the disk is full; the exit status says what was wrong, 0 nothing. The number of
// turns goes into the pipe.
[[noreturn]] void fill_disk(const std::filesystem::path& directory, int pipe) {
  auto store = value_of(Store::open(directory));
  absl::Status status;
  std::int64_t turn = 0;
  while (turn < 100'000) {
    status = write_turn(*store, turn + 1);
    if (!status.ok()) break;
    ++turn;
  }
  if (::write(pipe, &turn, sizeof turn) != sizeof turn) ::_exit(3);
  if (status.code() != absl::StatusCode::kResourceExhausted) {
    fmt::print(stderr, "{}\n", status.ToString());
    ::_exit(4);
  }
  // The process must stop now; the store refuses to go on.
  if (store->commit().code() != absl::StatusCode::kResourceExhausted) ::_exit(5);
  if (store->begin().code() != absl::StatusCode::kResourceExhausted) ::_exit(6);
  ::_exit(0);
}

// Runs `act` with the writing end of a pipe in a process of its own; returns its exit status and
// the number it wrote.
template <typename Act>
std::pair<int, std::int64_t> in_child(Act act) {
  int ends[2];
  if (::pipe(ends) != 0) return {-1, 0};
  const pid_t child = ::fork();
  if (child == 0) act(ends[1]);
  ::close(ends[1]);
  std::int64_t number = 0;
  if (::read(ends[0], &number, sizeof number) != sizeof number) number = 0;
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, number};
}

TEST(StoreCrash, FilesMayNotGrow_IsResourceExhaustedAndNothingIsLost) {
  TemporaryDirectory directory;
  const auto [status, turns] = in_child([&](int pipe) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{2'000'000, 2'000'000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(7);
    fill_disk(directory.path(), pipe);
  });
  EXPECT_EQ(status, 0);
  ASSERT_GT(turns, 0);
  auto store = value_of(Store::open(directory.path()));
  expect_whole_turns(directory.path(), turns);
  EXPECT_OK(write_turn(*store, turns + 1));
}

TEST(StoreCrash, DiskIsFull_IsResourceExhaustedAndNothingIsLost) {
  constexpr int kNotPermitted = 77;
  TemporaryDirectory directory;
  TemporaryDirectory saved;
  const std::filesystem::path mount = directory.path() / "small";
  std::filesystem::create_directory(mount);
  const auto [status, turns] = in_child([&](int pipe) {
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("small", mount.c_str(), "tmpfs", 0, "size=2m") != 0) {
      ::_exit(kNotPermitted);
    }
    // The file system ends with the process, so a second process of the same name space saves what
    // is on it.
    const auto [filled, written] = in_child([&](int inner) { fill_disk(mount, inner); });
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(mount)) {
      std::filesystem::copy(entry.path(), saved.path() / entry.path().filename(), error);
    }
    if (::write(pipe, &written, sizeof written) != sizeof written) ::_exit(3);
    ::_exit(error ? 8 : filled);
  });
  if (status == kNotPermitted) GTEST_SKIP() << "no permission to mount a small file system";
  EXPECT_EQ(status, 0);
  ASSERT_GT(turns, 0);
  auto store = value_of(Store::open(saved.path()));
  expect_whole_turns(saved.path(), turns);
  EXPECT_OK(write_turn(*store, turns + 1));
}

}  // namespace
}  // namespace bitrung::db
