#include "worker/train/loop.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <deque>
#include <new>
#include <nlohmann/json.hpp>

#include "db/base/check.h"
#include "worker/train/checkpoint.h"
#include "worker/train/checksum.h"
#include "worker/train/data/batch.h"
#include "worker/train/data/host_batch.h"
#include "worker/train/device_step.h"
#include "worker/train/distill.h"
#include "worker/train/evaluate.h"
#include "worker/train/failure.h"
#include "worker/train/final_report.h"
#include "worker/train/nn/network.h"
#include "worker/train/resume.h"
#include "worker/train/schedule.h"
#include "worker/train/sgd.h"
#include "worker/train/teacher_logits.h"

namespace bitrung::train {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// Points are means over this many steps.
constexpr std::int64_t kWindowSteps = 10;
// A progress event at least once a second is promised; a step of half a second may come in between.
constexpr std::chrono::milliseconds kProgressInterval{500};
constexpr std::size_t kResumeStatesKept = 2;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<NamedTensor> copy_of(const std::vector<NamedTensor>& tensors) {
  std::vector<NamedTensor> copy;
  for (const NamedTensor& tensor : tensors) {
    copy.push_back({tensor.name, tensor.tensor.detach().clone()});
  }
  return copy;
}

class Training {
 public:
  Training(const Job& job, const at::Device& device, std::shared_ptr<const Dataset> dataset,
           const fs::path& cache_dir, Observer& observer)
      : job_(job),
        spec_(job.spec),
        device_(device),
        dataset_(std::move(dataset)),
        cache_dir_(cache_dir),
        observer_(observer),
        split_(
            split_training_images(dataset_->training.size(), spec_.train_images, spec_.validation)),
        test_indices_(all_indices(dataset_->test)),
        batch_size_(std::min(spec_.batch_size, static_cast<std::int64_t>(split_.training.size()))),
        steps_per_epoch_(static_cast<std::int64_t>(split_.training.size()) / batch_size_),
        batch_(batch_size_),
        evaluation_batch_(kEvaluationBatch) {
    load_teachers();
    if (!try_resume()) {
      start_afresh();
    }
    choose_threads();
  }

  Outcome run() {
    start_ = Clock::now();
    carried_seconds_ = counters_.duration_seconds;
    observer_.started(counters_.epoch, spec_.epochs, spec_.epochs * steps_per_epoch_);
    if (const StopRequest stop = keep_teacher_logits(); stop != StopRequest::kNone) {
      return stopped(stop);
    }
    while (counters_.epoch < spec_.epochs) {
      if (const StopRequest stop = run_epoch(); stop != StopRequest::kNone) {
        return stopped(stop);
      }
    }
    return finish();
  }

 private:
  at::TensorOptions tensors() const {
    return at::TensorOptions().dtype(at::kFloat).device(device_);
  }

  // What the spec says of an outside teacher, for a file that does not say it itself: the entry
  // whose artifact is part of the file's name, else the next one.
  NetworkChoice described_teacher(const fs::path& path, const std::string& what,
                                  std::size_t position) const {
    for (const OutsideTeacher& teacher : spec_.teachers) {
      if (path.filename().string().find(teacher.artifact) != std::string::npos) {
        return teacher.network;
      }
    }
    if (position >= spec_.teachers.size()) {
      fail_user_error(what +
                      ": its metadata has no bitrung.spec, so its network is unknown; name it in "
                      "the spec's `teachers` (artifact, model, bits, method)");
    }
    return spec_.teachers[position].network;
  }

  void load_teachers() {
    const bool needed = spec_.distill.has_value() || spec_.init == Init::kTeacher;
    if (!needed) {
      if (!job_.teachers.empty()) {
        observer_.log("the teacher is not used: the spec has neither distill nor init \"teacher\"");
      }
      return;
    }
    if (job_.teachers.empty()) {
      fail_user_error(std::string("the spec needs a teacher (") +
                      (spec_.distill ? "distill" : "init \"teacher\"") +
                      "), and the command names no teacher file");
    }
    std::vector<std::unique_ptr<Network>> teachers;
    std::size_t undescribed = 0;
    for (const fs::path& path : job_.teachers) {
      const std::string what = "teacher " + path.string();
      SafetensorsFile file = read_checkpoint(path, what);
      if (spec_.distill) {
        auto network = checkpoint_network(file, what, class_count(spec_.dataset));
        if (!network) {
          network = described_teacher(path, what, undescribed++);
        }
        teachers.push_back(make_network({*network, class_count(spec_.dataset)}, 0, tensors()));
        load_network(file, what, LoadRule::kExact, *teachers.back());
        choose_backend(*teachers.back(), what);
        teacher_identities_.push_back(
            {canonical_network(*network), checksum_of(file), teachers.back()->backend()});
      }
      if (&path == &job_.teachers.front()) {
        teacher_file_ = std::move(file);
      }
    }
    if (spec_.distill) {
      distiller_ = std::make_unique<Distiller>(*spec_.distill, std::move(teachers));
    }
  }

  // Chooses what the network computes with; `what` names it in messages.
  void choose_backend(Network& network, const std::string& what) {
    const bool has_choice = device_.is_cpu() || spec_.backend == Backend::kFused;
    std::string reason;
    if (spec_.backend == Backend::kEager) {
      reason = "the job asks for it";
    } else if (has_choice) {
      reason = network.fuse();
    }
    if (&network == student_.get()) {
      backend_reason_ = reason;
    }
    if (reason.empty() || spec_.backend == Backend::kEager) {
      return;
    }
    if (spec_.backend == Backend::kFused && &network == student_.get()) {
      fail_user_error("the spec's backend is \"fused\", which cannot do this training: " + reason +
                      "; say \"auto\" or \"eager\"");
    }
    observer_.log(what + " is computed by LibTorch's operations, since " + reason);
  }

  void make_student() {
    student_ = make_network({spec_.network, class_count(spec_.dataset)}, spec_.seed, tensors());
    choose_backend(*student_, "the network");
    std::vector<LearnedTensor> learned = student_->parameters();
    if (distiller_) {
      distiller_->begin(*student_, spec_.seed, tensors());
      learned.insert(learned.end(), distiller_->parameters().begin(),
                     distiller_->parameters().end());
    }
    optimizer_ = std::make_unique<Sgd>(spec_.optimizer, std::move(learned));
    if (!device_.is_cpu()) {
      device_step_.emplace(dataset_->training, device_, batch_size_,
                           student_->follows_training()
                               ? "its quantization changes with the training's progress"
                               : "");
      say_if_not_recorded();
    }
    counters_ = Counters{};
    best_.clear();
  }

  // What is learned beside the student.
  std::vector<NamedTensor> extra() const {
    std::vector<NamedTensor> result;
    if (distiller_) {
      for (const LearnedTensor& tensor : distiller_->parameters()) {
        result.push_back({tensor.name, tensor.tensor});
      }
    }
    return result;
  }

  void start_afresh() {
    make_student();
    if (spec_.init == Init::kTeacher) {
      load_network(teacher_file_, "init from teacher " + job_.teachers.front().string(),
                   LoadRule::kWeightsOnly, *student_);
    } else if (spec_.init != Init::kScratch) {
      if (!job_.init) {
        fail_user_error("the spec's init needs a checkpoint, and the command names no init file");
      }
      const std::string what = "init " + job_.init->string();
      load_network(read_checkpoint(*job_.init, what), what, LoadRule::kWeightsOnly, *student_);
    }
    teacher_file_ = {};
  }

  // A resume state that cannot be used costs time, not the attempt: the training then starts
  // afresh.
  bool try_resume() {
    if (!job_.resume) {
      return false;
    }
    make_student();
    std::string reason;
    try {
      TensorGroups groups{student_->state(), optimizer_->momentum(), extra(), {}};
      counters_ = restore(read_safetensors(*job_.resume), spec_, groups);
      best_ = std::move(groups.best);
      if (counters_.epoch >= 0 && counters_.epoch < spec_.epochs && counters_.step_in_epoch >= 0 &&
          counters_.step_in_epoch <= steps_per_epoch_) {
        teacher_file_ = {};
        return true;
      }
      reason = "its position is outside the training";
    } catch (const SafetensorsError& error) {
      reason = error.what();
    } catch (const Failure& failure) {
      reason = failure.what();
    }
    observer_.log("cannot resume from " + job_.resume->string() + ": " + reason +
                  "; training starts afresh");
    return false;
  }

  // LibTorch's operations add up in another order with another number of threads, and a last bit
  // may differ: what was begun with some goes on with as many, whatever it was given now.
  void choose_threads() {
    const std::int64_t given = at::get_num_threads();
    const bool depends = device_.is_cpu() && (student_->depends_on_threads() ||
                                              (distiller_ && distiller_->depends_on_threads()));
    if (counters_.threads == 0 || !depends) {
      counters_.threads = given;
    }
    if (counters_.threads == given) {
      return;
    }
    observer_.log("it goes on with the " + std::to_string(counters_.threads) +
                  " threads that it began with, not " + std::to_string(given) +
                  ": its results depend on their number");
    at::set_num_threads(static_cast<int>(counters_.threads));
  }

  std::int64_t steps_done() const {
    return counters_.epoch * steps_per_epoch_ + counters_.step_in_epoch;
  }

  // Runs what is left of the epoch, its evaluation and its resume state.
  StopRequest run_epoch() {
    const std::vector<std::uint32_t> order =
        epoch_order(split_.training, spec_.seed, counters_.epoch);
    const double rate = learning_rate_at(spec_.schedule, spec_.optimizer.learning_rate,
                                         counters_.epoch, spec_.epochs);
    while (counters_.step_in_epoch < steps_per_epoch_) {
      run_step_or_say_where(order, rate);
      if (const StopRequest stop = observer_.stop_requested(); stop != StopRequest::kNone) {
        return stop;
      }
    }
    if (const StopRequest stop = evaluate_epoch(); stop != StopRequest::kNone) {
      return stop;
    }
    ++counters_.epoch;
    counters_.step_in_epoch = 0;
    counters_.correct = 0;
    counters_.seen = 0;
    if (counters_.epoch < spec_.epochs) {
      save_resume();
      observer_.checkpoint(counters_.epoch, resume_paths_.back());
    }
    return StopRequest::kNone;
  }

  // A layer that meets NaN does not know when.
  void run_step_or_say_where(const std::vector<std::uint32_t>& order, double rate) {
    const std::int64_t step = steps_done() + 1;
    try {
      run_step(order, rate);
    } catch (const Failure& failure) {
      if (failure.failure_class() != FailureClass::kDiverged || steps_done() == step) {
        throw;
      }
      throw Failure(FailureClass::kDiverged,
                    std::string(failure.what()) + " at step " + std::to_string(step) + " of " +
                        std::to_string(spec_.epochs * steps_per_epoch_) + ", in epoch " +
                        std::to_string(counters_.epoch + 1) +
                        "; a lower learning rate or warm-up epochs may help");
    }
  }

  bool is_augmented() const { return spec_.augment_crop || spec_.augment_flip; }

  // Begins to keep what the teachers say. Where steps are recorded on a device, or features are
  // compared, they are asked about each batch.
  StopRequest keep_teacher_logits() {
    const bool is_recorded = device_step_ && device_step_->why_not_recorded().empty();
    if (!distiller_ || distiller_->uses_features() || is_recorded) {
      return StopRequest::kNone;
    }
    // Logits whose last bits depend on the number of threads stay with this training.
    std::optional<LogitsFolder> folder;
    if (!cache_dir_.empty() && device_.is_cpu() && !distiller_->depends_on_threads()) {
      folder.emplace(cache_dir_ / "teacher-logits",
                     [this](const std::string& text) { observer_.log(text); });
    }
    if (!is_augmented()) {
      return ask_about_all_images(folder);
    }
    if (folder) {
      epoch_logits_.emplace(*std::move(folder), views().dump(), steps_per_epoch_ * batch_size_);
    }
    return StopRequest::kNone;
  }

  // What decides the teachers' logits, but for the epoch.
  nlohmann::json views() const {
    Checksum images;
    for (const std::uint32_t index : split_.training) {
      images.add({dataset_->training.image(index), kImageBytes});
    }
    nlohmann::json views = {
        {"numerics", kNumerics}, {"teachers", teacher_identities_}, {"images", images.text()}};
    if (is_augmented()) {
      views.update({{"batch_size", batch_size_},
                    {"crop", spec_.augment_crop},
                    {"flip", spec_.augment_flip},
                    {"seed", spec_.seed}});
    }
    return views;
  }

  // In their own order and not the epoch's, so that a resumed training gets the same.
  StopRequest ask_about_all_images(std::optional<LogitsFolder>& folder) {
    const std::string key = folder ? views().dump() : "";  // It reads every image.
    LogitTables tables = folder ? folder->read(key) : LogitTables();
    if (tables.empty()) {
      for (const std::unique_ptr<Network>& teacher : distiller_->teachers()) {
        std::vector<at::Tensor> logits;
        const EvaluationHooks hooks = {
            [this] {
              report_progress();
              return observer_.stop_requested();
            },
            [&](const at::Tensor& batch, const at::Tensor&) { logits.push_back(batch.clone()); }};
        if (const StopRequest stop = evaluate_images(*teacher, dataset_->training, split_.training,
                                                     device_, evaluation_batch_, hooks);
            stop != StopRequest::kNone) {
          return stop;
        }
        tables.push_back(at::cat(logits));
      }
      if (folder) {
        folder->write(key, tables);
      }
    }
    image_logits_.emplace(std::move(tables), split_.training);
    return StopRequest::kNone;
  }

  // What the teachers say to a batch.
  Distiller::Lesson teach(const at::Tensor& images, std::span<const std::uint32_t> indices) {
    if (image_logits_) {
      return image_logits_->of(indices);
    }
    const auto ask = [&] { return distiller_->teach(images); };
    if (epoch_logits_) {
      return epoch_logits_->of(counters_.epoch, counters_.step_in_epoch * batch_size_, batch_size_,
                               ask);
    }
    return ask();
  }

  DistillationNow distillation_now() const {
    return distiller_ ? distillation_at(*spec_.distill, counters_.epoch, spec_.epochs)
                      : DistillationNow{};
  }

  // The student's step with a batch, (N,3,32,32) and (N), and what the teachers say to it.
  template <typename Rate>
  StepValues learn(const at::Tensor& images, const at::Tensor& labels,
                   const Distiller::Lesson& lesson, const DistillationNow& now, const Rate& rate) {
    const Pass pass{
        true,
        static_cast<double>(steps_done()) / static_cast<double>(spec_.epochs * steps_per_epoch_),
        spec_.seed, steps_done()};
    std::vector<at::Tensor> stages;
    Taps taps;
    if (now.is_on && distiller_->uses_features()) {
      taps.stages = &stages;
    }
    const at::Tensor logits = student_->forward(images, pass, taps);  // (N,classes)
    const Loss loss = now.is_on ? distiller_->loss(logits, labels, stages, lesson, now)
                                : Loss{at::cross_entropy_loss(logits, labels), {}};
    loss.total.backward();
    optimizer_->step(rate);
    return {loss.total.detach(), loss.distillation, logits.detach().argmax(1).eq(labels).sum()};
  }

  template <typename Place>
  StepValues learn_from_host(std::span<const std::uint32_t> indices, const Place& place,
                             double rate) {
    batch_.fill(dataset_->training, indices, place);
    const at::Tensor images = batch_.images(batch_size_);
    const DistillationNow now = distillation_now();
    return learn(images, batch_.labels(batch_size_),
                 now.is_on ? teach(images, indices) : Distiller::Lesson{}, now, rate);
  }

  void say_if_not_recorded() {
    if (const std::string& reason = device_step_->why_not_recorded(); !reason.empty()) {
      observer_.log("steps are launched operation by operation, since " + reason);
    }
  }

  // Where steps are recorded, the teachers' logits are computed with each, so that they are equal.
  template <typename Place>
  StepValues learn_on_device(std::span<const std::uint32_t> indices, const Place& place,
                             double rate) {
    const DistillationNow now = distillation_now();
    if (now != recorded_now_) {
      device_step_->forget();
      recorded_now_ = now;
    }
    const bool was_recorded = device_step_->why_not_recorded().empty();
    const StepValues values = device_step_->run(
        indices, place, rate,
        [&](const at::Tensor& images, const at::Tensor& labels, const at::Tensor& device_rate) {
          Distiller::Lesson lesson;
          if (now.is_on) {
            lesson = was_recorded ? distiller_->teach(images) : teach(images, indices);
          }
          return learn(images, labels, lesson, now, device_rate);
        });
    if (was_recorded) {
      say_if_not_recorded();
    }
    return values;
  }

  void run_step(const std::vector<std::uint32_t>& order, double rate) {
    const Clock::time_point step_start = Clock::now();
    const std::int64_t first = counters_.step_in_epoch * batch_size_;
    const std::span<const std::uint32_t> indices(order.data() + first,
                                                 static_cast<std::size_t>(batch_size_));
    const auto place = [&](std::int64_t i) {
      return augmentation_at(spec_.augment_crop, spec_.augment_flip, spec_.seed, counters_.epoch,
                             first + i);
    };
    const StepValues values = device_step_ ? learn_on_device(indices, place, rate)
                                           : learn_from_host(indices, place, rate);
    ++counters_.step_in_epoch;
    counters_.seen += batch_size_;
    counters_.trained_images += batch_size_;
    pending_.push_back({steps_done(), values});
    const bool window_ends = steps_done() % kWindowSteps == 0;
    // Reading a value makes a GPU wait; there the values of a window are read together.
    if (device_.is_cpu() || window_ends || counters_.step_in_epoch == steps_per_epoch_) {
      read_pending();
    }
    const double seconds = seconds_since(step_start);
    counters_.step_seconds += seconds;
    counters_.window_seconds += seconds;
    ++counters_.window_steps;
    if (window_ends || steps_done() == spec_.epochs * steps_per_epoch_) {
      report_window(rate);
    }
    report_progress();
  }

  struct PendingValues {
    std::int64_t step;
    StepValues values;
  };

  void read_pending() {
    for (const auto& [step, values] : pending_) {
      const auto loss = values.loss.item<double>();
      if (!std::isfinite(loss)) {
        throw Failure(FailureClass::kDiverged,
                      "the training loss became " + std::to_string(loss) + " at step " +
                          std::to_string(step) + " of " +
                          std::to_string(spec_.epochs * steps_per_epoch_) + ", in epoch " +
                          std::to_string(counters_.epoch + 1) +
                          "; a lower learning rate or warm-up epochs may help");
      }
      counters_.window_loss += loss;
      if (values.distillation.defined()) {
        counters_.window_distillation += values.distillation.item<double>();
      }
      counters_.correct += values.correct.item<std::int64_t>();
    }
    pending_.clear();
  }

  void report_window(double rate) {
    const auto steps = static_cast<double>(counters_.window_steps);
    rate_images_per_second_ = steps * static_cast<double>(batch_size_) / counters_.window_seconds;
    std::vector<Point> points = {{"train_loss", steps_done(), counters_.window_loss / steps},
                                 {"learning_rate", steps_done(), rate},
                                 {"images_per_second", steps_done(), rate_images_per_second_}};
    if (spec_.distill) {
      points.push_back({"distill_loss", steps_done(), counters_.window_distillation / steps});
    }
    send_points(points);
    counters_.window_loss = 0.0;
    counters_.window_distillation = 0.0;
    counters_.window_steps = 0;
    counters_.window_seconds = 0.0;
  }

  void send_points(std::vector<Point>& points) {
    std::erase_if(points, [](const Point& point) { return !std::isfinite(point.value); });
    if (!points.empty()) {
      observer_.points(points);
    }
  }

  // Reports now and then; cheap to call at any rate.
  void report_progress() {
    if (Clock::now() - last_progress_ < kProgressInterval) {
      return;
    }
    last_progress_ = Clock::now();
    const std::int64_t steps = spec_.epochs * steps_per_epoch_;
    const double step_images_per_second = rate_images_per_second_ > 0.0
                                              ? rate_images_per_second_
                                              : static_cast<double>(counters_.trained_images) /
                                                    std::max(counters_.step_seconds, 1e-9);
    std::optional<double> eta_seconds;
    if (counters_.trained_images > 0) {
      eta_seconds =
          static_cast<double>((steps - steps_done()) * batch_size_) / step_images_per_second +
          static_cast<double>(spec_.epochs - counters_.epoch) * evaluation_seconds_;
    }
    const std::int64_t epoch = std::min(counters_.epoch + 1, spec_.epochs);
    observer_.progress(
        {epoch, spec_.epochs, steps_done(), steps, step_images_per_second, accuracy_, eta_seconds});
  }

  // Evaluates the validation and test images after an epoch and keeps the best. A stop request ends
  // it early; it is then done again on resume.
  StopRequest evaluate_epoch() {
    const Clock::time_point evaluation_start = Clock::now();
    Best now{counters_.epoch + 1, std::nullopt, {}};
    std::vector<Point> points = {
        {"train_accuracy", steps_done(),
         100.0 * static_cast<double>(counters_.correct) /
             static_cast<double>(std::max<std::int64_t>(counters_.seen, 1))}};
    if (!split_.validation.empty()) {
      now.validation.emplace();
      const StopRequest stop =
          evaluate(dataset_->training, split_.validation, "validation", *now.validation);
      if (stop != StopRequest::kNone) {
        return stop;
      }
      points.push_back({"validation_accuracy", steps_done(), now.validation->accuracy});
      points.push_back({"validation_loss", steps_done(), now.validation->loss});
    }
    if (const StopRequest stop = evaluate(dataset_->test, test_indices_, "test", now.test);
        stop != StopRequest::kNone) {
      return stop;
    }
    points.push_back({"test_accuracy", steps_done(), now.test.accuracy});
    points.push_back({"test_loss", steps_done(), now.test.loss});
    evaluation_seconds_ = seconds_since(evaluation_start);
    accuracy_ = now.validation ? now.validation->accuracy : now.test.accuracy;
    send_points(points);
    // The test set never chooses: without validation images the last epoch is the best.
    const bool is_best = !counters_.best || !now.validation ||
                         now.validation->accuracy >= counters_.best->validation->accuracy;
    if (is_best) {
      counters_.best = now;
      if (now.validation) {
        best_ = copy_of(student_->state());
      }
    }
    return StopRequest::kNone;
  }

  StopRequest evaluate(const ImageSet& set, std::span<const std::uint32_t> indices,
                       const std::string& name, Score& result) {
    std::int64_t correct = 0;
    double loss = 0.0;
    const EvaluationHooks hooks = {
        [this] {
          report_progress();
          return observer_.stop_requested();
        },
        [&](const at::Tensor& logits, const at::Tensor& labels) {
          correct += logits.argmax(1).eq(labels).sum().item<std::int64_t>();
          loss += at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum).item<double>();
        }};
    if (const StopRequest stop =
            evaluate_images(*student_, set, indices, device_, evaluation_batch_, hooks);
        stop != StopRequest::kNone) {
      return stop;
    }
    const auto count = static_cast<double>(indices.size());
    result.accuracy = 100.0 * static_cast<double>(correct) / count;
    result.loss = loss / count;
    if (!std::isfinite(result.loss)) {
      throw Failure(FailureClass::kDiverged, "the " + name + " loss became " +
                                                 std::to_string(result.loss) + " at step " +
                                                 std::to_string(steps_done()) + ", after epoch " +
                                                 std::to_string(counters_.epoch + 1));
    }
    return StopRequest::kNone;
  }

  double duration_seconds() const { return carried_seconds_ + seconds_since(start_); }

  void save_resume() {
    read_pending();
    counters_.duration_seconds = duration_seconds();
    const fs::path path =
        job_.work_dir / ("resume-" + std::to_string(counters_.epoch) + ".safetensors");
    write_safetensors(
        path,
        make_resume(counters_, {student_->state(), optimizer_->momentum(), extra(), best_}, spec_));
    std::erase(resume_paths_, path);
    resume_paths_.push_back(path);
    while (resume_paths_.size() > kResumeStatesKept) {
      std::error_code ignored;  // A file that stays costs room only.
      fs::remove(resume_paths_.front(), ignored);
      resume_paths_.pop_front();
    }
  }

  Outcome stopped(StopRequest stop) {
    if (stop == StopRequest::kCancel) {
      return {Ending::kCancelled, {}, counters_.epoch, std::nullopt, {}};
    }
    save_resume();
    return {Ending::kPreempted, resume_paths_.back(), counters_.epoch, std::nullopt, {}};
  }

  Outcome finish() {
    BITRUNG_CHECK(counters_.best.has_value());
    const Best& best = *counters_.best;
    if (!best_.empty()) {
      const at::NoGradGuard no_grad;
      for (std::size_t i = 0; i < best_.size(); ++i) {
        at::Tensor(student_->state()[i].tensor).copy_(best_[i].tensor);
      }
    }
    const fs::path path = job_.work_dir / "model.safetensors";
    write_safetensors(path, make_checkpoint(student_->state(), spec_, best.epoch));
    const std::optional<FinalReport> report = final_report(
        *student_, backend_reason_, *dataset_, split_, device_, evaluation_batch_, [this] {
          report_progress();
          return observer_.stop_requested();
        });
    if (!report) {
      return {Ending::kCancelled, {}, counters_.epoch, std::nullopt, {}};
    }
    TrainingResult result{};
    result.test_accuracy = best.test.accuracy;
    if (best.validation) {
      result.validation_accuracy = best.validation->accuracy;
    }
    result.test_loss = best.test.loss;
    result.best_epoch = best.epoch;
    result.duration_seconds = duration_seconds();
    result.images_per_second =
        static_cast<double>(counters_.trained_images) / std::max(counters_.step_seconds, 1e-9);
    return {Ending::kSucceeded, path, spec_.epochs, result, report->json};
  }

  const Job& job_;
  const Spec& spec_;
  const at::Device device_;
  const std::shared_ptr<const Dataset> dataset_;
  const fs::path cache_dir_;  // May be empty.
  Observer& observer_;
  const Split split_;
  const std::vector<std::uint32_t> test_indices_;
  const std::int64_t batch_size_;
  const std::int64_t steps_per_epoch_;
  HostBatch batch_;
  HostBatch evaluation_batch_;

  SafetensorsFile teacher_file_;  // Of the first teacher; emptied once nothing needs it.
  std::unique_ptr<Distiller> distiller_;
  // Of each teacher: what it is, its file's checksum, what computes it.
  std::vector<std::array<std::string, 3>> teacher_identities_;
  std::optional<ImageLogits> image_logits_;
  std::optional<EpochLogits> epoch_logits_;
  std::unique_ptr<Network> student_;
  std::string backend_reason_;  // Of the student.
  std::unique_ptr<Sgd> optimizer_;
  std::optional<DeviceStep> device_step_;  // Elsewhere than on the CPU.
  DistillationNow recorded_now_;
  Counters counters_;
  std::vector<NamedTensor> best_;  // Only with validation images.
  std::vector<PendingValues> pending_;
  std::deque<fs::path> resume_paths_;

  Clock::time_point start_;
  double carried_seconds_ = 0.0;
  Clock::time_point last_progress_;
  double rate_images_per_second_ = 0.0;
  double evaluation_seconds_ = 0.0;
  std::optional<double> accuracy_;
};

}  // namespace

Outcome run_training(const Job& job, const at::Device& device,
                     std::shared_ptr<const Dataset> dataset, const fs::path& cache_dir,
                     Observer& observer) {
  return Training(job, device, std::move(dataset), cache_dir, observer).run();
}

}  // namespace bitrung::train
