// bitrung-worker as a process, between a server and a trainer that follow a script.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "db/base/check.h"
#include "db/base/digest.h"
#include "fake_server.h"
#include "temporary_directory.h"
#include "worker/agent/dataset_catalog.h"

extern char** environ;

namespace bitrung::agent {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class WorkerProcessTest : public testing::Test {
 protected:
  // `extra` is flags and their values, also instead of the ones given here.
  void start_worker(const std::vector<std::string>& extra = {}) {
    std::vector<std::string> words{
        BITRUNG_WORKER,       "--server",      "unix:" + socket_.string(),
        "--state-dir",        state_.string(), "--trainer",
        BITRUNG_FAKE_TRAINER, "--name",        "tester",
        "--die-with-parent",  "--log-level",   "debug"};
    for (std::size_t i = 0; i + 1 < extra.size(); i += 2) {
      const auto given = std::ranges::find(words, extra[i]);
      if (given != words.end()) {
        *std::next(given) = extra[i + 1];
      } else {
        words.insert(words.end(), {extra[i], extra[i + 1]});
      }
    }
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, log_.c_str(), O_WRONLY | O_CREAT | O_APPEND,
                                     0644);
    ASSERT_EQ(posix_spawn(&pid_, BITRUNG_WORKER, &actions, nullptr, arguments.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  int wait_for_worker() {
    int status = 0;
    EXPECT_EQ(::waitpid(std::exchange(pid_, 0), &status, 0) > 0, true);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  void kill_worker(int signal) {
    ASSERT_GT(pid_, 0);
    ::kill(pid_, signal);
  }
  void TearDown() override {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    if (HasFailure()) std::cerr << "log of the worker:\n" << log_text();
    EXPECT_THAT(server_.mistakes(), IsEmpty());
  }
  std::string log_text() const {
    std::ostringstream text;
    text << std::ifstream(log_).rdbuf();
    return text.str();
  }

  v1::Offer offer(std::int64_t job, std::uint32_t attempt, std::string_view script,
                  std::uint32_t slot = 0) const {
    v1::Offer offer;
    offer.mutable_key()->set_job_id(job);
    offer.mutable_key()->set_attempt(attempt);
    offer.set_slot(slot);
    offer.set_display_name("study/job");
    offer.set_spec_json(json{{"dataset", "synthetic"}, {"script", json::parse(script)}}.dump());
    offer.set_dataset_sha256(synthetic_digest().hex());
    return offer;
  }
  // A pipe at which the trainer waits until it is opened.
  std::string gate(const std::string& name) {
    const std::string path = (directory_.path() / name).string();
    BITRUNG_CHECK(::mkfifo(path.c_str(), 0600) == 0);
    return path;
  }
  void open_gate(const std::string& path) { ::close(::open(path.c_str(), O_WRONLY)); }

  void wait(const std::function<bool(const FakeServer&)>& condition) {
    ASSERT_TRUE(server_.wait(condition));
  }
  void wait_for_session(std::size_t number) {
    wait([=](const FakeServer& s) { return s.sessions() >= number && s.connected(); });
  }
  void wait_for_outcome(const std::string& key) {
    wait([=](const FakeServer& s) { return !s.attempt(key).outcomes.empty(); });
  }
  bool spool_is_empty() const {
    return std::filesystem::is_empty(state_ / "spool") &&
           std::filesystem::is_empty(state_ / "work");
  }

  TemporaryDirectory directory_;
  const std::filesystem::path socket_ = directory_.path() / "server.sock";
  const std::filesystem::path state_ = directory_.path() / "worker";
  const std::filesystem::path log_ = directory_.path() / "worker.log";
  FakeServer server_{socket_};
  pid_t pid_ = 0;
};

TEST_F(WorkerProcessTest, NoOpWorker_SucceedsAtOnceWithItsPoints) {
  start_worker({"--no-op", "--no-op", "--no-op-points", "1500", "--slots", "2"});
  wait_for_session(1);
  EXPECT_EQ(server_.hello().numerics(), 0xFFFFFFFFU);
  ASSERT_EQ(server_.hello().slots_size(), 2);
  wait([](const FakeServer& s) { return s.datasets().size() == 1; });
  server_.offer_together({offer(1, 1, "[]", 0), offer(2, 1, "[]", 1)});
  for (const char* key : {"1-1", "2-1"}) {
    wait_for_outcome(key);
    EXPECT_EQ(server_.attempt(key).started, 1);
    EXPECT_EQ(server_.attempt(key).points.size(), 1500U);
    EXPECT_TRUE(server_.attempt(key).outcomes.at(0).has_succeeded());
  }
  kill_worker(SIGTERM);
  EXPECT_EQ(wait_for_worker(), 0);
  EXPECT_TRUE(spool_is_empty());
}

TEST_F(WorkerProcessTest, Job_RunsFromOfferToOutcome) {
  start_worker({"--slots", "2"});
  wait_for_session(1);
  EXPECT_EQ(server_.hello().name(), "tester");
  EXPECT_EQ(server_.hello().worker_id().size(), 32U);
  EXPECT_EQ(server_.hello().numerics(), 1U);
  ASSERT_EQ(server_.hello().slots_size(), 2);
  EXPECT_EQ(server_.hello().slots(1).device(), "cpu");
  wait([](const FakeServer& s) { return s.datasets().size() == 1; });
  EXPECT_EQ(server_.datasets()[0].sha256(), synthetic_digest().hex());

  const std::string teacher = server_.put_artifact("the teacher");
  v1::Offer first =
      offer(1, 1, R"([["log","hello"],["points",[["a",1,0.5],["b",1,1.5]]],["progress",1],
                                    ["checkpoint",1],["points",[["a",2,2.5]]],["succeed","the model"]])");
  v1::OfferInput* input = first.add_inputs();
  input->set_role(v1::INPUT_ROLE_TEACHER);
  input->set_artifact_sha256(teacher);
  server_.offer(first);
  wait_for_outcome("1-1");
  const AttemptRecord& attempt = server_.attempt("1-1");
  EXPECT_EQ(attempt.started, 1);
  EXPECT_THAT(attempt.points, ElementsAre(0.5, 1.5, 2.5));
  EXPECT_THAT(attempt.lines, ElementsAre("hello"));
  ASSERT_TRUE(attempt.outcomes[0].has_succeeded());
  const v1::JobResult& result = attempt.outcomes[0].succeeded();
  EXPECT_EQ(result.test_accuracy(), 62.5);
  EXPECT_FALSE(result.has_validation_accuracy());
  EXPECT_EQ(result.best_epoch(), 3U);
  EXPECT_EQ(attempt.outcomes[0].report_json(), R"({"evaluation":{"top5":95.5},"layers":[]})");
  EXPECT_EQ(result.artifact_sha256(), sha256("the model").hex());
  EXPECT_EQ(server_.artifact(result.artifact_sha256()), "the model");

  // The same trainer takes the next job; so does the other slot.
  server_.offer(offer(2, 1, R"([["fail","diverged","NaN at step 5"]])"));
  server_.offer(offer(3, 1, R"([["succeed","another model"]])", 1));
  wait_for_outcome("2-1");
  wait_for_outcome("3-1");
  EXPECT_EQ(server_.attempt("2-1").outcomes[0].failed().failure_class(),
            v1::FAILURE_CLASS_DIVERGED);
  EXPECT_EQ(server_.attempt("2-1").outcomes[0].failed().message(), "NaN at step 5");

  kill_worker(SIGTERM);
  EXPECT_EQ(wait_for_worker(), 0);
  EXPECT_TRUE(spool_is_empty());
}

TEST_F(WorkerProcessTest, LostConnection_LosesAndRepeatsNothing) {
  start_worker();
  wait_for_session(1);
  server_.hold_replies(true);
  const std::string one = gate("one");
  const std::string two = gate("two");
  server_.offer(offer(1, 1,
                      R"([["points",[["a",1,1]]],["gate",")" + one +
                          R"("],["points",[["a",2,2],["a",3,3]]],
                               ["log","between"],["gate",")" +
                          two + R"("],["points",[["a",4,4]]],["succeed","m"]])"));
  wait([](const FakeServer& s) { return s.attempt("1-1").points.size() == 1; });
  // The reply to point 1 never arrives; the worker has to say it again.
  server_.stop();
  open_gate(one);
  server_.hold_replies(false);
  server_.start();
  wait_for_session(2);
  ASSERT_EQ(server_.hello().attempts_size(), 1);
  wait([](const FakeServer& s) {
    return s.attempt("1-1").points.size() == 3 && !s.attempt("1-1").lines.empty();
  });
  server_.drop_session();
  open_gate(two);
  wait_for_outcome("1-1");
  EXPECT_THAT(server_.attempt("1-1").points, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(server_.attempt("1-1").lines, ElementsAre("between"));
  EXPECT_EQ(server_.uploads(), 1U);
}

TEST_F(WorkerProcessTest, OutcomeWithoutReply_IsSaidAgainAfterKillMinus9) {
  start_worker();
  wait_for_session(1);
  server_.hold_outcome_replies(true);
  server_.offer(offer(1, 1, R"([["points",[["a",1,1]]],["succeed","m"]])"));
  wait_for_outcome("1-1");
  const std::string id = server_.hello().worker_id();
  kill_worker(SIGKILL);
  EXPECT_EQ(wait_for_worker(), -SIGKILL);
  server_.hold_outcome_replies(false);
  start_worker();
  wait([](const FakeServer& s) { return s.attempt("1-1").outcomes.size() == 2; });
  EXPECT_EQ(server_.hello().worker_id(), id);
  ASSERT_EQ(server_.hello().attempts_size(), 1);
  EXPECT_EQ(server_.attempt("1-1").outcomes[1].succeeded().artifact_sha256(), sha256("m").hex());
  EXPECT_THAT(server_.attempt("1-1").points, ElementsAre(1));
  EXPECT_EQ(server_.uploads(), 1U);
  kill_worker(SIGTERM);
  EXPECT_EQ(wait_for_worker(), 0);
  EXPECT_TRUE(spool_is_empty());
}

TEST_F(WorkerProcessTest, KillMinus9WhileTraining_GivesTheAttemptBackWithItsResumeState) {
  start_worker();
  wait_for_session(1);
  server_.offer(offer(
      1, 1,
      R"([["points",[["a",1,1]]],["checkpoint",1],["points",[["a",2,2]]],["checkpoint",2],["hang"]])"));
  wait([](const FakeServer& s) { return s.attempt("1-1").checkpoints.size() == 2; });
  kill_worker(SIGKILL);
  EXPECT_EQ(wait_for_worker(), -SIGKILL);
  start_worker();
  wait_for_outcome("1-1");
  const AttemptRecord& attempt = server_.attempt("1-1");
  EXPECT_EQ(attempt.outcomes[0].failed().failure_class(), v1::FAILURE_CLASS_LOST_WORKER);
  EXPECT_THAT(attempt.points, ElementsAre(1, 2));
  EXPECT_EQ(attempt.checkpoints.back().epoch(), 2U);

  v1::Offer again = offer(1, 2, R"([["succeed","m"]])");
  again.set_resume_sha256(attempt.checkpoints.back().artifact_sha256());
  server_.offer(again);
  wait_for_outcome("1-2");
  EXPECT_EQ(server_.attempt("1-2").resumed_epoch, 2U);
}

TEST_F(WorkerProcessTest, KilledTrainer_EndsOneAttemptOnly) {
  start_worker();
  wait_for_session(1);
  server_.offer(offer(1, 1, R"([["log","last words"],["kill"]])"));
  wait_for_outcome("1-1");
  const v1::Failure& failure = server_.attempt("1-1").outcomes[0].failed();
  EXPECT_EQ(failure.failure_class(), v1::FAILURE_CLASS_TRAINER_CRASHED);
  EXPECT_EQ(failure.message(), "the trainer was killed by SIGKILL; its last line was: last words");
  EXPECT_THAT(server_.attempt("1-1").lines, ElementsAre("last words"));
  server_.offer(offer(1, 2, R"([["succeed","m"]])"));
  wait_for_outcome("1-2");
  EXPECT_TRUE(server_.attempt("1-2").outcomes[0].has_succeeded());
}

// Long enough for the trainer to start on a busy machine: it is silent then, too.
TEST_F(WorkerProcessTest, SilentTrainer_IsKilled) {
  start_worker({"--silence-timeout", "4.5"});
  wait_for_session(1);
  server_.offer(offer(1, 1, R"([["hang"]])"));
  wait_for_outcome("1-1");
  const v1::Failure& failure = server_.attempt("1-1").outcomes[0].failed();
  EXPECT_EQ(failure.failure_class(), v1::FAILURE_CLASS_TRAINER_CRASHED);
  EXPECT_THAT(failure.message(), HasSubstr("said nothing for 4.5 s"));
}

TEST_F(WorkerProcessTest, CancelAndFence_StopTheTrainer) {
  start_worker({"--slots", "2"});
  wait_for_session(1);
  server_.offer(offer(1, 1, R"([["await_stop"]])"));
  server_.offer(offer(2, 1, R"([["await_stop"]])", 1));
  wait([](const FakeServer& s) {
    return s.attempt("1-1").started == 1 && s.attempt("2-1").started == 1;
  });
  server_.cancel("1-1");
  wait_for_outcome("1-1");
  EXPECT_TRUE(server_.attempt("1-1").outcomes[0].has_cancelled());
  server_.fence("2-1");
  // The slot is free again once the fenced attempt has stopped.
  server_.offer(offer(2, 2, R"([["succeed","m"]])", 1));
  wait_for_outcome("2-2");
  EXPECT_THAT(server_.attempt("2-1").outcomes, IsEmpty());
}

TEST_F(WorkerProcessTest, Termination_PreemptsAndKeepsTheResumeState) {
  start_worker();
  wait_for_session(1);
  server_.offer(offer(1, 1, R"([["checkpoint",4],["await_stop"]])"));
  wait([](const FakeServer& s) { return s.attempt("1-1").checkpoints.size() == 1; });
  kill_worker(SIGTERM);
  EXPECT_EQ(wait_for_worker(), 0);
  EXPECT_TRUE(server_.stopping());
  const AttemptRecord& attempt = server_.attempt("1-1");
  ASSERT_EQ(attempt.outcomes.size(), 1U);
  EXPECT_EQ(attempt.outcomes[0].failed().failure_class(), v1::FAILURE_CLASS_PREEMPTED);
  EXPECT_EQ(attempt.checkpoints.back().epoch(), 4U);
  EXPECT_TRUE(spool_is_empty());
}

TEST_F(WorkerProcessTest, ServerWithALowerTerm_IsNotObeyed) {
  server_.set_term(5);
  start_worker();
  wait_for_session(1);
  wait([](const FakeServer& s) { return s.datasets().size() == 1; });
  server_.set_term(4);
  server_.drop_session();
  wait_for_session(2);
  EXPECT_EQ(server_.hello().term_seen(), 5);
  server_.set_term(6);
  wait_for_session(3);
  kill_worker(SIGTERM);
  EXPECT_EQ(wait_for_worker(), 0);
  EXPECT_THAT(log_text(),
              HasSubstr("the server says term 4, but this worker has spoken with term 5"));
}

TEST_F(WorkerProcessTest, SecondWorkerOnOneStateDirectory_IsRefused) {
  start_worker();
  wait_for_session(1);
  const pid_t first = pid_;
  start_worker();
  EXPECT_EQ(wait_for_worker(), 1);
  pid_ = first;
  EXPECT_THAT(log_text(), HasSubstr("another bitrung-worker uses the state directory"));
}

TEST_F(WorkerProcessTest, TrainerThatCannotRun_EndsTheWorkerAtOnce) {
  start_worker({"--trainer", "/bin/false"});
  EXPECT_EQ(wait_for_worker(), 1);
  EXPECT_THAT(log_text(), HasSubstr("/bin/false --inventory exited with code 1"));
  start_worker({"--trainer", "/no/such/trainer"});
  EXPECT_EQ(wait_for_worker(), 1);
  EXPECT_THAT(log_text(), HasSubstr("/no/such/trainer: No such file or directory"));
}

TEST_F(WorkerProcessTest, DeadParent_EndsTheWorker) {
  // The worker's parent is a shell of ours, which dies without a word.
  const std::string command = std::string(BITRUNG_WORKER) + " --server unix:" + socket_.string() +
                              " --state-dir " + state_.string() + " --trainer " +
                              BITRUNG_FAKE_TRAINER + " --die-with-parent 2>> " + log_.string() +
                              " & wait";
  std::string shell = "/bin/sh";
  std::string option = "-c";
  std::string script = command;
  std::array<char*, 4> arguments{shell.data(), option.data(), script.data(), nullptr};
  ASSERT_EQ(posix_spawn(&pid_, shell.c_str(), nullptr, nullptr, arguments.data(), environ), 0);
  // Welcomed, so that it has somebody to say it to.
  wait([](const FakeServer& s) { return s.heartbeats() > 0; });
  kill_worker(SIGKILL);
  EXPECT_EQ(wait_for_worker(), -SIGKILL);
  wait([](const FakeServer& s) { return s.stopping() && !s.connected(); });
}

TEST_F(WorkerProcessTest, UnusableFlags_ExitWithTwo) {
  start_worker({"--server", "nowhere"});
  EXPECT_EQ(wait_for_worker(), 2);
  start_worker({"--slots", "0"});
  EXPECT_EQ(wait_for_worker(), 2);
}

}  // namespace
}  // namespace bitrung::agent
