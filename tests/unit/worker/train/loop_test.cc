#include "worker/train/job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/unit/worker/train/test_files.h"
#include "worker/train/checksum.h"
#include "worker/train/failure.h"
#include "worker/train/resume.h"
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

Distillation distillation(double temperature, double weight) {
  Distillation result;
  result.temperature = result.temperature_end = temperature;
  result.weight = result.weight_end = weight;
  return result;
}

class Loop : public ::testing::Test {
 protected:
  // 160 images, batches of 32: 5 steps and 1 evaluation batch an epoch.
  Job job(const std::string& name) {
    return {tiny_spec(), folder_.make_folder(name), "", {}, {}, {}, {}};
  }
  Outcome run(const Job& job, Recorder& recorder) {
    return run_job(job, "cpu", datasets_, recorder);
  }
  Outcome run(const Job& job) {
    Recorder recorder;
    return run(job, recorder);
  }
  // What the report of a job says that it was computed with.
  static std::string backend_of(const Outcome& outcome) {
    return nlohmann::json::parse(outcome.report).at("backend").get<std::string>();
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
    if (preempted.ending == Ending::kSucceeded) {  // The training is over, its report is made.
      EXPECT_GT(stop_at, recorder.stop_questions - 2);
      EXPECT_EQ(read_bytes(preempted.path), expected);
      continue;
    }
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

TEST_F(Loop, DamagedResumeState_IsRefusedBeforeATensorIsUsed) {
  run(job("whole"));
  const std::string good = read_bytes(path("whole/resume-2.safetensors"));
  const Spec spec = job("spec").spec;
  TensorGroups groups;
  const at::Tensor untouched = at::full({1}, 7.0);
  groups.model = {{"conv1.weight", untouched}};
  const auto is_refused = [&](const std::string& bytes) {
    try {
      const std::vector<std::uint8_t> raw(bytes.begin(), bytes.end());
      restore(parse_safetensors(raw), spec, groups);
    } catch (const SafetensorsError&) {
      return true;
    } catch (const Failure& failure) {
      // Beyond the checksum it would be the network that does not fit.
      return std::string(failure.what()).find("expects") == std::string::npos &&
             untouched.item<float>() == 7.0F;
    }
    return false;
  };
  EXPECT_FALSE(is_refused(good));
  for (std::size_t size = 0; size < good.size(); size += 4096) {
    EXPECT_TRUE(is_refused(good.substr(0, size))) << size;
  }
  EXPECT_TRUE(is_refused(good.substr(0, good.size() - 1)));
  constexpr std::size_t kFlips = 400;
  for (std::size_t i = 0; i < kFlips; ++i) {
    std::string flipped = good;
    const std::size_t at = i < 100 ? i : (good.size() - 1) * (i - 99) / (kFlips - 100);
    flipped[at] = static_cast<char>(flipped[at] ^ (1 << (i % 8)));
    EXPECT_TRUE(is_refused(flipped)) << "bit " << i % 8 << " of byte " << at;
  }
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
  teacher.spec.network.bits = bits_of(32);
  const fs::path teacher_path = run(teacher).path;
  Job student = job("student");
  student.spec.distill = distillation(2.0, 0.7);
  student.teachers = {teacher_path};
  Recorder recorder;
  const Outcome outcome = run(student, recorder);
  EXPECT_EQ(outcome.ending, Ending::kSucceeded);
  EXPECT_EQ(recorder.series["distill_loss"].size(), 2U);

  Job again = job("again");
  again.spec = student.spec;
  again.teachers = {teacher_path};
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
  student.teachers = {teacher_path};
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
  deeper.spec.network.model = "resnet14";
  deeper.spec.init = Init::kTeacher;
  deeper.teachers = {teacher_path};
  EXPECT_EQ(failure_of(deeper).failure_class(), FailureClass::kUserError);
  EXPECT_THAT(failure_of(deeper).what(), AllOf(HasSubstr("layer1.1.bn1.weight is missing"),
                                               HasSubstr("it was written for resnet8")));
  Job without = job("without");
  without.spec.distill = Distillation{};
  EXPECT_THAT(failure_of(without).what(), HasSubstr("the command names no teacher file"));
  // The file says itself what it is; a description of it does not matter.
  Job described = job("described");
  described.spec.distill = Distillation{};
  NetworkChoice other;
  other.model = "resnet20";
  described.spec.teachers = {{std::string(64, '0'), other}};
  described.teachers = {teacher_path};
  EXPECT_EQ(run(described).ending, Ending::kSucceeded);
  // One that does not is believed to be what the spec says.
  SafetensorsFile bare = read_safetensors(teacher_path);
  bare.metadata.erase("bitrung.spec");
  write_safetensors(path("bare"), bare);
  described.teachers = {path("bare")};
  EXPECT_THAT(failure_of(described).what(), HasSubstr("it was written for resnet8"));
  described.spec.teachers.clear();
  EXPECT_THAT(failure_of(described).what(), HasSubstr("no bitrung.spec"));
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
  method.spec.network.method.weights = "magic";
  EXPECT_THAT(failure_of(method).what(), HasSubstr("\"magic\" is unknown"));
}

// Learned parameters, tracked ranges and noise included.
TEST_F(Loop, ResumeOfEveryMethod_IsBitIdentical) {
  for (const MethodInfo& method : methods()) {
    const std::string name(method.name);
    Job whole = job(name);
    whole.spec.epochs = 2;
    whole.spec.train_images = 48;
    whole.spec.batch_size = 16;
    whole.spec.synthetic->test_images = 10;
    whole.spec.network.bits = bits_of(2);
    whole.spec.network.method.weights = name;
    whole.spec.network.method.activations = method.has_activations ? name : "pact";
    whole.spec.network.method.options.scale = "learned";
    whole.spec.network.method.options.granularity = "channel";
    whole.spec.network.shortcut_per_convolution = method.wants_shortcut_per_convolution;
    if (name == "dorefa-paper") {
      whole.spec.network.bits.gradients = 6;
    }
    for (const Backend backend : {Backend::kAuto, Backend::kEager}) {
      whole.spec.backend = backend;
      const Outcome expected = run(whole);
      ASSERT_EQ(expected.ending, Ending::kSucceeded) << name;
      for (const int stop_at : {2, 4, 6}) {  // In the first epoch, after it, in the second.
        Job first = job(name + std::to_string(stop_at));
        first.spec = whole.spec;
        Recorder stopping;
        stopping.stop_at = stop_at;
        first.resume = run(first, stopping).path;
        Recorder resumed;
        EXPECT_EQ(read_bytes(run(first, resumed).path), read_bytes(expected.path))
            << name << ", stopped at " << stop_at;
        EXPECT_THAT(resumed.logs, testing::Not(testing::Contains(HasSubstr("resume")))) << name;
      }
      if (expected.report.find("fused") == std::string::npos) {
        break;  // The other backend would be the same.
      }
    }
  }
}

TEST_F(Loop, ResumedTraining_KeepsTheThreadsItBeganWith_WhereItsResultsDependOnThem) {
  const int threads = at::get_num_threads();
  for (const Backend backend : {Backend::kEager, Backend::kAuto}) {
    const std::string name = backend == Backend::kEager ? "eager" : "fused";
    Job whole = job(name);
    whole.spec.backend = backend;
    at::set_num_threads(2);
    const Outcome expected = run(whole);
    Job again = job(name + "again");
    again.spec = whole.spec;
    Recorder stopping;
    stopping.stop_at = 3;
    again.resume = run(again, stopping).path;
    at::set_num_threads(3);
    Recorder resumed;
    const Outcome outcome = run(again, resumed);
    EXPECT_EQ(read_bytes(outcome.path), read_bytes(expected.path)) << name;
    EXPECT_EQ(at::get_num_threads(), backend == Backend::kEager ? 2 : 3) << name;
    const auto said = HasSubstr("it goes on with the 2 threads that it began with, not 3");
    if (backend == Backend::kEager) {
      EXPECT_THAT(resumed.logs, testing::Contains(said));
    } else {
      EXPECT_THAT(resumed.logs, testing::Not(testing::Contains(said)));
    }
  }
  at::set_num_threads(threads);
}

TEST_F(Loop, Backend_IsChosenAndReported) {
  const auto reason_of = [](const Outcome& outcome) {
    return nlohmann::json::parse(outcome.report).at("backend_reason").get<std::string>();
  };
  Job usual = job("usual");
  Recorder quiet;
  const Outcome fused = run(usual, quiet);
  EXPECT_THAT(backend_of(fused), testing::StartsWith("fused "));
  EXPECT_TRUE(nlohmann::json::parse(fused.report).at("backend_reason").is_null());
  EXPECT_EQ(nlohmann::json::parse(fused.report).at("threads"), at::get_num_threads());
  EXPECT_THAT(quiet.logs, IsEmpty());
  Job eager = job("eager");
  eager.spec.backend = Backend::kEager;
  EXPECT_EQ(backend_of(run(eager)), "eager");
  EXPECT_EQ(reason_of(run(eager)), "the job asks for it");
  Job other = job("other");
  other.spec.network.bits = bits_of(4);
  other.spec.network.method.weights = other.spec.network.method.activations = "apot";
  Recorder recorder;
  const Outcome fallen_back = run(other, recorder);
  EXPECT_EQ(backend_of(fallen_back), "eager");
  EXPECT_EQ(reason_of(fallen_back), "activations are quantized by apot");
  EXPECT_THAT(recorder.logs,
              testing::ElementsAre("the network is computed by LibTorch's operations, since "
                                   "activations are quantized by apot"));
  other.spec.backend = Backend::kFused;
  EXPECT_THAT(failure_of(other).what(),
              HasSubstr("cannot do this training: activations are quantized by apot"));
}

TEST_F(Loop, TeacherLogitsOfImagesThatStayTheSame_AreComputedOnceAndResumeBitIdentically) {
  const fs::path teacher_path = run(job("teacher")).path;
  Job student = job("student");
  student.spec.augment_crop = student.spec.augment_flip = false;
  student.spec.distill = distillation(2.0, 0.7);
  student.teachers = {teacher_path};
  const Outcome outcome = run(student);
  for (const int stop_at : {3, 7, 9}) {
    Job again = job("again" + std::to_string(stop_at));
    again.spec = student.spec;
    again.teachers = student.teachers;
    Recorder stopping;
    stopping.stop_at = stop_at;
    again.resume = run(again, stopping).path;
    EXPECT_EQ(read_bytes(run(again).path), read_bytes(outcome.path)) << stop_at;
  }
}

// A teacher in a folder that trainings share.
class SharedLogits : public Loop {
 protected:
  Job student(const std::string& name, int bits) {
    if (teacher_path_.empty()) {
      teacher_path_ = run(job("teacher")).path;
    }
    Job student = job(name);
    student.spec.network.bits = bits_of(bits);
    student.spec.distill = distillation(2.0, 0.7);
    student.teachers = {teacher_path_};
    return student;
  }
  Outcome run_shared(const Job& job, Recorder& recorder) {
    return run_job(job, "cpu", shared_datasets_, recorder);
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> files;
    if (!fs::exists(path("shared/teacher-logits"))) return files;
    for (const fs::directory_entry& entry : fs::directory_iterator(path("shared/teacher-logits"))) {
      files.push_back(entry.path());
    }
    return files;
  }

 private:
  DatasetCache shared_datasets_{path("shared")};
  fs::path teacher_path_;
};

TEST_F(SharedLogits, StudentsOfOneSeed_TakeThemAndLearnTheSame) {
  Recorder first;
  run_shared(student("first", 4), first);
  EXPECT_THAT(first.logs, IsEmpty());
  EXPECT_EQ(files().size(), 3);  // Epochs.
  Job other = student("other", 2);
  Recorder second;
  const Outcome taken = run_shared(other, second);
  EXPECT_THAT(second.logs, ElementsAre(HasSubstr("has kept what the teachers say")));
  EXPECT_EQ(files().size(), 3);
  EXPECT_EQ(read_bytes(taken.path), read_bytes(run(student("alone", 2)).path));

  // They are what it learns from: other numbers there give another network.
  for (const fs::path& path : files()) {
    SafetensorsFile file = read_safetensors(path);
    for (auto& [name, tensor] : file.tensors) {
      std::ranges::fill(tensor.bytes, std::uint8_t{0});
    }
    seal(file);
    write_safetensors(path, file);
  }
  Recorder third;
  EXPECT_NE(read_bytes(run_shared(student("misled", 2), third).path), read_bytes(taken.path));
}

TEST_F(SharedLogits, PreemptAnywhere_AndResume_IsBitIdentical) {
  const Outcome outcome = run(student("whole", 2));
  for (const int stop_at : {3, 7, 9}) {
    Job again = student("again" + std::to_string(stop_at), 2);
    Recorder stopping;
    stopping.stop_at = stop_at;
    again.resume = run_shared(again, stopping).path;
    Recorder resumed;
    EXPECT_EQ(read_bytes(run_shared(again, resumed).path), read_bytes(outcome.path)) << stop_at;
  }
}

TEST_F(SharedLogits, WithoutAugmentation_AllSeedsTakeThem) {
  Job first = student("first", 4);
  first.spec.augment_crop = first.spec.augment_flip = false;
  Recorder recorder;
  run_shared(first, recorder);
  EXPECT_EQ(files().size(), 1);
  EXPECT_THAT(recorder.logs, IsEmpty());
  Job other = student("other", 2);
  other.spec.augment_crop = other.spec.augment_flip = false;
  ++other.spec.seed;
  const Outcome taken = run_shared(other, recorder);
  EXPECT_THAT(recorder.logs, ElementsAre(HasSubstr("has kept what the teachers say")));
  EXPECT_EQ(files().size(), 1);
  other.work_dir = job("alone").work_dir;
  EXPECT_EQ(read_bytes(taken.path), read_bytes(run(other).path));
}

TEST_F(SharedLogits, OtherSeedsBatchesAndBackends_DoNotShare) {
  Recorder recorder;
  run_shared(student("first", 4), recorder);
  Job seed = student("seed", 4);
  ++seed.spec.seed;
  run_shared(seed, recorder);
  EXPECT_EQ(files().size(), 6);
  Job batch = student("batch", 4);
  batch.spec.batch_size = 16;
  run_shared(batch, recorder);
  EXPECT_EQ(files().size(), 9);
  EXPECT_THAT(recorder.logs, IsEmpty());
  // LibTorch's last bits depend on the number of threads, and features need the pass.
  Job eager = student("eager", 4);
  eager.spec.backend = Backend::kEager;
  run_shared(eager, recorder);
  Job features = student("features", 4);
  features.spec.distill->attention = 10.0;
  run_shared(features, recorder);
  EXPECT_EQ(files().size(), 9);
}

TEST_F(Loop, SeveralTeachersAndTheirFeatures_Resume) {
  Job deep = job("deep");
  deep.spec.network.model = "resnet14x2";
  deep.spec.epochs = 1;
  const fs::path deep_path = run(deep).path;
  Job plane = job("plane");
  plane.spec.network.model = "plane6";
  plane.spec.epochs = 1;
  const fs::path plane_path = run(plane).path;

  Job student = job("student");
  student.spec.distill = distillation(4.0, 0.5);
  student.spec.distill->kind = DistillKind::kDkd;
  student.spec.distill->temperature_end = 1.0;
  student.spec.distill->ramp = Ramp::kCosine;
  student.spec.distill->self_study = 0.34;
  student.spec.distill->attention = 10.0;
  student.spec.distill->hint = 0.1;
  student.spec.distill->similarity = 1.0;
  student.teachers = {deep_path, plane_path};
  Recorder recorder;
  const Outcome outcome = run(student, recorder);
  ASSERT_EQ(outcome.ending, Ending::kSucceeded);
  Job again = job("again");
  again.spec = student.spec;
  again.teachers = student.teachers;
  Recorder stopping;
  stopping.stop_at = 9;
  again.resume = run(again, stopping).path;
  EXPECT_EQ(read_bytes(run(again).path), read_bytes(outcome.path));

  std::swap(again.teachers[0], again.teachers[1]);
  again.resume.reset();
  EXPECT_NE(read_bytes(run(again).path), read_bytes(outcome.path));
}

// A float network quantized afterwards.
TEST_F(Loop, Quantize_KeepsAccuracyAtEightBitsAndIsRepeatable) {
  Job real = job("real");
  real.spec.network.bits = bits_of(32);
  real.spec.synthetic->train_images = 640;
  real.spec.epochs = 6;
  const Outcome trained = run(real);

  Job quantize = job("quantize");
  quantize.spec = real.spec;
  quantize.spec.kind = Kind::kQuantize;
  quantize.spec.network.bits = bits_of(8);
  quantize.spec.network.method.weights = quantize.spec.network.method.activations = "linear";
  quantize.spec.calibration.batch_size = 32;
  quantize.spec.calibration.batches = 4;
  quantize.source = trained.path;
  const Outcome eight = run(quantize);
  ASSERT_EQ(eight.ending, Ending::kSucceeded);
  EXPECT_NEAR(eight.result->test_accuracy, trained.result->test_accuracy, 5.0);
  EXPECT_EQ(eight.result->best_epoch, 0);
  EXPECT_THAT(backend_of(eight), testing::StartsWith("fused "));
  EXPECT_EQ(read_bytes(run(quantize).path), read_bytes(eight.path));

  for (const Clipping clip : {Clipping::kAverage, Clipping::kDeviations, Clipping::kPercentile,
                              Clipping::kAciqGauss, Clipping::kAciqLaplace}) {
    Job other = job("clip" + std::to_string(static_cast<int>(clip)));
    other.spec = quantize.spec;
    other.spec.calibration.clip = clip;
    other.source = trained.path;
    const Outcome clipped = run(other);
    ASSERT_EQ(clipped.ending, Ending::kSucceeded);
    EXPECT_NEAR(clipped.result->test_accuracy, trained.result->test_accuracy, 10.0)
        << static_cast<int>(clip);
  }
  Job estimated = job("estimated");
  estimated.spec = quantize.spec;
  estimated.spec.calibration.norm_batches = 2;
  estimated.source = trained.path;
  const SafetensorsFile before = read_safetensors(eight.path);
  const SafetensorsFile after = read_safetensors(run(estimated).path);
  EXPECT_NE(before.tensors.at("bn.running_var").bytes, after.tensors.at("bn.running_var").bytes);
  EXPECT_EQ(before.tensors.at("fc.weight").bytes, after.tensors.at("fc.weight").bytes);

  // A checkpoint of it can be evaluated, and is the same network.
  Job evaluate = job("evaluate");
  evaluate.spec = quantize.spec;
  evaluate.spec.kind = Kind::kEvaluate;
  evaluate.source = eight.path;
  const Outcome evaluated = run(evaluate);
  EXPECT_EQ(evaluated.result->test_accuracy, eight.result->test_accuracy);
  EXPECT_EQ(evaluated.result->test_loss, eight.result->test_loss);
  EXPECT_EQ(backend_of(evaluated), backend_of(eight));
  EXPECT_EQ(read_bytes(evaluated.path), read_bytes(eight.path));
  evaluate.source.reset();
  EXPECT_THAT(failure_of(evaluate).what(), HasSubstr("names no source file"));
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
