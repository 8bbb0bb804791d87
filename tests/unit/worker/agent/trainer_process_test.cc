#include "worker/agent/trainer_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>

#include <boost/asio/steady_timer.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "db/base/status.h"
#include "temporary_directory.h"

namespace bitrung::agent {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

// A trainer and what it said, driven until something has happened.
class TrainerProcessTest : public testing::Test {
 protected:
  absl::Status spawn(TrainerLaunch launch, const std::filesystem::path& root = "/") {
    auto process = TrainerProcess::spawn(
        io_, launch,
        {[this](std::string_view line) {
           events_.push_back(json::parse(line).at("event").get<std::string>());
         },
         [this](std::string_view line) { lines_.emplace_back(line); },
         [this](std::string description, bool out_of_memory) {
           exit_ = std::move(description);
           out_of_memory_ = out_of_memory;
         }},
        root);
    if (process.ok()) process_ = *std::move(process);
    return process.status();
  }
  absl::Status spawn() { return spawn({BITRUNG_FAKE_TRAINER, {}, {}}); }

  // The operations of fake_trainer.py.
  void train(std::string_view script) {
    process_->write(json{{"command", "train"},
                         {"key", "1-1"},
                         {"spec", {{"script", json::parse(script)}}},
                         {"work_dir", directory_.path().string()},
                         {"resume", nullptr}}
                        .dump() +
                    "\n");
  }

  // Runs until the condition holds; a test that waits too long fails.
  template <typename Condition>
  void run_until(Condition condition) {
    const Time deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!condition() && std::chrono::steady_clock::now() < deadline)
      io_.run_one_for(std::chrono::seconds(1));
    ASSERT_TRUE(condition());
  }
  void run_until_event(const std::string& event) {
    run_until([&] { return std::ranges::find(events_, event) != events_.end(); });
  }
  void run_until_exit() {
    run_until([&] { return exit_.has_value(); });
  }

  TemporaryDirectory directory_;
  boost::asio::io_context io_;
  std::unique_ptr<TrainerProcess> process_;
  std::vector<std::string> events_;
  std::vector<std::string> lines_;
  std::optional<std::string> exit_;
  bool out_of_memory_ = false;
};

TEST_F(TrainerProcessTest, Job_IsTrainedAndTheProcessStaysForTheNext) {
  ASSERT_TRUE(spawn().ok());
  run_until_event("ready");
  train(R"([["log", "hello"], ["points", [["loss", 1, 0.5]]], ["succeed", "model"]])");
  run_until_event("succeeded");
  EXPECT_THAT(events_, ElementsAre("ready", "started", "points", "succeeded"));
  // What it printed before it ended is there when the end is.
  EXPECT_THAT(lines_, ElementsAre("hello"));
  events_.clear();
  train(R"([["fail", "diverged", "NaN"]])");
  run_until_event("failed");
  EXPECT_FALSE(exit_.has_value());
}

TEST_F(TrainerProcessTest, DeathBySignal_IsReportedAfterItsLastLine) {
  ASSERT_TRUE(spawn().ok());
  train(R"([["log", "about to die"], ["kill"]])");
  run_until_exit();
  EXPECT_EQ(exit_, "was killed by SIGKILL; its last line was: about to die");
  EXPECT_FALSE(out_of_memory_);
  EXPECT_THAT(events_, ElementsAre("ready", "started"));
}

TEST_F(TrainerProcessTest, ExitCode_IsReported) {
  ASSERT_TRUE(spawn().ok());
  train(R"([["exit", 3]])");
  run_until_exit();
  EXPECT_EQ(exit_, "exited with code 3");
}

TEST_F(TrainerProcessTest, KernelsCounter_TellsOutOfMemoryFromOtherKills) {
  // A root of our own: the counter rises between start and death.
  std::filesystem::create_directories(directory_.path() / "proc");
  std::ofstream(directory_.path() / "proc/vmstat") << "nr_free_pages 5\noom_kill 7\n";
  ASSERT_TRUE(spawn({BITRUNG_FAKE_TRAINER, {}, {}}, directory_.path()).ok());
  run_until_event("ready");
  std::ofstream(directory_.path() / "proc/vmstat") << "nr_free_pages 5\noom_kill 8\n";
  train(R"([["kill"]])");
  run_until_exit();
  EXPECT_TRUE(out_of_memory_);
  EXPECT_THAT(*exit_, HasSubstr("memory ran out"));
}

TEST_F(TrainerProcessTest, HangingProcess_IsKilled) {
  ASSERT_TRUE(spawn().ok());
  train(R"([["hang"]])");
  run_until_event("started");
  process_->kill();
  run_until_exit();
  EXPECT_THAT(*exit_, HasSubstr("SIGKILL"));
}

TEST_F(TrainerProcessTest, DestroyedObject_LeavesNoProcess) {
  ASSERT_TRUE(spawn().ok());
  run_until_event("ready");
  const int pid = process_->pid();
  process_.reset();
  EXPECT_EQ(::kill(pid, 0), -1);
  EXPECT_FALSE(exit_.has_value());
}

TEST_F(TrainerProcessTest, MissingProgram_IsNamed) {
  const absl::Status status = spawn({"/no/such/trainer", {}, {}});
  EXPECT_THAT(std::string(message(status)),
              HasSubstr("run /no/such/trainer: No such file or directory"));
}

TEST_F(TrainerProcessTest, Cores_BindTheProcess) {
  cpu_set_t allowed;
  ASSERT_EQ(::sched_getaffinity(0, sizeof allowed, &allowed), 0);
  int core = 0;
  while (!CPU_ISSET(static_cast<std::size_t>(core), &allowed)) ++core;
  ASSERT_TRUE(spawn({BITRUNG_FAKE_TRAINER, {}, {core}}).ok());
  run_until_event("ready");
  cpu_set_t bound;
  ASSERT_EQ(::sched_getaffinity(process_->pid(), sizeof bound, &bound), 0);
  EXPECT_EQ(CPU_COUNT(&bound), 1);
  EXPECT_TRUE(CPU_ISSET(static_cast<std::size_t>(core), &bound));
}

TEST_F(TrainerProcessTest, RunningProcess_IsBoundWithAllItsThreads) {
  cpu_set_t allowed;
  ASSERT_EQ(::sched_getaffinity(0, sizeof allowed, &allowed), 0);
  int core = CPU_SETSIZE - 1;
  while (!CPU_ISSET(static_cast<std::size_t>(core), &allowed)) --core;
  ASSERT_TRUE(spawn({BITRUNG_FAKE_TRAINER, {"--with-a-thread"}, {}}).ok());
  run_until_event("ready");
  ASSERT_TRUE(process_->bind({core}).ok());
  std::size_t threads = 0;
  for (const auto& thread :
       std::filesystem::directory_iterator("/proc/" + std::to_string(process_->pid()) + "/task")) {
    cpu_set_t bound;
    const int id = std::stoi(thread.path().filename().string());
    ASSERT_EQ(::sched_getaffinity(id, sizeof bound, &bound), 0);
    EXPECT_EQ(CPU_COUNT(&bound), 1);
    EXPECT_TRUE(CPU_ISSET(static_cast<std::size_t>(core), &bound));
    ++threads;
  }
  EXPECT_EQ(threads, 2U);
}

TEST_F(TrainerProcessTest, DeadProcess_CannotBeBound) {
  ASSERT_TRUE(spawn().ok());
  run_until_event("ready");
  train(R"([["exit",4]])");
  run_until_exit();
  EXPECT_THAT(std::string(message(process_->bind({0}))), HasSubstr("the threads of the trainer"));
}

TEST(RunTrainer, Inventory_IsItsStandardOutput) {
  const auto output =
      run_trainer({BITRUNG_FAKE_TRAINER, {"--inventory"}, {}}, std::chrono::seconds(30));
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(json::parse(*output).at("numerics"), 1);
}

TEST(RunTrainer, Failures_NameTheCommandAndTheLastLine) {
  const auto failed =
      run_trainer({"/bin/sh", {"-c", "echo one >&2; echo libtorch is missing >&2; exit 4"}, {}},
                  std::chrono::seconds(30));
  EXPECT_THAT(std::string(message(failed.status())),
              HasSubstr("exited with code 4; its last line was: libtorch is missing"));
  const auto slow = run_trainer({"/bin/sleep", {"60"}, {}}, milliseconds{50});
  EXPECT_TRUE(absl::IsDeadlineExceeded(slow.status())) << slow.status();
  EXPECT_FALSE(run_trainer({"/no/such/trainer", {"--inventory"}, {}}, milliseconds{50}).ok());
}

TEST(OomCounts, ControlGroupsOfBothVersions_AreRead) {
  const TemporaryDirectory root;
  std::filesystem::create_directories(root.path() / "proc/self");
  std::filesystem::create_directories(root.path() / "sys/fs/cgroup/a");
  std::filesystem::create_directories(root.path() / "sys/fs/cgroup/memory/b");
  std::ofstream(root.path() / "proc/self/cgroup") << "0::/a\n4:memory:/b\n";
  std::ofstream(root.path() / "sys/fs/cgroup/a/memory.events") << "low 0\noom 1\noom_kill 2\n";
  std::ofstream(root.path() / "sys/fs/cgroup/memory/b/memory.oom_control")
      << "under_oom 0\noom_kill 3\n";
  const OomCounts counts = read_oom_counts(root.path());
  EXPECT_EQ(counts.host, 0U);
  EXPECT_EQ(counts.group, 5U);
}

TEST(FindProgram, Places_AreTriedInOrder) {
  EXPECT_EQ(find_program("/bin/sh", "bitrung-trainer").value(), "/bin/sh");
  EXPECT_THAT(std::string(message(find_program("/no/such/trainer", "bitrung-trainer").status())),
              HasSubstr("/no/such/trainer"));
  EXPECT_EQ(find_program("", "sh").value().filename(), "sh");
  EXPECT_THAT(std::string(message(find_program("", "no-such-program").status())),
              HasSubstr("--trainer"));
}

}  // namespace
}  // namespace bitrung::agent
