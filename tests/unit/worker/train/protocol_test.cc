// Drives the real bitrung-trainer over pipes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "tests/unit/worker/train/test_files.h"
#include "worker/train/spec.h"

extern char** environ;

namespace bitrung::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

// Long enough for a machine that is busy with other work.
constexpr std::chrono::seconds kPatience{60};

// The running program. Standard error goes to a file.
class Trainer {
 public:
  explicit Trainer(const fs::path& log, std::vector<std::string> arguments = {}) {
    std::array<int, 2> in{};
    std::array<int, 2> out{};
    if (::pipe2(in.data(), O_CLOEXEC) != 0 || ::pipe2(out.data(), O_CLOEXEC) != 0) {
      throw std::runtime_error("pipe2 failed");
    }
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    ::posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    ::posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                       0644);
    arguments.insert(arguments.begin(), BITRUNG_TRAINER);
    std::vector<char*> words;
    for (std::string& argument : arguments) {
      words.push_back(argument.data());
    }
    words.push_back(nullptr);
    const int error =
        ::posix_spawn(&pid_, BITRUNG_TRAINER, &actions, nullptr, words.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(in[0]);
    ::close(out[1]);
    commands_ = in[1];
    events_ = out[0];
    if (error != 0) {
      throw std::runtime_error("posix_spawn failed");
    }
  }
  ~Trainer() {
    close_commands();
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(events_);
  }
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  void send_line(const std::string& line) {
    const std::string text = line + "\n";
    ASSERT_EQ(::write(commands_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void send(const json& command) { send_line(command.dump()); }

  void close_commands() {
    if (commands_ >= 0) {
      ::close(commands_);
      commands_ = -1;
    }
  }
  void terminate() { ::kill(pid_, SIGTERM); }

  // The next event, or null at the end of the events.
  json next() {
    const Clock::time_point deadline = Clock::now() + kPatience;
    while (true) {
      const std::size_t end = buffer_.find('\n');
      if (end != std::string::npos) {
        const json event = json::parse(buffer_.substr(0, end));
        buffer_.erase(0, end + 1);
        return event;
      }
      pollfd polled{events_, POLLIN, 0};
      if (Clock::now() > deadline || ::poll(&polled, 1, 1000) < 0) {
        ADD_FAILURE() << "no event in time";
        return nullptr;
      }
      std::array<char, 65536> bytes{};
      if (polled.revents != 0) {
        const ssize_t count = ::read(events_, bytes.data(), bytes.size());
        if (count <= 0) {
          return nullptr;
        }
        buffer_.append(bytes.data(), static_cast<std::size_t>(count));
      }
    }
  }

  // Passes over events until one of this name.
  json wait_for(const std::string& name) {
    for (json event = next(); !event.is_null(); event = next()) {
      if (event.at("event") == name) {
        return event;
      }
      if (event.at("event") == "failed") {  // What nobody waits for would only time out.
        ADD_FAILURE() << "waited for " << name << ", got " << event;
        return event;
      }
    }
    ADD_FAILURE() << "the events ended before " << name;
    return nullptr;
  }

  // Exit status; the events are read to their end first.
  int wait_for_exit() {
    while (!next().is_null()) {
    }
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  int commands_ = -1;
  int events_ = -1;
  std::string buffer_;
};

class Protocol : public ::testing::Test {
 protected:
  json train_command(const std::string& key, const Spec& spec) {
    return {{"command", "train"},
            {"key", key},
            {"spec", json::parse(canonical_spec(spec))},
            {"work_dir", folder_.make_folder(key).string()},
            {"data_dir", ""},
            {"teachers", nlohmann::json::array()},
            {"init", nullptr},
            {"resume", nullptr}};
  }
  static Spec short_spec() {
    Spec spec = tiny_spec();
    spec.epochs = 2;
    return spec;
  }
  static Spec endless_spec() {
    Spec spec = tiny_spec();
    spec.epochs = 100'000;
    return spec;
  }
  fs::path log() const { return folder_.path() / "log"; }

  TemporaryFolder folder_;
};

TEST_F(Protocol, TwoJobsInARow_AreTrainedByOneProcess) {
  Trainer trainer(log(), {"--threads", "1"});
  const json ready = trainer.next();
  EXPECT_EQ(ready.at("event"), "ready");
  EXPECT_EQ(ready.at("numerics"), 5);
  EXPECT_EQ(ready.at("device"), "cpu");
  EXPECT_EQ(ready.at("threads"), 1);
  std::vector<std::string> bytes;
  for (const std::string key : {"first", "second"}) {
    trainer.send(train_command(key, short_spec()));
    const json started = trainer.next();
    EXPECT_EQ(started, (json{{"event", "started"},
                             {"key", key},
                             {"resumed_epoch", 0},
                             {"epochs", 2},
                             {"steps", 10}}));
    const json checkpoint = trainer.wait_for("checkpoint");
    EXPECT_EQ(checkpoint.at("epoch"), 1);
    EXPECT_TRUE(fs::exists(checkpoint.at("path").get<std::string>()));
    const json succeeded = trainer.wait_for("succeeded");
    EXPECT_EQ(succeeded.at("key"), key);
    EXPECT_EQ(succeeded.at("result").at("best_epoch"), 2);
    EXPECT_TRUE(succeeded.at("result").at("validation_accuracy").is_null());
    bytes.push_back(read_bytes(succeeded.at("path").get<std::string>()));
  }
  EXPECT_FALSE(bytes[0].empty());
  EXPECT_EQ(bytes[0], bytes[1]);
  trainer.close_commands();
  EXPECT_EQ(trainer.wait_for_exit(), 0);
}

TEST_F(Protocol, Cancel_StopsAfterTheStepAndTheNextJobRuns) {
  Trainer trainer(log());
  trainer.send(train_command("long", endless_spec()));
  trainer.wait_for("points");
  trainer.send(json{{"command", "cancel"}, {"key", "another"}});  // Ignored.
  trainer.send(json{{"command", "cancel"}, {"key", "long"}});
  EXPECT_EQ(trainer.wait_for("cancelled"), (json{{"event", "cancelled"}, {"key", "long"}}));
  trainer.send(train_command("next", short_spec()));
  EXPECT_EQ(trainer.wait_for("succeeded").at("key"), "next");
  EXPECT_THAT(read_bytes(log()), HasSubstr("another"));
}

TEST_F(Protocol, WaitingJob_CanBeCancelledToo) {
  Trainer trainer(log());
  trainer.send(train_command("long", endless_spec()));
  trainer.wait_for("started");
  trainer.send(train_command("waiting", short_spec()));
  trainer.send(json{{"command", "cancel"}, {"key", "waiting"}});
  EXPECT_EQ(trainer.wait_for("cancelled").at("key"), "waiting");
  trainer.send(json{{"command", "cancel"}, {"key", "long"}});
  EXPECT_EQ(trainer.wait_for("cancelled").at("key"), "long");
}

TEST_F(Protocol, PreemptAndResume_GiveTheUninterruptedCheckpoint) {
  Trainer trainer(log());
  Spec spec = short_spec();
  spec.epochs = 4;
  trainer.send(train_command("whole", spec));
  const std::string expected =
      read_bytes(trainer.wait_for("succeeded").at("path").get<std::string>());
  trainer.send(train_command("part", spec));
  trainer.wait_for("started");
  trainer.send(json{{"command", "preempt"}, {"key", "part"}});
  const json preempted = trainer.wait_for("preempted");
  json rest = train_command("rest", spec);
  rest["resume"] = preempted.at("path");
  trainer.send(rest);
  EXPECT_EQ(trainer.wait_for("started").at("resumed_epoch"), preempted.at("epoch"));
  EXPECT_EQ(read_bytes(trainer.wait_for("succeeded").at("path").get<std::string>()), expected);
}

TEST_F(Protocol, EndOfInput_EndsATrainingAtOnce) {
  Trainer trainer(log());
  trainer.send(train_command("long", endless_spec()));
  trainer.wait_for("started");
  const Clock::time_point start = Clock::now();
  trainer.close_commands();
  EXPECT_EQ(trainer.wait_for_exit(), 0);
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(5));
}

TEST_F(Protocol, SigtermInATraining_IsLikeTheEndOfInput) {
  Trainer trainer(log());
  trainer.send(train_command("long", endless_spec()));
  trainer.wait_for("started");
  trainer.terminate();
  EXPECT_EQ(trainer.wait_for_exit(), 0);
}

TEST_F(Protocol, LinesThatAreNotUnderstood_AreLoggedAndIgnored) {
  Trainer trainer(log());
  trainer.wait_for("ready");
  trainer.send_line("this is no JSON");
  trainer.send_line("");
  trainer.send_line("[1,2]");
  trainer.send_line(R"({"command":"train","key":7})");
  trainer.send_line(R"({"command":"dance","key":"x"})");
  trainer.send_line(std::string(1'200'000, 'x'));
  trainer.send_line(std::string("\xff\xfe\x00garbage", 10));
  trainer.send(train_command("good", short_spec()));
  EXPECT_EQ(trainer.wait_for("succeeded").at("key"), "good");
  EXPECT_THAT(read_bytes(log()), AllOf(HasSubstr("dance"), HasSubstr("more than 1048576 bytes")));
}

TEST_F(Protocol, WrongSpec_FailsItsOwnAttemptOnly) {
  Trainer trainer(log());
  trainer.wait_for("ready");
  json wrong = train_command("wrong", short_spec());
  wrong["spec"]["epoch"] = 3;
  trainer.send(wrong);
  const json failed = trainer.next();
  EXPECT_EQ(failed.at("event"), "failed");
  EXPECT_EQ(failed.at("class"), "user_error");
  EXPECT_THAT(failed.at("message").get<std::string>(), HasSubstr("unknown key \"epoch\""));
  Spec diverging = short_spec();
  diverging.optimizer.learning_rate = 1e20;
  trainer.send(train_command("diverging", diverging));
  EXPECT_EQ(trainer.wait_for("failed").at("class"), "diverged");
  trainer.send(train_command("good", short_spec()));
  EXPECT_EQ(trainer.wait_for("succeeded").at("key"), "good");
}

TEST_F(Protocol, Inventory_ListsTheCpu) {
  Trainer trainer(log(), {"--inventory"});
  const json inventory = trainer.next();
  EXPECT_EQ(inventory.at("numerics"), 5);
  EXPECT_EQ(inventory.at("devices").at(0).at("device"), "cpu");
  EXPECT_GT(inventory.at("devices").at(0).at("memory_bytes"), 0);
  EXPECT_EQ(trainer.wait_for_exit(), 0);
}

TEST_F(Protocol, JobFile_IsTrainedAlone) {
  write_bytes(folder_.path() / "spec.json", canonical_spec(short_spec()));
  const fs::path work = folder_.make_folder("work");
  Trainer trainer(
      log(), {"--job", (folder_.path() / "spec.json").string(), "--work-dir=" + work.string()});
  trainer.wait_for("succeeded");
  EXPECT_EQ(trainer.wait_for_exit(), 0);
  EXPECT_TRUE(fs::exists(work / "model.safetensors"));
}

TEST_F(Protocol, WrongUse_ExitsWithTwo) {
  for (const std::string argument : {"--thread=2", "--threads=0", "--device=gpu", "--job"}) {
    Trainer trainer(log(), {argument});
    EXPECT_EQ(trainer.wait_for_exit(), 2) << argument;
    EXPECT_THAT(read_bytes(log()), HasSubstr("see bitrung-trainer --help"));
  }
}

}  // namespace
}  // namespace bitrung::train
