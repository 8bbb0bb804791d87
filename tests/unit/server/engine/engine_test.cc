#include "server/engine/engine.h"

#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <future>
#include <mutex>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/db/forwarding_store.h"

namespace bitrung::engine {
namespace {

using std::chrono::milliseconds;

class ManualClock final : public Clock {
 public:
  core::Now now() override {
    const std::lock_guard lock(mutex_);
    return now_;
  }
  void advance(milliseconds by) {
    const std::lock_guard lock(mutex_);
    now_.monotonic += by;
    now_.wall_ms += by.count();
  }

 private:
  std::mutex mutex_;
  core::Now now_{milliseconds(1'000'000), 1'700'000'000'000};
};

// Keeps what a worker would receive; a test waits for the n-th message.
class RecordingSink final : public SessionSink {
 public:
  void send(ToWorker message) override {
    const std::lock_guard lock(mutex_);
    messages_.push_back(std::move(message));
    changed_.notify_all();
  }
  // The first message of the type that was not taken yet.
  template <typename T>
  T take() {
    std::unique_lock lock(mutex_);
    for (std::size_t next = 0;; ++next) {
      if (!changed_.wait_for(lock, std::chrono::seconds(20),
                             [&] { return messages_.size() > next; })) {
        ADD_FAILURE() << "the message did not come";
        return T();
      }
      if (auto* found = std::get_if<T>(&messages_[next])) {
        T message = std::move(*found);
        messages_.erase(messages_.begin() + static_cast<std::ptrdiff_t>(next));
        return message;
      }
    }
  }
  std::size_t count() {
    const std::lock_guard lock(mutex_);
    return messages_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<ToWorker> messages_;
};

// The real store, whose commits can be made to fail.
class BreakableStore final : public db::ForwardingStore {
 public:
  using ForwardingStore::ForwardingStore;
  std::atomic<bool> broken = false;

  absl::Status commit() override {
    return broken ? absl::ResourceExhaustedError("commit: the disk is full") : store_->commit();
  }
};

// An engine on a real store in a directory; the directory outlives it, so that a test can start
// another one on it.
class RunningEngine {
 public:
  RunningEngine(const std::filesystem::path& directory, ManualClock& clock,
                core::Settings settings = {})
      : store_(db::Store::open(directory).value()) {
    settings.term = store_.term();
    engine_ =
        std::make_unique<Engine>(store_, settings, clock, publisher_,
                                 [this](const absl::Status& status) { failed_.set_value(status); });
    EXPECT_TRUE(engine_->load().ok());
    thread_ = std::thread([this] { engine_->run(); });
  }
  ~RunningEngine() {
    engine_->stop();
    thread_.join();
  }

  Engine& operator*() { return *engine_; }
  Engine* operator->() { return engine_.get(); }
  BreakableStore& store() { return store_; }
  Publisher& publisher() { return publisher_; }
  std::future<absl::Status> failure() { return failed_.get_future(); }

  absl::StatusOr<SubmitAnswer> submit(NewExperiment experiment) {
    std::promise<absl::StatusOr<SubmitAnswer>> answer;
    engine_->submit(std::move(experiment), [&answer](absl::StatusOr<SubmitAnswer> value) {
      answer.set_value(std::move(value));
    });
    return answer.get_future().get();
  }

 private:
  BreakableStore store_;
  Publisher publisher_;
  std::promise<absl::Status> failed_;
  std::unique_ptr<Engine> engine_;
  std::thread thread_;
};

// teacher ── student
NewExperiment two_jobs(const std::string& request_id, const std::string& name = "two") {
  NewExperiment experiment{.request_id = request_id,
                           .name = name,
                           .source_yaml = "experiment: two\n",
                           .submitted_by = "anna",
                           .request_sha256 = sha256(name),
                           .graph_sha256 = sha256("graph of " + name),
                           .join_active = false,
                           .rows = {},
                           .nodes = {}};
  for (const char* job : {"teacher", "student"}) {
    db::JobSpecRow row;
    row.name = job;
    row.spec_json = std::string("{\"of\":\"") + name + job + "\"}";
    row.spec_sha256 = sha256(row.spec_json);
    row.model = "resnet8";
    row.dataset = "synthetic";
    row.method = "dorefa";
    row.epochs = 3;
    row.numerics = 1;
    row.retries = 2;
    row.timeout_seconds = 77;
    core::NewJob node;
    node.spec = row.spec_sha256;
    node.dataset = row.dataset;
    node.cost_class = core::cost_class(row);
    node.numerics = 1;
    node.retries = 2;
    experiment.rows.push_back(row);
    experiment.nodes.push_back(node);
  }
  experiment.nodes[1].inputs.push_back({InputRole::kTeacher, 0, std::nullopt});
  experiment.rows[1].inputs.push_back({InputRole::kTeacher, JobId{0}, std::nullopt});
  return experiment;
}

core::SessionOpened hello(SessionId session, std::vector<core::AttemptKey> held = {}) {
  return {.session = session,
          .worker_id = "id-of-w1",
          .name = "w1",
          .version = "test",
          .numerics = 1,
          .slots = {{"cpu", "a cpu", 1, 1}},
          .datasets = {{"synthetic", sha256("data")}},
          .held = std::move(held),
          .term_seen = 0};
}

db::ResultRow result_of(const std::string& artifact) {
  db::ResultRow result;
  result.test_accuracy = 71.5;
  result.best_epoch = 3;
  result.duration_seconds = 4;
  result.images_per_second = 500;
  result.artifact = sha256(artifact);
  return result;
}

class EngineTest : public testing::Test {
 protected:
  EngineTest()
      : directory_(std::filesystem::temp_directory_path() /
                   ("bitrung-engine-test-" + std::to_string(::getpid()) + "-" +
                    testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::create_directories(directory_);
  }
  ~EngineTest() override { std::filesystem::remove_all(directory_); }

  std::optional<std::string> stored_report(std::int64_t job) {
    const auto reader = db::StoreReader::open(directory_);
    EXPECT_TRUE(reader.ok()) << reader.status();
    return (*reader)->report(JobId{job}).value();
  }

  db::JobRow stored(std::int64_t job) {
    return db::StoreReader::open(directory_).value()->job(JobId{job}).value();
  }

  std::filesystem::path directory_;
  ManualClock clock_;
};

TEST_F(EngineTest, Submit_WhenTheReplyComes_IsOnDisk) {
  RunningEngine engine(directory_, clock_);
  std::promise<std::string> name_on_disk;
  engine->submit(two_jobs("r1"), [&](const absl::StatusOr<SubmitAnswer>& answer) {
    const auto reader = db::StoreReader::open(directory_).value();
    name_on_disk.set_value(reader->experiment(answer->id)->name);
  });
  EXPECT_EQ(name_on_disk.get_future().get(), "two");
  EXPECT_EQ(stored(1).state.state, JobState::kReady);
  EXPECT_EQ(stored(2).state.state, JobState::kBlocked);
  EXPECT_EQ(stored(2).spec.inputs.at(0).parent, JobId{1});
}

TEST_F(EngineTest, Submit_WritesEachJobOnce) {
  RunningEngine engine(directory_, clock_);
  ASSERT_TRUE(engine.submit(two_jobs("r1")).ok());
  EXPECT_EQ(stored(1).changed_seq, 1);
  EXPECT_EQ(stored(2).changed_seq, 2);
}

TEST_F(EngineTest, Submit_Repeated_GetsTheFirstAnswer_OtherContentIsRefused) {
  RunningEngine engine(directory_, clock_);
  const SubmitAnswer first = engine.submit(two_jobs("r1")).value();
  EXPECT_FALSE(first.already_submitted);
  const SubmitAnswer second = engine.submit(two_jobs("r1")).value();
  EXPECT_EQ(second.id, first.id);
  EXPECT_TRUE(second.already_submitted);
  EXPECT_TRUE(absl::IsAlreadyExists(engine.submit(two_jobs("r1", "other")).status()));
}

TEST_F(EngineTest, Submit_JoiningAnActiveEqualExperiment_RecordsNothing) {
  RunningEngine engine(directory_, clock_);
  const SubmitAnswer first = engine.submit(two_jobs("r1")).value();
  NewExperiment again = two_jobs("r2");
  again.join_active = true;
  EXPECT_EQ(engine.submit(again).value().id, first.id);
  again.request_id = "r3";
  again.join_active = false;
  EXPECT_NE(engine.submit(again).value().id, first.id);
}

TEST_F(EngineTest, Submit_ThatJoined_Repeated_GetsTheFirstAnswer_AlsoWhenTheExperimentHasEnded) {
  SubmitAnswer first;
  NewExperiment joining = two_jobs("r2");
  joining.join_active = true;
  {
    RunningEngine engine(directory_, clock_);
    first = engine.submit(two_jobs("r1")).value();
    EXPECT_EQ(engine.submit(joining).value().id, first.id);
    EXPECT_EQ(engine.submit(joining).value().id, first.id);
    std::promise<absl::StatusOr<std::uint32_t>> cancelled;
    engine->cancel({JobId{1}, JobId{2}}, [&](const absl::StatusOr<std::uint32_t>& changed) {
      cancelled.set_value(changed);
    });
    EXPECT_EQ(cancelled.get_future().get().value(), 2);
    EXPECT_EQ(engine.submit(joining).value().id, first.id);
  }
  RunningEngine restarted(directory_, clock_);
  EXPECT_EQ(restarted.submit(joining).value().id, first.id);
  EXPECT_TRUE(restarted.submit(joining).value().already_submitted);
  NewExperiment other = two_jobs("r2", "other");
  EXPECT_TRUE(absl::IsAlreadyExists(restarted.submit(other).status()));
  // A new submit begins a new experiment now.
  joining.request_id = "r3";
  EXPECT_NE(restarted.submit(joining).value().id, first.id);
}

TEST_F(EngineTest, Submit_BeyondWhatTheServerMayHold_IsRefused_AlsoAfterARestart) {
  core::Settings settings;
  settings.experiments_max = 3;
  settings.jobs_max = 5;
  SubmitAnswer first;
  {
    RunningEngine engine(directory_, clock_, settings);
    first = engine.submit(two_jobs("r1")).value();
    EXPECT_TRUE(engine.submit(two_jobs("r2", "b")).ok());
    const absl::Status full = engine.submit(two_jobs("r3", "c")).status();
    EXPECT_TRUE(absl::IsResourceExhausted(full));
    EXPECT_THAT(full.message(), testing::HasSubstr("holds 4 jobs and the experiment has 2, the "
                                                   "limit is 5"));
  }
  settings.jobs_max = 6;
  {
    RunningEngine engine(directory_, clock_, settings);
    EXPECT_TRUE(engine.submit(two_jobs("r3", "c")).ok());
  }
  settings.jobs_max = 100;
  RunningEngine engine(directory_, clock_, settings);
  const absl::Status full = engine.submit(two_jobs("r4", "d")).status();
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_THAT(full.message(), testing::HasSubstr("holds 3 experiments, the limit is 3"));
  // What is there gets its answer all the same.
  EXPECT_EQ(engine.submit(two_jobs("r1")).value().id, first.id);
}

TEST_F(EngineTest, Submits_OfOneTurn_AreBothRecorded_AndSeeEachOther) {
  RunningEngine engine(directory_, clock_);
  std::vector<std::promise<absl::StatusOr<SubmitAnswer>>> answers(3);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    engine->submit(
        two_jobs(i == 2 ? "r0" : "r" + std::to_string(i)),
        [&answers, i](const absl::StatusOr<SubmitAnswer>& value) { answers[i].set_value(value); });
  }
  const auto first = answers[0].get_future().get().value();
  EXPECT_NE(answers[1].get_future().get().value().id, first.id);
  EXPECT_EQ(answers[2].get_future().get().value().id, first.id);
}

TEST_F(EngineTest, ChosenTeacher_IsOnDiskWithTheOffer) {
  RunningEngine engine(directory_, clock_);
  const auto sink = std::make_shared<RecordingSink>();
  const SessionId session = engine->open_session(sink);
  core::SessionOpened greeting = hello(session);
  greeting.slots = {{"cpu", "a cpu", 1, 1}, {"cpu", "a cpu", 1, 1}};
  engine->post(greeting);
  sink->take<core::Welcome>();
  // student takes the better one of teacher and other.
  NewExperiment experiment = two_jobs("r1");
  experiment.rows.push_back(experiment.rows[0]);
  experiment.nodes.push_back(experiment.nodes[0]);
  experiment.rows[2].name = "other";
  experiment.rows[2].spec_json = "{}";
  experiment.rows[2].spec_sha256 = sha256("{}");
  experiment.nodes[2].spec = sha256("{}");
  experiment.rows[1].inputs = {{InputRole::kTeacher, JobId{0}, std::nullopt, 1},
                               {InputRole::kTeacher, JobId{2}, std::nullopt, 1}};
  experiment.nodes[1].inputs = {{InputRole::kTeacher, 0, std::nullopt, 1},
                                {InputRole::kTeacher, 2, std::nullopt, 1}};
  ASSERT_TRUE(engine.submit(std::move(experiment)).ok());
  for (int i = 0; i < 2; ++i) {
    const auto offer = sink->take<FullOffer>();
    db::ResultRow result = result_of(offer.display_name);
    result.validation_accuracy = offer.display_name == "two/other" ? 80 : 70;
    EXPECT_TRUE(stored(2).state.chosen.empty());
    engine->post(core::AttemptSucceeded{session, offer.offer.key, result});
  }
  const auto offer = sink->take<FullOffer>();
  EXPECT_THAT(offer.offer.inputs,
              testing::ElementsAre(std::pair(InputRole::kTeacher, sha256("two/other"))));
  EXPECT_EQ(stored(2).state.chosen, std::vector<std::uint32_t>{1});
  EXPECT_EQ(stored(2).spec.inputs.at(1).parent, JobId{3});
}

TEST_F(EngineTest, Offer_ComesWithOptionsNameAndTimeout_AfterItIsOnDisk) {
  RunningEngine engine(directory_, clock_);
  const auto sink = std::make_shared<RecordingSink>();
  const SessionId session = engine->open_session(sink);
  engine->post(hello(session));
  sink->take<core::Welcome>();
  ASSERT_TRUE(engine.submit(two_jobs("r1")).ok());
  const auto offer = sink->take<FullOffer>();
  EXPECT_EQ(offer.display_name, "two/teacher");
  EXPECT_EQ(offer.spec_json, "{\"of\":\"twoteacher\"}");
  EXPECT_EQ(offer.timeout_seconds, 77);
  EXPECT_EQ(offer.offer.dataset, sha256("data"));
  EXPECT_EQ(stored(1).state.state, JobState::kOffered);

  engine->post(core::AttemptStarted{session, offer.offer.key, 0});
  engine->post(core::AttemptSucceeded{session, offer.offer.key, result_of("teacher's weights"),
                                      R"({"layers":[]})"});
  sink->take<core::OutcomeReply>();
  EXPECT_EQ(stored(1).state.state, JobState::kSucceeded);
  EXPECT_EQ(stored_report(1), R"({"layers":[]})");
  const auto next = sink->take<FullOffer>();
  EXPECT_EQ(next.display_name, "two/student");
  EXPECT_THAT(next.offer.inputs,
              testing::ElementsAre(std::pair(InputRole::kTeacher, sha256("teacher's weights"))));
}

TEST_F(EngineTest, Points_AreAcknowledgedOnce_AGapEndsTheSession_AStaleAttemptIsFenced) {
  RunningEngine engine(directory_, clock_);
  const auto sink = std::make_shared<RecordingSink>();
  const SessionId session = engine->open_session(sink);
  engine->post(hello(session));
  ASSERT_TRUE(engine.submit(two_jobs("r1")).ok());
  const core::AttemptKey key = sink->take<FullOffer>().offer.key;

  engine->points(session, key, 1, {{"train_loss", 1, 2.5}, {"train_loss", 2, 2.25}});
  EXPECT_EQ(sink->take<PointsRecorded>().watermark, 2u);
  engine->points(session, key, 2, {{"train_loss", 2, 2.25}, {"train_loss", 3, 2.0}});
  EXPECT_EQ(sink->take<PointsRecorded>().watermark, 3u);
  engine->logs(session, key, 1, {{.attempt = 0, .line = 0, .time_ms = 5, .text = "hello"}});
  EXPECT_EQ(sink->take<LogsRecorded>().watermark, 1u);
  const auto reader = db::StoreReader::open(directory_).value();
  EXPECT_EQ(reader->series(key.job, {}, true)->at(0).points.size(), 3u);

  engine->points(session, {key.job, 7}, 1, {{"train_loss", 1, 1.0}});
  EXPECT_EQ(sink->take<core::Fence>().key, (core::AttemptKey{key.job, 7}));
  engine->points(session, key, 9, {{"train_loss", 9, 1.0}});
  EXPECT_FALSE(sink->take<core::CloseSession>().reason.empty());
  EXPECT_EQ(reader->series(key.job, {}, true)->at(0).points.size(), 3u);
}

TEST_F(EngineTest, Restart_RunningAttempt_IsReadoptedByItsWorker) {
  core::AttemptKey key;
  {
    RunningEngine engine(directory_, clock_);
    const auto sink = std::make_shared<RecordingSink>();
    const SessionId session = engine->open_session(sink);
    engine->post(hello(session));
    ASSERT_TRUE(engine.submit(two_jobs("r1")).ok());
    key = sink->take<FullOffer>().offer.key;
    engine->post(core::AttemptStarted{session, key, 0});
    engine->points(session, key, 1, {{"train_loss", 1, 2.5}});
    sink->take<PointsRecorded>();
  }
  clock_.advance(std::chrono::seconds(30));
  RunningEngine engine(directory_, clock_);
  const auto sink = std::make_shared<RecordingSink>();
  const SessionId session = engine->open_session(sink);
  engine->post(hello(session, {key}));
  const auto welcome = sink->take<core::Welcome>();
  EXPECT_THAT(welcome.kept, testing::ElementsAre(key));
  engine->post(core::AttemptSucceeded{session, key, result_of("weights"), ""});
  sink->take<core::OutcomeReply>();
  EXPECT_EQ(stored(number(key.job)).state.attempt, 1u);
  EXPECT_EQ(stored_report(number(key.job)), std::nullopt);
  EXPECT_EQ(stored(number(key.job)).state.state, JobState::kSucceeded);
}

TEST_F(EngineTest, FailedCommit_EndsTheEngine_AndNothingIsSaid) {
  RunningEngine engine(directory_, clock_);
  auto failure = engine.failure();
  const auto sink = std::make_shared<RecordingSink>();
  const SessionId session = engine->open_session(sink);
  engine->post(hello(session));
  sink->take<core::Welcome>();

  engine.store().broken = true;
  EXPECT_TRUE(absl::IsResourceExhausted(engine.submit(two_jobs("r1")).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(failure.get()));
  EXPECT_EQ(sink->count(), 0u);  // No offer.
  engine.store().broken = false;
  EXPECT_TRUE(absl::IsUnavailable(engine.submit(two_jobs("r2")).status()));
  EXPECT_TRUE(
      absl::IsNotFound(db::StoreReader::open(directory_).value()->experiment("two").status()));
}

TEST_F(EngineTest, CancelRetryDrainExplain_Answer) {
  RunningEngine engine(directory_, clock_);
  ASSERT_TRUE(engine.submit(two_jobs("r1")).ok());
  std::promise<std::uint32_t> cancelled;
  engine->cancel({JobId{1}}, [&](const absl::StatusOr<std::uint32_t>& changed) {
    cancelled.set_value(*changed);
  });
  EXPECT_EQ(cancelled.get_future().get(), 2u);
  EXPECT_EQ(stored(2).state.state, JobState::kSkipped);
  std::promise<std::vector<core::Reason>> reasons;
  engine->explain(JobId{2}, [&](const absl::StatusOr<std::vector<core::Reason>>& value) {
    reasons.set_value(*value);
  });
  EXPECT_TRUE(std::holds_alternative<core::IsSkipped>(reasons.get_future().get().at(0)));
  std::promise<std::uint32_t> retried;
  engine->retry({JobId{2}},
                [&](const absl::StatusOr<std::uint32_t>& changed) { retried.set_value(*changed); });
  EXPECT_EQ(retried.get_future().get(), 2u);
  EXPECT_EQ(stored(1).state.state, JobState::kReady);
  std::promise<absl::Status> unknown;
  engine->drain("nobody", true, [&](const absl::StatusOr<core::WorkerInfo>& value) {
    unknown.set_value(value.status());
  });
  EXPECT_TRUE(absl::IsNotFound(unknown.get_future().get()));
}

}  // namespace
}  // namespace bitrung::engine
