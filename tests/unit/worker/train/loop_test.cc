#include "worker/train/loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/unit/worker/train/test_files.h"
#include "worker/train/failure.h"
#include "worker/train/safetensors.h"

namespace bitrung::train {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Keeps what a training says, and stops it where a test wants.
class Recorder : public Observer {
 public:
  StopRequest stop_requested() override {
    return ++stop_questions == stop_at ? stop_with : StopRequest::kNone;
  }
  void started(std::int64_t resumed_epoch, std::int64_t, std::int64_t total_steps) override {
    resumed = resumed_epoch;
    steps = total_steps;
  }
  void points(std::span<const Point> points) override {
    for (const Point& point : points) {
      series[std::string(point.series)].emplace_back(point.step, point.value);
    }
  }
  void progress(const Progress&) override {}
  void checkpoint(std::int64_t epochs_done, const fs::path& path) override {
    checkpoints.push_back(epochs_done);
    if (epochs_done == keep_epoch) {
      fs::copy_file(path, keep_as);
    }
  }
  void log(const std::string& text) override { logs.push_back(text); }

  int stop_questions = 0;
  int stop_at = 0;
  StopRequest stop_with = StopRequest::kPreempt;
  std::int64_t keep_epoch = 0;
  fs::path keep_as;
  std::int64_t resumed = -1;
  std::int64_t steps = 0;
  std::vector<std::int64_t> checkpoints;
  std::vector<std::string> logs;
  std::map<std::string, std::vector<std::pair<std::int64_t, double>>> series;
};

class Loop : public ::testing::Test {
 protected:
  // 160 images, batches of 32: 5 steps and 1 evaluation batch an epoch.
  Job job(const std::string& name) {
    return {tiny_spec(), folder_.make_folder(name), "", {}, {}, {}};
  }
  Outcome run(const Job& job, Recorder& recorder) { return train(job, "cpu", datasets_, recorder); }
  Outcome run(const Job& job) {
    Recorder recorder;
    return run(job, recorder);
  }
  Failure failure_of(const Job& job) {
    try {
      run(job);
    } catch (const Failure& failure) {
      return failure;
    }
    return Failure(FailureClass::kUserError, "it did not fail");
  }
  fs::path path(const std::string& name) const { return folder_.path() / name; }

  TemporaryFolder folder_;
  DatasetCache datasets_;
};

TEST_F(Loop, EqualJobs_GiveEqualBytes) {
  const Outcome first = run(job("a"));
  const Outcome second = run(job("b"));
  EXPECT_EQ(first.ending, Ending::kSucceeded);
  EXPECT_EQ(read_bytes(first.path), read_bytes(second.path));
  Job other = job("c");
  other.spec.seed = 21;
  EXPECT_NE(read_bytes(run(other).path), read_bytes(first.path));
}

TEST_F(Loop, Reports_EverySeriesAtItsSteps) {
  Recorder recorder;
  Job this_job = job("a");
  this_job.spec.validation = 32;
  const Outcome outcome = run(this_job, recorder);
  EXPECT_EQ(recorder.resumed, 0);
  EXPECT_EQ(recorder.steps, 12);
  EXPECT_THAT(recorder.checkpoints, ElementsAre(1, 2));
  const auto steps_of = [&recorder](const std::string& name) {
    std::vector<std::int64_t> steps;
    for (const auto& [step, value] : recorder.series[name]) {
      steps.push_back(step);
    }
    return steps;
  };
  for (const char* const name : {"train_loss", "learning_rate", "images_per_second"}) {
    EXPECT_THAT(steps_of(name), ElementsAre(10, 12)) << name;
  }
  for (const char* const name :
       {"train_accuracy", "validation_accuracy", "validation_loss", "test_accuracy", "test_loss"}) {
    EXPECT_THAT(steps_of(name), ElementsAre(4, 8, 12)) << name;
  }
  EXPECT_FALSE(recorder.series.contains("distill_loss"));
  // The best epoch is the last of those with the best validation accuracy, and the result is that
  // epoch's.
  const auto& accuracies = recorder.series["validation_accuracy"];
  std::size_t best = 0;
  for (std::size_t i = 0; i < accuracies.size(); ++i) {
    best = accuracies[i].second >= accuracies[best].second ? i : best;
  }
  ASSERT_TRUE(outcome.result.has_value());
  EXPECT_EQ(outcome.result->best_epoch, static_cast<std::int64_t>(best) + 1);
  EXPECT_EQ(outcome.result->test_accuracy, recorder.series["test_accuracy"][best].second);
  EXPECT_EQ(outcome.result->validation_accuracy, accuracies[best].second);
  EXPECT_EQ(read_safetensors(outcome.path).metadata.at("bitrung.epoch"), std::to_string(best + 1));
}

TEST_F(Loop, ResumeStates_AreTheLastTwoOnly) {
  Job this_job = job("a");
  this_job.spec.epochs = 5;
  run(this_job);
  EXPECT_FALSE(fs::exists(path("a/resume-2.safetensors")));
  EXPECT_TRUE(fs::exists(path("a/resume-3.safetensors")));
  EXPECT_TRUE(fs::exists(path("a/resume-4.safetensors")));
  EXPECT_FALSE(fs::exists(path("a/resume-5.safetensors")));
}

// Everything but the times.
void expect_same_resume(const fs::path& a, const fs::path& b) {
  const SafetensorsFile first = read_safetensors(a);
  const SafetensorsFile second = read_safetensors(b);
  ASSERT_EQ(first.tensors.size(), second.tensors.size());
  for (const auto& [name, tensor] : first.tensors) {
    EXPECT_EQ(tensor.bytes, second.tensors.at(name).bytes) << name;
  }
}

TEST_F(Loop, ResumeFromAnEpoch_IsBitIdentical) {
  for (const std::int64_t validation : {0, 32}) {
    const std::string suffix = std::to_string(validation);
    Job whole = job("whole" + suffix);
    whole.spec.validation = validation;
    Recorder recorder;
    recorder.keep_epoch = 1;
    recorder.keep_as = path("kept" + suffix);
    const Outcome expected = run(whole, recorder);

    Job rest = job("rest" + suffix);
    rest.spec = whole.spec;
    rest.resume = path("kept" + suffix);
    Recorder rest_recorder;
    const Outcome outcome = run(rest, rest_recorder);
    EXPECT_EQ(rest_recorder.resumed, 1);
    EXPECT_THAT(rest_recorder.logs, IsEmpty());
    EXPECT_EQ(read_bytes(outcome.path), read_bytes(expected.path));
    expect_same_resume(path("whole" + suffix + "/resume-2.safetensors"),
                       path("rest" + suffix + "/resume-2.safetensors"));
    EXPECT_EQ(rest_recorder.series["train_loss"].back(), recorder.series["train_loss"].back());
    EXPECT_EQ(outcome.result->test_loss, expected.result->test_loss);
  }
}

TEST_F(Loop, PreemptAnywhere_AndResume_IsBitIdentical) {
  Job whole = job("whole");
  whole.spec.validation = 32;
  whole.spec.epochs = 2;
  whole.spec.optimizer.nesterov = true;
  Recorder recorder;
  const std::string expected = read_bytes(run(whole, recorder).path);
  // Every place where a training can stop: after a step, and between the batches of an evaluation.
  for (int stop_at = 1; stop_at <= recorder.stop_questions; stop_at += 2) {
    const std::string name = "stop" + std::to_string(stop_at);
    Job first = job(name);
    first.spec = whole.spec;
    Recorder stopping;
    stopping.stop_at = stop_at;
    const Outcome preempted = run(first, stopping);
    ASSERT_EQ(preempted.ending, Ending::kPreempted) << stop_at;
    ASSERT_TRUE(fs::exists(preempted.path)) << stop_at;

    Job second = job(name + "-rest");
    second.spec = whole.spec;
    second.resume = preempted.path;
    Recorder resumed;
    EXPECT_EQ(read_bytes(run(second, resumed).path), expected) << stop_at;
    EXPECT_EQ(resumed.resumed, preempted.epochs_done);
    EXPECT_THAT(resumed.logs, IsEmpty());
  }
}

TEST_F(Loop, Cancel_LeavesNoCheckpoint) {
  Recorder recorder;
  recorder.stop_at = 3;
  recorder.stop_with = StopRequest::kCancel;
  EXPECT_EQ(run(job("a"), recorder).ending, Ending::kCancelled);
  EXPECT_TRUE(fs::is_empty(path("a")));
}

TEST_F(Loop, BadResumeState_IsLoggedAndTrainedAfresh) {
  const std::string expected = read_bytes(run(job("whole")).path);
  const std::string good = read_bytes(path("whole/resume-2.safetensors"));
  write_bytes(path("truncated"), good.substr(0, good.size() / 2));
  std::string damaged = good;
  damaged[100] = '!';
  write_bytes(path("damaged"), damaged);
  fs::copy_file(path("whole/model.safetensors"), path("checkpoint"));
  for (const char* const bad : {"truncated", "damaged", "checkpoint", "missing"}) {
    Job again = job(std::string("again-") + bad);
    again.resume = path(bad);
    Recorder recorder;
    EXPECT_EQ(read_bytes(run(again, recorder).path), expected) << bad;
    EXPECT_EQ(recorder.resumed, 0) << bad;
    EXPECT_THAT(recorder.logs, ElementsAre(HasSubstr("training starts afresh"))) << bad;
  }
  Job other = job("other");
  other.spec.seed = 3;
  other.resume = path("whole/resume-2.safetensors");
  Recorder recorder;
  run(other, recorder);
  EXPECT_THAT(recorder.logs, ElementsAre(HasSubstr("belongs to another spec")));
}

TEST_F(Loop, LossThatIsNotFinite_StopsAsDiverged) {
  Job this_job = job("a");
  this_job.spec.optimizer.learning_rate = 1e20;
  const Failure failure = failure_of(this_job);
  EXPECT_EQ(failure.failure_class(), FailureClass::kDiverged);
  EXPECT_THAT(failure.what(),
              ::testing::MatchesRegex(".*(loss became).*(nan|inf).* at step [0-9]+.*"));
}

TEST_F(Loop, Distillation_TeachesFromTheTeachersCheckpoint) {
  Job teacher = job("teacher");
  teacher.spec.bits = {32, 32};
  const fs::path teacher_path = run(teacher).path;
  Job student = job("student");
  student.spec.distill = Distillation{2.0, 0.7};
  student.teacher = teacher_path;
  Recorder recorder;
  const Outcome outcome = run(student, recorder);
  EXPECT_EQ(outcome.ending, Ending::kSucceeded);
  EXPECT_EQ(recorder.series["distill_loss"].size(), 2U);

  Job again = job("again");
  again.spec = student.spec;
  again.teacher = teacher_path;
  Recorder stopping;
  stopping.stop_at = 7;
  again.resume = run(again, stopping).path;
  EXPECT_EQ(read_bytes(run(again).path), read_bytes(outcome.path));
}

TEST_F(Loop, InitFromTheTeacher_StartsFromItsWeights) {
  const fs::path teacher_path = run(job("teacher")).path;
  Job student = job("student");
  student.spec.init = Init::kTeacher;
  student.spec.optimizer.learning_rate = 0.0;
  student.teacher = teacher_path;
  const SafetensorsFile file = read_safetensors(run(student).path);
  EXPECT_EQ(file.tensors.at("fc.weight").bytes,
            read_safetensors(teacher_path).tensors.at("fc.weight").bytes);
  Job from_job = job("from-job");
  from_job.spec = student.spec;
  from_job.spec.init = Init::kJob;
  from_job.init = teacher_path;
  EXPECT_EQ(read_safetensors(run(from_job).path).tensors.at("conv1.weight").bytes,
            file.tensors.at("conv1.weight").bytes);
}

TEST_F(Loop, WrongTeachers_AreUserErrors) {
  const fs::path teacher_path = run(job("teacher")).path;
  Job deeper = job("deeper");
  deeper.spec.model = "resnet14";
  deeper.spec.init = Init::kTeacher;
  deeper.teacher = teacher_path;
  EXPECT_EQ(failure_of(deeper).failure_class(), FailureClass::kUserError);
  EXPECT_THAT(failure_of(deeper).what(), AllOf(HasSubstr("layer1.1.bn1.weight is missing"),
                                               HasSubstr("it was written for resnet8")));
  Job without = job("without");
  without.spec.distill = Distillation{};
  EXPECT_THAT(failure_of(without).what(), HasSubstr("the command names no teacher file"));
  Job lying = job("lying");
  lying.spec.distill = Distillation{};
  lying.spec.teacher = OutsideTeacher{std::string(64, '0'), "resnet20", {4, 4}, {}};
  lying.teacher = teacher_path;
  EXPECT_EQ(failure_of(lying).failure_class(), FailureClass::kUserError);
}

TEST_F(Loop, WrongPlaces_AreUserErrors) {
  Job cifar = job("cifar");
  cifar.spec.dataset = "cifar10";
  cifar.spec.synthetic.reset();
  cifar.data_dir = path("cifar");
  EXPECT_THAT(failure_of(cifar).what(), HasSubstr("bitrung data fetch cifar10"));
  Job nowhere = job("nowhere");
  nowhere.work_dir = path("not-there");
  EXPECT_THAT(failure_of(nowhere).what(), HasSubstr("is not there"));
  Job method = job("method");
  method.spec.method.weights = "magic";
  EXPECT_THAT(failure_of(method).what(), HasSubstr("known are dorefa"));
}

TEST_F(Loop, FewerImagesThanABatch_AreOneBatch) {
  Job this_job = job("a");
  this_job.spec.train_images = 20;
  this_job.spec.epochs = 2;
  Recorder recorder;
  run(this_job, recorder);
  EXPECT_EQ(recorder.steps, 2);
}

}  // namespace
}  // namespace bitrung::train
