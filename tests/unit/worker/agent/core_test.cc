#include "worker/agent/core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace bitrung::agent {
namespace {

using std::chrono::seconds;

const AttemptKey kFirst{JobId{1}, AttemptNumber{1}};
const AttemptKey kSecond{JobId{2}, AttemptNumber{1}};
const Digest kModel = Digest::from_hex(std::string(64, 'a')).value();
const Digest kResume = Digest::from_hex(std::string(64, 'b')).value();
const Digest kNewerResume = Digest::from_hex(std::string(64, 'c')).value();
const Digest kTeacher = Digest::from_hex(std::string(64, 'd')).value();
const Digest kData = Digest::from_hex(std::string(64, 'e')).value();

// A core with the world played by the test: events go in, and each action must be expected. Log
// text is left aside.
class World {
 public:
  explicit World(std::uint32_t slots = 1, std::uint32_t shared_cores = 0)
      : slots_(slots), core_(options(slots, shared_cores)) {}

  // Up to an open session with every trainer idle.
  void open(std::vector<RecoveredAttempt> recovered = {}) {
    send(Begin{std::move(recovered), 0});
    send(DatasetsFound{{{"synthetic", kData, ""}}});
    for (std::uint32_t slot = 0; slot < slots_; ++slot) send(TrainerReady{slot});
    welcome(1);
    actions_.clear();
  }
  void welcome(std::int64_t term, std::vector<AttemptKey> fenced = {}) {
    send(WelcomeReceived{session_, term, seconds(60), seconds(2), std::move(fenced)});
  }
  void reconnect(std::int64_t term = 1, std::vector<AttemptKey> fenced = {}) {
    send(SessionClosed{session_, "gone"});
    advance(seconds(5));
    welcome(term, std::move(fenced));
  }

  Offer offer(const AttemptKey& key, std::uint32_t slot = 0) const {
    Offer offer;
    offer.key = key;
    offer.slot = slot;
    offer.display_name = "study/job";
    offer.spec_json = R"({"dataset":"synthetic"})";
    offer.dataset = "synthetic";
    return offer;
  }
  // Up to a trainer that has begun.
  void start(const AttemptKey& key, std::uint32_t slot = 0, milliseconds timeout = {}) {
    Offer given = offer(key, slot);
    given.timeout = timeout;
    send(OfferReceived{session_, given});
    send(OfferPersisted{key});
    train(key, TrainingStarted{0}, slot);
    actions_.clear();
  }
  void train(const AttemptKey& key, TrainingEvent event, std::uint32_t slot = 0) {
    send(TrainerSaid{slot, to_string(key), std::move(event)});
  }
  void points(const AttemptKey& key, std::size_t count) {
    train(key, PointsMeasured{std::vector<Point>(count, Point{"loss", 1, 0.5})});
  }

  void send(const Event& event) {
    for (const Action& action : core_.handle(event, now_)) {
      if (const auto* open = std::get_if<OpenSession>(&action)) session_ = open->session;
      if (const auto* text = std::get_if<LogText>(&action)) {
        log_.push_back(text->text);
      } else {
        actions_.push_back(describe(action));
      }
    }
  }
  const std::vector<std::string>& log() const { return log_; }
  std::vector<std::string> take() { return std::exchange(actions_, {}); }
  // Moves time on and wakes the core whenever it asked for it.
  void advance(milliseconds duration) {
    const Time end = now_ + duration;
    while (true) {
      const std::optional<Time> wake = core_.wake_at();
      if (!wake || *wake > end) break;
      now_ = std::max(now_, *wake);
      send(Tick{});
    }
    now_ = end;
  }
  // As advance(), for a server that answers heartbeats.
  void advance_connected(milliseconds duration) {
    for (milliseconds done{0}; done < duration; done += seconds(1)) {
      send(HeartbeatReplied{session_, 0});
      advance(std::min<milliseconds>(seconds(1), duration - done));
    }
    std::erase_if(actions_,
                  [](const std::string& action) { return action.starts_with("send_heartbeat"); });
  }

  void expect(const std::vector<std::string>& expected) {
    EXPECT_EQ(actions_, expected);
    actions_.clear();
  }
  void expect_nothing_else() { expect({}); }
  void forget() { actions_.clear(); }
  bool logged(const std::string& part) const {
    return std::ranges::any_of(
        log_, [&](const std::string& text) { return text.find(part) != std::string::npos; });
  }
  SessionId session() const { return session_; }

 private:
  static CoreOptions options(std::uint32_t slots, std::uint32_t shared_cores) {
    CoreOptions options;
    options.slots = slots;
    options.shared_cores = shared_cores;
    return options;
  }

  const std::uint32_t slots_;
  Core core_;
  Time now_{seconds(1000)};
  SessionId session_{};
  std::vector<std::string> actions_;
  std::vector<std::string> log_;
};

TEST(Core, Begin_WarmsTrainersAndConnects) {
  World world(2);
  world.send(Begin{{}, 0});
  world.expect({"start_trainer 0", "start_trainer 1", "open_session 1 held"});
  world.send(DatasetsFound{{{"synthetic", kData, ""}}});
  world.expect_nothing_else();
  world.welcome(3);
  // What Hello did not know yet follows it.
  world.expect({"persist_term 3", "send_heartbeat 1", "send_datasets synthetic"});
}

// An offer for slot 0 or another, with so many of the shared cores.
Offer wide_offer(const World& world, const AttemptKey& key, std::uint32_t slot,
                 std::uint32_t threads) {
  Offer offer = world.offer(key, slot);
  offer.threads = threads;
  return offer;
}

TEST(SharedCores, EachAttempt_TrainsOnItsOwn_AndALaterOneOnThoseThatGotFree) {
  World world(4, 4);
  world.open();
  world.send(OfferReceived{world.session(), wide_offer(world, kFirst, 0, 2)});
  world.send(OfferPersisted{kFirst});
  world.expect({"persist_offer 1-1", "send_train 0 1-1 cores 0 1"});
  world.send(OfferReceived{world.session(), wide_offer(world, kSecond, 1, 1)});
  world.send(OfferPersisted{kSecond});
  world.expect({"persist_offer 2-1", "send_train 1 2-1 cores 2"});
  world.train(kFirst, TrainingFailed{FailureClass::kDiverged, "NaN"});
  world.forget();
  const AttemptKey third{JobId{3}, AttemptNumber{1}};
  world.send(OfferReceived{world.session(), wide_offer(world, third, 0, 3)});
  world.send(OfferPersisted{third});
  world.expect({"persist_offer 3-1", "send_train 0 3-1 cores 0 1 3"});
}

TEST(SharedCores, OfferWithoutThreads_HasOne) {
  World world(2, 2);
  world.open();
  world.send(OfferReceived{world.session(), world.offer(kFirst)});
  world.send(OfferPersisted{kFirst});
  world.expect({"persist_offer 1-1", "send_train 0 1-1 cores 0"});
}

TEST(SharedCores, OfferBeyondWhatIsFree_IsGivenBack) {
  World world(2, 2);
  world.open();
  world.send(OfferReceived{world.session(), wide_offer(world, kFirst, 0, 1)});
  world.forget();
  world.send(OfferReceived{world.session(), wide_offer(world, kSecond, 1, 2)});
  world.expect({"persist_outcome 2-1 failed preempted: 1 of 2 cores are busy, the offer names 2"});
  const AttemptKey third{JobId{3}, AttemptNumber{1}};
  world.send(OfferReceived{world.session(), wide_offer(world, third, 1, 3)});
  world.expect(
      {"persist_outcome 3-1 failed device_fault: the offer names 3 threads, this worker "
       "has 2 cores"});
}

TEST(SharedCores, CoresOfAnAttemptThatIsBeingStopped_AreWaitedFor) {
  // The server has given the first attempt up; its trainer may take a step more.
  World world(2, 2);
  world.open();
  world.send(OfferReceived{world.session(), wide_offer(world, kFirst, 0, 2)});
  world.send(OfferPersisted{kFirst});
  world.train(kFirst, TrainingStarted{0});
  world.send(FenceReceived{world.session(), kFirst});
  world.forget();
  world.send(OfferReceived{world.session(), wide_offer(world, kSecond, 1, 1)});
  world.send(OfferPersisted{kSecond});
  world.expect({"persist_offer 2-1"});
  world.train(kFirst, TrainingCancelled{});
  world.expect({"delete_attempt 1-1", "send_train 1 2-1 cores 0"});
}

TEST(SharedCores, CoresOfADeadTrainer_AreFree) {
  World world(2, 2);
  world.open();
  world.send(OfferReceived{world.session(), wide_offer(world, kFirst, 0, 2)});
  world.send(OfferPersisted{kFirst});
  world.send(TrainerExited{0, "was killed by SIGSEGV", false});
  world.forget();
  world.send(OfferReceived{world.session(), wide_offer(world, kSecond, 1, 2)});
  world.send(OfferPersisted{kSecond});
  world.expect({"persist_offer 2-1", "send_train 1 2-1 cores 0 1"});
}

TEST(SharedCores, OnManyCores_TrainersBeyondTheFirstComeWithTheirAttempts) {
  World world(64, 64);
  world.send(Begin{{}, 0});
  EXPECT_EQ(world.take().size(), 9U);  // Eight trainers and the session.
  world.send(DatasetsFound{{{"synthetic", kData, ""}}});
  world.welcome(1);
  world.forget();
  world.send(OfferReceived{world.session(), wide_offer(world, kFirst, 40, 1)});
  world.send(OfferPersisted{kFirst});
  world.expect({"persist_offer 1-1", "start_trainer 40"});
  world.send(TrainerReady{40});
  world.expect({"send_train 40 1-1 cores 0"});
}

TEST(Core, SeriesBeyondTheLimit_AreLeftOut_AndSaidOnce) {
  World world;
  world.open();
  world.start(kFirst);
  std::vector<Point> points;
  for (std::size_t i = 0; i < kSeriesPerAttemptMax; ++i) {
    points.push_back({"series-" + std::to_string(i), 1, 0.5});
  }
  world.train(kFirst, PointsMeasured{points});
  world.expect({"append_points 1-1 1000", "send_points 1-1 1..1000"});
  const std::size_t lines = world.log().size();
  points = {{"one-more", 2, 0.5}, {"series-7", 2, 0.5}, {"another", 2, 0.5}};
  world.train(kFirst, PointsMeasured{points});
  world.expect({"append_points 1-1 1"});
  world.train(kFirst, PointsMeasured{{{"one-more", 3, 0.5}}});
  world.expect_nothing_else();
  ASSERT_EQ(world.log().size(), lines + 1);
  EXPECT_EQ(
      world.log().back(),
      "attempt 1-1 has more than 1000 series, the limit; \"one-more\" and any other new one is "
      "left out");
}

TEST(Core, Offer_RunsFromSpoolToAcknowledgedOutcome) {
  World world;
  world.open();
  Offer offer = world.offer(kFirst);
  offer.inputs = {{InputRole::kTeacher, kTeacher}};
  offer.resume = kResume;
  world.send(OfferReceived{world.session(), offer});
  world.expect({"persist_offer 1-1"});
  world.send(OfferPersisted{kFirst});
  world.expect({"fetch_inputs 1-1 bbbbbbbbbbbb dddddddddddd"});
  world.send(InputsFetched{kFirst, {{kTeacher, "/t"}, {kResume, "/r"}}});
  world.expect({"send_train 0 1-1"});
  world.train(kFirst, TrainingStarted{4});
  world.expect({"send_started 1-1 slot 0 epoch 4"});
  world.points(kFirst, 3);
  world.expect({"append_points 1-1 3", "send_points 1-1 1..3"});
  world.send(TrainerLine{0, {1, "hello"}});
  world.expect({"append_line 1-1 hello", "send_lines 1-1 1..1"});
  world.send(PointsAcknowledged{world.session(), kFirst, 3});
  world.expect({"record_watermarks 1-1 points 3 lines 0"});
  world.train(kFirst, TrainingSucceeded{{}, "/work/model"});
  world.expect({"store_file 1-1 model /work/model"});
  world.send(FileStored{kFirst, FilePurpose::kModel, 0, kModel});
  world.expect({"persist_outcome 1-1 succeeded aaaaaaaaaaaa"});
  world.send(OutcomePersisted{kFirst});
  world.expect({"upload 1-1 aaaaaaaaaaaa"});
  world.send(Uploaded{kFirst, kModel});
  world.expect_nothing_else();  // A line is not acknowledged yet.
  world.send(LinesAcknowledged{world.session(), kFirst, 1});
  world.expect(
      {"record_watermarks 1-1 points 3 lines 1", "send_outcome 1-1 succeeded aaaaaaaaaaaa"});
  world.send(OutcomeAcknowledged{world.session(), kFirst});
  world.expect({"delete_attempt 1-1"});
  world.expect_nothing_else();
}

TEST(Core, Slot_IsFreeForTheNextOfferAsSoonAsItsTrainerIs) {
  World world;
  world.open();
  world.start(kFirst);
  world.train(kFirst, TrainingSucceeded{{}, "/work/model"});
  world.expect({"store_file 1-1 model /work/model"});
  world.send(OfferReceived{world.session(), world.offer(kSecond)});
  world.send(OfferPersisted{kSecond});
  world.expect({"persist_offer 2-1", "send_train 0 2-1"});
}

TEST(Core, Points_CoalesceWhileABatchIsUnacknowledged) {
  World world;
  world.open();
  world.start(kFirst);
  world.points(kFirst, 1);
  world.points(kFirst, 700);
  world.points(kFirst, 700);
  world.expect({"append_points 1-1 1", "send_points 1-1 1..1", "append_points 1-1 700",
                "append_points 1-1 700"});
  world.send(PointsAcknowledged{world.session(), kFirst, 1});
  world.expect({"record_watermarks 1-1 points 1 lines 0", "send_points 1-1 2..1001"});
  world.send(PointsAcknowledged{world.session(), kFirst, 1001});
  world.expect({"record_watermarks 1-1 points 1001 lines 0", "send_points 1-1 1002..1401"});
}

TEST(Core, PartlyTakenBatch_IsContinuedAfterAPause) {
  World world;
  world.open();
  world.start(kFirst);
  world.points(kFirst, 5);
  world.forget();
  world.send(PointsAcknowledged{world.session(), kFirst, 2});
  world.expect({"record_watermarks 1-1 points 2 lines 0"});
  world.advance_connected(milliseconds(1000));
  world.expect({"send_points 1-1 3..5"});
}

TEST(Core, NewSession_SaysAgainWhatIsNotAcknowledged) {
  World world;
  world.open();
  world.start(kFirst);
  world.points(kFirst, 2);
  world.send(PointsAcknowledged{world.session(), kFirst, 2});
  world.train(kFirst, CheckpointWritten{{1, "/r"}});
  world.points(kFirst, 3);
  world.send(FileStored{kFirst, FilePurpose::kResume, 1, kResume});
  world.send(Uploaded{kFirst, kResume});
  world.forget();

  world.send(SessionClosed{world.session(), "gone"});
  world.points(kFirst, 1);  // Training goes on.
  world.expect({"append_points 1-1 1"});
  world.advance(seconds(5));
  world.expect({"open_session 2 held 1-1"});
  world.welcome(1);
  world.expect({"send_heartbeat 2 1-1", "send_started 1-1 slot 0 epoch 0",
                "send_checkpoint 1-1 epoch 1 bbbbbbbbbbbb", "send_points 1-1 3..6"});
}

TEST(Core, ServerAwayForAnHour_TrainingGoesOn_AndEverythingIsSaidOnceAfterwards) {
  World world;
  world.open();
  world.start(kFirst);
  world.send(SessionClosed{world.session(), "gone"});
  world.forget();
  constexpr std::uint64_t kSeconds = 3600;
  for (std::uint64_t second = 0; second < kSeconds; ++second) {
    world.advance(seconds(1));
    world.points(kFirst, 1);
    if (second % 600 == 0) world.send(SessionClosed{world.session(), "still gone"});
  }
  world.train(kFirst, TrainingSucceeded{{}, "/work/model"});
  world.send(FileStored{kFirst, FilePurpose::kModel, 0, kModel});
  world.send(OutcomePersisted{kFirst});
  // Nothing stops, nothing is said to nobody, and it does not hammer at the door.
  const std::vector<std::string> meanwhile = world.take();
  EXPECT_EQ(std::ranges::count_if(meanwhile,
                                  [](const std::string& action) {
                                    return action.starts_with("kill") ||
                                           action.starts_with("send_points") ||
                                           action.starts_with("send_cancel") ||
                                           action.starts_with("send_preempt");
                                  }),
            0);
  EXPECT_EQ(std::ranges::count(meanwhile, "append_points 1-1 1"), kSeconds);
  EXPECT_LT(std::ranges::count_if(
                meanwhile, [](const std::string& action) { return action.starts_with("open"); }),
            kSeconds / 4);

  // Batch after batch from the watermark on, each point in one of them.
  world.welcome(2);
  std::uint64_t said = 0;
  for (int round = 0; round < 10 && said < kSeconds; ++round) {
    for (const std::string& action : world.take()) {
      std::uint64_t first = 0;
      std::uint64_t last = 0;
      if (std::sscanf(action.c_str(), "send_points 1-1 %lu..%lu", &first, &last) != 2) continue;
      EXPECT_EQ(first, said + 1);
      said = last;
    }
    world.send(PointsAcknowledged{world.session(), kFirst, said});
  }
  EXPECT_EQ(said, kSeconds);
  world.send(Uploaded{kFirst, kModel});
  const std::vector<std::string> last = world.take();
  EXPECT_EQ(std::ranges::count(last, "send_outcome 1-1 succeeded aaaaaaaaaaaa"), 1);
  world.send(OutcomeAcknowledged{world.session(), kFirst});
  world.expect({"delete_attempt 1-1"});
}

TEST(Core, RepliesOfAnEndedSession_ChangeNothing) {
  World world;
  world.open();
  world.start(kFirst);
  world.points(kFirst, 2);
  const SessionId old = world.session();
  world.reconnect();
  world.forget();
  world.send(PointsAcknowledged{old, kFirst, 2});
  world.send(FenceReceived{old, kFirst});
  world.send(OfferReceived{old, world.offer(kSecond)});
  world.send(SessionClosed{old, "late"});
  world.expect_nothing_else();
}

TEST(Core, UnansweredOutcome_IsSaidAgain) {
  World world;
  world.open();
  world.start(kFirst);
  world.train(kFirst, TrainingFailed{FailureClass::kDiverged, "NaN"});
  world.send(OutcomePersisted{kFirst});
  world.expect(
      {"persist_outcome 1-1 failed diverged: NaN", "send_outcome 1-1 failed diverged: NaN"});
  world.reconnect();
  world.expect({"open_session 2 held 1-1", "send_heartbeat 2 1-1",
                "send_started 1-1 slot 0 epoch 0", "send_outcome 1-1 failed diverged: NaN"});
}

TEST(Core, Fence_StopsTheTrainerAndForgetsTheAttempt) {
  World world;
  world.open();
  world.start(kFirst);
  world.send(FenceReceived{world.session(), kFirst});
  world.expect({"send_cancel 0 1-1"});
  world.points(kFirst, 3);
  world.expect_nothing_else();
  world.reconnect();
  world.expect({"open_session 2 held", "send_heartbeat 2"});
  // The slot's next offer waits until the trainer has stopped.
  world.send(OfferReceived{world.session(), world.offer(kSecond)});
  world.send(OfferPersisted{kSecond});
  world.expect({"persist_offer 2-1"});
  world.train(kFirst, TrainingCancelled{});
  world.expect({"delete_attempt 1-1", "send_train 0 2-1"});
}

TEST(Core, WelcomeThatFences_DeletesAnEndedAttempt) {
  World world;
  world.open();
  world.start(kFirst);
  world.train(kFirst, TrainingFailed{FailureClass::kDiverged, "NaN"});
  world.forget();
  world.reconnect(1, {kFirst});
  world.expect({"open_session 2 held 1-1", "delete_attempt 1-1", "send_heartbeat 2"});
  world.send(OutcomePersisted{kFirst});
  world.expect_nothing_else();
}

TEST(Core, Cancel_IsAnsweredByTheTrainer) {
  World world;
  world.open();
  world.start(kFirst);
  world.send(CancelReceived{world.session(), kFirst});
  world.send(CancelReceived{world.session(), kFirst});
  world.expect({"send_cancel 0 1-1"});
  world.train(kFirst, TrainingCancelled{});
  world.send(OutcomePersisted{kFirst});
  world.expect({"persist_outcome 1-1 cancelled", "send_outcome 1-1 cancelled"});
}

TEST(Core, CancelThatTheTrainerIgnores_KillsIt) {
  World world;
  world.open();
  world.start(kFirst);
  world.send(CancelReceived{world.session(), kFirst});
  world.forget();
  world.advance_connected(seconds(29));
  world.expect_nothing_else();
  world.advance_connected(seconds(1));
  world.expect({"kill_trainer 0"});
  world.send(TrainerExited{0, "was killed by SIGKILL", false});
  world.expect({"persist_outcome 1-1 cancelled"});
}

TEST(Core, TrainerThatStopsWhileItIsKilled_GetsNoOtherAttempt) {
  World world;
  world.open();
  world.start(kFirst);
  world.send(CancelReceived{world.session(), kFirst});
  world.advance_connected(seconds(30));
  world.send(OfferReceived{world.session(), world.offer(kSecond)});
  world.send(OfferPersisted{kSecond});
  world.forget();
  world.train(kFirst, TrainingCancelled{});
  world.expect({"persist_outcome 1-1 cancelled"});
  world.send(TrainerExited{0, "was killed by SIGKILL", false});
  world.expect({"start_trainer 0"});
  world.send(TrainerReady{0});
  world.expect({"send_train 0 2-1"});
}

TEST(Core, CancelBeforeTheTrainerBegins_NeedsNoTrainer) {
  World world;
  world.open();
  world.send(OfferReceived{world.session(), world.offer(kFirst)});
  world.send(CancelReceived{world.session(), kFirst});
  world.expect({"persist_offer 1-1", "persist_outcome 1-1 cancelled"});
  world.send(OfferPersisted{kFirst});
  world.send(OutcomePersisted{kFirst});
  world.expect({"send_outcome 1-1 cancelled"});
}

TEST(Core, SuccessThatCrossesACancel_IsSaidAsSuccess) {
  World world;
  world.open();
  world.start(kFirst);
  world.send(CancelReceived{world.session(), kFirst});
  world.train(kFirst, TrainingSucceeded{{}, "/m"});
  world.send(FileStored{kFirst, FilePurpose::kModel, 0, kModel});
  world.expect({"send_cancel 0 1-1", "store_file 1-1 model /m",
                "persist_outcome 1-1 succeeded aaaaaaaaaaaa"});
}

TEST(Core, Checkpoints_AreUploadedNewestFirstAndThenSaid) {
  World world;
  world.open();
  world.start(kFirst);
  world.train(kFirst, CheckpointWritten{{1, "/r1"}});
  world.expect({"store_file 1-1 resume /r1"});
  world.send(FileStored{kFirst, FilePurpose::kResume, 1, kResume});
  world.expect({"upload 1-1 bbbbbbbbbbbb"});
  // Two more while it uploads: only the newest of them matters.
  world.train(kFirst, CheckpointWritten{{2, "/r2"}});
  world.train(kFirst, CheckpointWritten{{3, "/r3"}});
  world.expect({"store_file 1-1 resume /r2"});
  world.send(FileStored{kFirst, FilePurpose::kResume, 2, kModel});
  world.expect({"store_file 1-1 resume /r3"});
  world.send(FileStored{kFirst, FilePurpose::kResume, 3, kNewerResume});
  world.send(Uploaded{kFirst, kResume});
  world.expect({"send_checkpoint 1-1 epoch 1 bbbbbbbbbbbb", "upload 1-1 cccccccccccc"});
  world.send(Uploaded{kFirst, kNewerResume});
  world.expect({"send_checkpoint 1-1 epoch 3 cccccccccccc"});
}

TEST(Core, Checkpoint_WaitsForThePointsBeforeIt) {
  World world;
  world.open();
  world.start(kFirst);
  world.points(kFirst, 3);
  world.train(kFirst, CheckpointWritten{{1, "/work/resume-1"}});
  world.expect(
      {"append_points 1-1 3", "send_points 1-1 1..3", "store_file 1-1 resume /work/resume-1"});
  world.send(FileStored{kFirst, FilePurpose::kResume, 1, kResume});
  world.points(kFirst, 2);
  world.expect({"append_points 1-1 2"});
  world.send(PointsAcknowledged{world.session(), kFirst, 3});  // The later ones may follow it.
  world.expect({"record_watermarks 1-1 points 3 lines 0", "send_points 1-1 4..5",
                "upload 1-1 bbbbbbbbbbbb"});
}

TEST(Core, FailedUpload_IsTriedAgainLater) {
  World world;
  world.open();
  world.start(kFirst);
  world.train(kFirst, CheckpointWritten{{1, "/r1"}});
  world.send(FileStored{kFirst, FilePurpose::kResume, 1, kResume});
  world.forget();
  world.send(UploadFailed{kFirst, kResume, false, "server is away"});
  world.expect_nothing_else();
  world.advance_connected(seconds(1));
  world.expect({"upload 1-1 bbbbbbbbbbbb"});
}

TEST(Core, CheckpointThatIsRefused_IsGivenUp) {
  World world;
  world.open();
  world.start(kFirst);
  world.train(kFirst, CheckpointWritten{{1, "/r1"}});
  world.send(FileStored{kFirst, FilePurpose::kResume, 1, kResume});
  world.send(UploadFailed{kFirst, kResume, true, "too large"});
  world.train(kFirst, TrainingFailed{FailureClass::kOutOfMemory, "no memory"});
  world.send(OutcomePersisted{kFirst});
  world.expect({"store_file 1-1 resume /r1", "upload 1-1 bbbbbbbbbbbb",
                "persist_outcome 1-1 failed out_of_memory: no memory",
                "send_outcome 1-1 failed out_of_memory: no memory"});
}

TEST(Core, Crash_KeepsTheNewestResumeStateBeforeItIsSaid) {
  World world;
  world.open();
  world.start(kFirst);
  world.train(kFirst, CheckpointWritten{{1, "/r1"}});
  world.send(TrainerExited{0, "was killed by SIGSEGV", false});
  world.send(OutcomePersisted{kFirst});
  world.expect({"store_file 1-1 resume /r1",
                "persist_outcome 1-1 failed trainer_crashed: the trainer was killed by SIGSEGV"});
  world.send(FileStored{kFirst, FilePurpose::kResume, 1, kResume});
  world.expect({"upload 1-1 bbbbbbbbbbbb"});
  world.send(Uploaded{kFirst, kResume});
  world.expect({"send_checkpoint 1-1 epoch 1 bbbbbbbbbbbb",
                "send_outcome 1-1 failed trainer_crashed: the trainer was killed by SIGSEGV"});
}

TEST(Core, OutOfMemoryKill_HasItsClass) {
  World world;
  world.open();
  world.start(kFirst);
  world.send(TrainerExited{0, "was killed", true});
  world.expect({"persist_outcome 1-1 failed out_of_memory: the trainer was killed"});
}

TEST(Core, DeadTrainer_IsStartedForTheNextJob) {
  World world;
  world.open();
  world.send(TrainerExited{0, "exited with code 1", false});
  world.expect_nothing_else();
  world.send(OfferReceived{world.session(), world.offer(kFirst)});
  world.send(OfferPersisted{kFirst});
  world.expect({"persist_offer 1-1", "start_trainer 0"});
  world.send(TrainerReady{0});
  world.expect({"send_train 0 1-1"});
}

TEST(Core, TrainerThatDoesNotComeUp_IsTriedThreeTimes) {
  World world;
  world.open();
  world.send(TrainerExited{0, "exited with code 1", false});
  world.send(OfferReceived{world.session(), world.offer(kFirst)});
  world.send(OfferPersisted{kFirst});
  world.expect({"persist_offer 1-1", "start_trainer 0"});
  for (int failure = 1; failure < 3; ++failure) {
    world.send(TrainerExited{0, "could not be started: no such file", false});
    world.expect_nothing_else();
    world.advance_connected(seconds(2));
    world.expect({"start_trainer 0"});
  }
  world.send(TrainerExited{0, "could not be started: no such file", false});
  world.expect(
      {"persist_outcome 1-1 failed device_fault: the trainer did not come up: it could not be "
       "started: no such file"});
}

TEST(Core, SilentTrainer_IsKilled) {
  World world;
  world.open();
  world.start(kFirst);
  world.advance_connected(seconds(200));
  world.train(kFirst, ProgressMade{});
  world.advance_connected(seconds(299));
  world.expect_nothing_else();
  world.advance_connected(seconds(1));
  world.expect({"kill_trainer 0"});
  world.send(TrainerExited{0, "was killed by SIGKILL", false});
  world.expect(
      {"persist_outcome 1-1 failed trainer_crashed: the trainer said nothing for 300 s and was "
       "killed"});
}

TEST(Core, Timeout_StopsTheAttempt) {
  World world;
  world.open();
  world.start(kFirst, 0, seconds(10));
  world.advance_connected(seconds(9));
  world.expect_nothing_else();
  world.advance_connected(seconds(1));
  world.expect({"send_cancel 0 1-1"});
  world.train(kFirst, TrainingCancelled{});
  world.expect({"persist_outcome 1-1 failed timeout: it ran longer than its timeout of 10 s"});
}

TEST(Core, RepeatedOffer_IsAnsweredByStarted) {
  World world;
  world.open();
  world.send(OfferReceived{world.session(), world.offer(kFirst)});
  world.send(OfferReceived{world.session(), world.offer(kFirst)});
  world.expect({"persist_offer 1-1"});
  world.send(OfferPersisted{kFirst});
  world.train(kFirst, TrainingStarted{0});
  world.forget();
  world.send(OfferReceived{world.session(), world.offer(kFirst)});
  world.expect({"send_started 1-1 slot 0 epoch 0"});
}

TEST(Core, OfferForABusySlot_IsGivenBack) {
  World world;
  world.open();
  world.start(kFirst);
  world.send(OfferReceived{world.session(), world.offer(kSecond)});
  world.expect({"persist_outcome 2-1 failed preempted: slot 0 is busy with attempt 1-1"});
}

TEST(Core, OfferForAnUnknownSlot_IsRefused) {
  World world;
  world.open();
  world.send(OfferReceived{world.session(), world.offer(kFirst, 3)});
  world.expect(
      {"persist_outcome 1-1 failed device_fault: the offer names slot 3, this worker has slots 0 "
       "to 0"});
}

TEST(Core, OtherDataSet_IsRefusedWithBothDigests) {
  World world;
  world.open();
  Offer offer = world.offer(kFirst);
  offer.dataset_sha256 = kModel;
  world.send(OfferReceived{world.session(), offer});
  world.send(OfferPersisted{kFirst});
  world.expect({"persist_offer 1-1",
                "persist_outcome 1-1 failed user_error: the data set synthetic in  has digest " +
                    kData.hex() + ", the job wants " + kModel.hex()});
}

TEST(Core, NothingIsStartedWithoutASession) {
  World world;
  world.open();
  Offer offer = world.offer(kFirst);
  offer.inputs = {{InputRole::kTeacher, kTeacher}};
  world.send(OfferReceived{world.session(), offer});
  world.send(OfferPersisted{kFirst});
  world.forget();
  world.send(SessionClosed{world.session(), "gone"});
  world.send(InputsFetched{kFirst, {{kTeacher, "/t"}}});
  world.expect_nothing_else();
  world.advance(seconds(5));
  world.welcome(1);
  world.expect({"open_session 2 held 1-1", "send_heartbeat 2 1-1", "send_train 0 1-1"});
}

TEST(Core, MissingResumeState_StartsAfresh) {
  World world;
  world.open();
  Offer offer = world.offer(kFirst);
  offer.resume = kResume;
  world.send(OfferReceived{world.session(), offer});
  world.send(OfferPersisted{kFirst});
  world.forget();
  world.send(FetchFailed{kFirst, kResume, FetchProblem::kMissing, "no such artifact"});
  world.expect({"send_train 0 1-1"});
}

TEST(Core, MissingInput_FailsTheAttempt) {
  World world;
  world.open();
  Offer offer = world.offer(kFirst);
  offer.inputs = {{InputRole::kTeacher, kTeacher}};
  world.send(OfferReceived{world.session(), offer});
  world.send(OfferPersisted{kFirst});
  world.forget();
  world.send(FetchFailed{kFirst, kTeacher, FetchProblem::kMissing, "no such artifact"});
  world.expect({"persist_outcome 1-1 failed user_error: input " + kTeacher.hex() +
                " cannot be fetched: no such artifact"});
}

TEST(Core, FailedFetch_IsTriedAgainButNotForEver) {
  World world;
  world.open();
  Offer offer = world.offer(kFirst);
  offer.inputs = {{InputRole::kTeacher, kTeacher}};
  world.send(OfferReceived{world.session(), offer});
  world.send(OfferPersisted{kFirst});
  world.expect({"persist_offer 1-1", "fetch_inputs 1-1 dddddddddddd"});
  for (int i = 1; i < 10; ++i) {
    world.send(FetchFailed{kFirst, kTeacher, FetchProblem::kTransient, "reset"});
    world.advance_connected(seconds(31));
    world.expect({"fetch_inputs 1-1 dddddddddddd"});
  }
  world.send(FetchFailed{kFirst, kTeacher, FetchProblem::kTransient, "reset"});
  world.expect({"persist_outcome 1-1 failed trainer_crashed: input " + kTeacher.hex() +
                " cannot be fetched: reset"});
}

TEST(Core, FullDiskInTheSpool_EndsTheAttemptWithItsText) {
  World world;
  world.open();
  world.start(kFirst);
  world.points(kFirst, 5);
  world.forget();
  world.send(SpoolFailed{kFirst, "write /spool/points.log: No space left on device", 2, 0});
  world.expect({"send_cancel 0 1-1"});
  world.send(PointsAcknowledged{world.session(), kFirst, 2});
  world.train(kFirst, TrainingCancelled{});
  world.send(OutcomeNotPersisted{kFirst, "No space left on device"});
  const std::string outcome =
      "failed trainer_crashed: the worker cannot write its spool: write /spool/points.log: No "
      "space left on device";
  world.expect({"record_watermarks 1-1 points 2 lines 0", "persist_outcome 1-1 " + outcome,
                "send_outcome 1-1 " + outcome});
}

TEST(Core, SuccessThatCannotBeWritten_IsNotSaid) {
  World world;
  world.open();
  world.start(kFirst);
  world.train(kFirst, TrainingSucceeded{{}, "/m"});
  world.send(FileStored{kFirst, FilePurpose::kModel, 0, kModel});
  world.forget();
  world.send(OutcomeNotPersisted{kFirst, "disk full"});
  world.expect(
      {"send_outcome 1-1 failed trainer_crashed: its result could not be written on the worker: "
       "disk full"});
}

TEST(Core, RestartedWorker_SaysWhatItsSpoolHolds) {
  World world;
  RecoveredAttempt ended{world.offer(kFirst), Succeeded{{}, kModel}, {10, 4}, {2, 2}, {}};
  RecoveredAttempt interrupted{
      world.offer(kSecond), std::nullopt, {5, 5}, {0, 0}, CheckpointFile{3, "/work/resume-3"}};
  world.send(Begin{{ended, interrupted}, 7});
  const std::string lost =
      "failed lost_worker: the worker restarted while it trained; epoch 3 is kept";
  world.expect({"persist_outcome 2-1 " + lost, "store_file 2-1 resume /work/resume-3",
                "start_trainer 0", "open_session 1 held 1-1 2-1"});
  world.send(OutcomePersisted{kSecond});
  world.send(FileStored{kSecond, FilePurpose::kResume, 3, kResume});
  world.welcome(7);
  world.expect({"send_heartbeat 1 1-1 2-1", "send_points 1-1 5..10", "upload 1-1 aaaaaaaaaaaa",
                "upload 2-1 bbbbbbbbbbbb"});
  world.send(PointsAcknowledged{world.session(), kFirst, 10});
  world.send(Uploaded{kFirst, kModel});
  world.expect(
      {"record_watermarks 1-1 points 10 lines 2", "send_outcome 1-1 succeeded aaaaaaaaaaaa"});
  world.send(Uploaded{kSecond, kResume});
  world.expect({"send_checkpoint 2-1 epoch 3 bbbbbbbbbbbb", "send_outcome 2-1 " + lost});
}

TEST(Core, ServerWithALowerTerm_IsNotObeyed) {
  World world;
  world.open();
  world.send(SessionClosed{world.session(), "gone"});
  world.advance(seconds(1));
  world.forget();
  world.welcome(0, {kFirst});
  world.expect({"close_session 2"});
  EXPECT_TRUE(world.logged("the server says term 0, but this worker has spoken with term 1"));
  world.advance(seconds(5));
  world.expect({"open_session 3 held"});
}

TEST(Core, SilentServer_IsLeftAndCalledAgain) {
  World world;
  world.open();
  world.advance(seconds(10));
  world.expect({"send_heartbeat 2", "send_heartbeat 3", "send_heartbeat 4", "send_heartbeat 5",
                "send_heartbeat 6"});
  world.advance(seconds(1));
  world.expect({"close_session 1"});
  EXPECT_TRUE(world.logged("nothing heard for 11000 ms"));
  world.advance(milliseconds(100));
  world.expect({"open_session 2 held"});
  world.advance(seconds(15));
  world.expect({"close_session 2"});
  world.advance(milliseconds(200));
  world.expect({"open_session 3 held"});
}

TEST(Core, Shutdown_KeepsResumeStatesAndGivesEverythingBack) {
  World world;
  world.open();
  world.start(kFirst);
  world.send(ShutdownRequested{});
  world.expect({"send_stopping", "send_preempt 0 1-1"});
  world.send(OfferReceived{world.session(), world.offer(kSecond)});
  world.expect({"persist_outcome 2-1 failed preempted: the worker is shutting down"});
  world.send(OutcomePersisted{kSecond});
  world.send(OutcomeAcknowledged{world.session(), kSecond});
  world.train(kFirst, TrainingPreempted{CheckpointFile{2, "/r"}});
  world.expect({"send_outcome 2-1 failed preempted: the worker is shutting down",
                "delete_attempt 2-1", "store_file 1-1 resume /r",
                "persist_outcome 1-1 failed preempted: the worker was shut down"});
  world.send(OutcomePersisted{kFirst});
  world.send(FileStored{kFirst, FilePurpose::kResume, 2, kResume});
  world.send(Uploaded{kFirst, kResume});
  world.expect({"upload 1-1 bbbbbbbbbbbb", "send_checkpoint 1-1 epoch 2 bbbbbbbbbbbb",
                "send_outcome 1-1 failed preempted: the worker was shut down"});
  world.send(OutcomeAcknowledged{world.session(), kFirst});
  world.expect({"delete_attempt 1-1", "exit"});
}

TEST(Core, ShutdownOfAnIdleWorker_IsImmediate) {
  World world;
  world.open();
  world.send(ShutdownRequested{});
  world.expect({"send_stopping", "exit"});
}

TEST(Core, ShutdownWithoutAServer_LeavesTheRestToTheSpool) {
  World world;
  world.open();
  world.start(kFirst);
  world.send(SessionClosed{world.session(), "gone"});
  world.send(ShutdownRequested{});
  world.train(kFirst, TrainingPreempted{});
  world.expect(
      {"send_preempt 0 1-1", "persist_outcome 1-1 failed preempted: the worker was shut down"});
  world.send(OutcomePersisted{kFirst});
  world.expect({"exit"});
}

TEST(Core, ShutdownThatATrainerIgnores_KillsItAndEndsInTime) {
  World world;
  world.open();
  world.start(kFirst);
  world.send(ShutdownRequested{});
  world.forget();
  world.advance_connected(seconds(20));
  world.expect({"kill_trainer 0"});
  world.advance_connected(seconds(7));
  world.expect({"exit"});
}

}  // namespace
}  // namespace bitrung::agent
