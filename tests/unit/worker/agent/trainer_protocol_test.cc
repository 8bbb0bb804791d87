#include "worker/agent/trainer_protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "db/base/check.h"

namespace bitrung::agent {
namespace {

using nlohmann::json;

template <typename Kind>
Kind parse(std::string_view line) {
  const absl::StatusOr<TrainerEvent> event = parse_trainer_event(line);
  BITRUNG_CHECK(event.ok());
  return std::get<Kind>(std::get<KeyedEvent>(*event).event);
}

TEST(TrainerEvents, EachKind_IsRead) {
  EXPECT_EQ(std::get<ReadyEvent>(
                parse_trainer_event(
                    R"({"event":"ready","numerics":1,"torch":"1","device":"cpu","threads":2})")
                    .value())
                .device,
            "cpu");
  EXPECT_EQ(parse<TrainingStarted>(
                R"({"event":"started","key":"1-1","resumed_epoch":4,"epochs":9,"steps":90})")
                .resumed_epoch,
            4U);
  EXPECT_EQ(parse<PointsMeasured>(
                R"({"event":"points","key":"1-1","points":[["train_loss",10,0.5],["x",20,1]]})")
                .points,
            (std::vector<Point>{{"train_loss", 10, 0.5}, {"x", 20, 1.0}}));
  const auto progress = parse<ProgressMade>(
      R"({"event":"progress","key":"1-1","epoch":1,"epochs":2,"step":3,"steps":4,"images_per_second":5.5,"accuracy":null,"eta_seconds":6})");
  EXPECT_EQ(progress.progress.steps, 4U);
  EXPECT_EQ(progress.progress.accuracy, std::nullopt);
  EXPECT_EQ(progress.progress.eta_seconds, 6.0);
  EXPECT_EQ(parse<CheckpointWritten>(R"({"event":"checkpoint","key":"1-1","epoch":3,"path":"/p"})")
                .file.path,
            "/p");
  const auto succeeded = parse<TrainingSucceeded>(
      R"({"event":"succeeded","key":"1-1","path":"/m","result":{"test_accuracy":1.5,"validation_accuracy":null,"test_loss":2,"best_epoch":3,"duration_seconds":4,"images_per_second":5}})");
  EXPECT_EQ(succeeded.path, "/m");
  EXPECT_EQ(succeeded.result.test_accuracy, 1.5);
  EXPECT_EQ(succeeded.result.validation_accuracy, std::nullopt);
  EXPECT_EQ(succeeded.result.best_epoch, 3U);
  const auto failed =
      parse<TrainingFailed>(R"({"event":"failed","key":"1-1","class":"diverged","message":"NaN"})");
  EXPECT_EQ(failed.failure_class, FailureClass::kDiverged);
  EXPECT_EQ(failed.message, "NaN");
  parse<TrainingCancelled>(R"({"event":"cancelled","key":"1-1"})");
  EXPECT_EQ(parse<TrainingPreempted>(R"({"event":"preempted","key":"1-1","epoch":3,"path":"/r"})")
                .file->epoch,
            3U);
  EXPECT_FALSE(
      parse<TrainingPreempted>(R"({"event":"preempted","key":"1-1","epoch":0,"path":null})").file);
}

TEST(TrainerEvents, PointsThatTheWireCannotCarry_AreLeftOut) {
  const std::string name(kSeriesNameBytesMax + 1, 'x');
  EXPECT_EQ(parse<PointsMeasured>(R"({"event":"points","key":"1-1","points":[["a",1,null],[")" +
                                  name + R"(",1,1],["a/b",1,1],["",1,1],["b",2,3]]})")
                .points,
            (std::vector<Point>{{"b", 2, 3.0}}));
}

TEST(TrainerEvents, OtherText_IsRefused) {
  for (const char* line :
       {"", "x", "{}", "[]", R"({"event":"dance","key":"1-1"})", R"({"event":"started"})",
        R"({"event":"points","key":"1-1","points":[[1]]})", R"({"event":5})"}) {
    EXPECT_FALSE(parse_trainer_event(line).ok()) << line;
  }
}

TEST(TrainerEvents, Report_IsTakenAsText) {
  const auto with = [](const std::string& report) {
    return parse<TrainingSucceeded>(
        R"({"event":"succeeded","key":"1-1","path":"/m","result":{"best_epoch":3},"report":)" +
        report + "}");
  };
  const std::string report = R"({"evaluation":{"top1":62.5},"layers":[{"scale":0.1,"zero":null}]})";
  EXPECT_EQ(with(report).report_json, report);
  for (const char* none : {"null", "[]", "7", "\"text\""}) EXPECT_EQ(with(none).report_json, "");

  const std::string frame = R"({"a":""})";
  const std::string full(kReportBytesMax - frame.size(), 'x');
  EXPECT_EQ(with(R"({"a":")" + full + R"("})").report_json.size(), kReportBytesMax);
  const auto above = with(R"({"a":"x)" + full + R"("})");
  EXPECT_EQ(above.report_json, "");
  EXPECT_EQ(above.report_bytes_left_out, kReportBytesMax + 1);
  EXPECT_EQ(above.result.best_epoch, 3U);
}

TEST(TrainerCommands, Train_NamesEveryPath) {
  Offer offer;
  offer.key = {JobId{4}, AttemptNumber{2}};
  offer.spec_json = R"({"dataset":"synthetic"})";
  offer.inputs = {{InputRole::kTeacher, sha256("t")}, {InputRole::kTeacher, sha256("s")}};
  offer.resume = sha256("r");
  offer.threads = 3;
  const std::string line = train_command(
      offer, "/work", "/data",
      {{sha256("t"), "/cache/t"}, {sha256("s"), "/cache/s"}, {sha256("r"), "/cache/r"}});
  ASSERT_TRUE(line.ends_with("\n"));
  EXPECT_EQ(json::parse(line),
            json::parse(R"({"command":"train","key":"4-2","spec":{"dataset":"synthetic"},
      "work_dir":"/work","data_dir":"/data","teachers":["/cache/t","/cache/s"],"init":null,
      "source":null,"resume":"/cache/r","threads":3})"));
}

TEST(TrainerCommands, TrainWithoutTeachers_HasAnEmptyList) {
  Offer offer;
  offer.key = {JobId{4}, AttemptNumber{2}};
  offer.spec_json = "{}";
  offer.inputs = {{InputRole::kSource, sha256("s")}};
  EXPECT_EQ(json::parse(train_command(offer, "/work", "", {{sha256("s"), "/cache/s"}})),
            json::parse(R"({"command":"train","key":"4-2","spec":{},"work_dir":"/work",
      "data_dir":"","teachers":[],"init":null,"source":"/cache/s","resume":null})"));
}

TEST(TrainerCommands, Stops_NameTheirAttempt) {
  const AttemptKey key{JobId{4}, AttemptNumber{2}};
  EXPECT_EQ(json::parse(cancel_command(key)), json::parse(R"({"command":"cancel","key":"4-2"})"));
  EXPECT_EQ(json::parse(preempt_command(key)), json::parse(R"({"command":"preempt","key":"4-2"})"));
}

}  // namespace
}  // namespace bitrung::agent
