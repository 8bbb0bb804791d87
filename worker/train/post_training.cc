#include "worker/train/post_training.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "worker/train/checkpoint.h"
#include "worker/train/data/host_batch.h"
#include "worker/train/evaluate.h"
#include "worker/train/failure.h"
#include "worker/train/final_report.h"
#include "worker/train/nn/network.h"
#include "worker/train/quant/clipping.h"

namespace bitrung::train {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// What both kinds of jobs need.
class PostTraining {
 public:
  PostTraining(const Job& job, const at::Device& device, std::shared_ptr<const Dataset> dataset,
               Observer& observer)
      : job_(job),
        spec_(job.spec),
        device_(device),
        dataset_(std::move(dataset)),
        observer_(observer),
        split_(
            split_training_images(dataset_->training.size(), spec_.train_images, spec_.validation)),
        evaluation_batch_(kEvaluationBatch),
        start_(Clock::now()) {
    if (!job.source) {
      fail_user_error("the spec's kind needs a checkpoint, and the command names no source file");
    }
    what_ = "source " + job.source->string();
    file_ = read_checkpoint(*job.source, what_);
  }

  // `steps` of the calibration, 0 for an evaluation.
  void begin(std::int64_t steps) {
    steps_ = steps;
    observer_.started(0, 0, steps);
    report_progress();
  }

  // The network that the source holds. An outside file that does not say what it is holds the
  // spec's network without quantization.
  std::unique_ptr<Network> load_source() {
    const int classes = class_count(spec_.dataset);
    const auto said = checkpoint_network(file_, what_, classes);
    std::unique_ptr<Network> network =
        make_network({said ? *said : unquantized(), classes}, 0, tensors());
    load_network(file_, what_, LoadRule::kExact, *network);
    return network;
  }

  std::unique_ptr<Network> make(const NetworkChoice& choice) {
    std::unique_ptr<Network> network =
        make_network({choice, class_count(spec_.dataset)}, 0, tensors());
    load_network(file_, what_, LoadRule::kWeightsOnly, *network);
    return network;
  }

  // The spec's network at 32 bits.
  NetworkChoice unquantized() const {
    NetworkChoice result = spec_.network;
    result.bits = Bits{};
    return result;
  }

  StopRequest stop_requested() {
    report_progress();
    return observer_.stop_requested();
  }

  // The first `batches` of the training images in the order of the seed's first epoch. Calls
  // on_batch(images); stops early on request.
  template <typename OnBatch>
  StopRequest for_training_batches(std::int64_t batches, std::int64_t batch_size,
                                   const OnBatch& on_batch) {
    const std::vector<std::uint32_t> order = epoch_order(split_.training, spec_.seed, 0);
    const auto images = static_cast<std::int64_t>(order.size());
    const std::int64_t size = std::min(batch_size, images);
    HostBatch batch(size);
    for (std::int64_t i = 0; i < batches && (i + 1) * size <= images; ++i) {
      batch.fill(dataset_->training,
                 std::span(order).subspan(static_cast<std::size_t>(i * size),
                                          static_cast<std::size_t>(size)),
                 [](std::int64_t) { return Placement{}; });
      on_batch(batch.images(size).to(device_));
      ++steps_done_;
      images_done_ += size;
      if (const StopRequest stop = stop_requested(); stop != StopRequest::kNone) {
        return stop;
      }
    }
    return StopRequest::kNone;
  }

  // Nothing of such a job is worth keeping.
  static Outcome stopped(StopRequest stop) {
    return {stop == StopRequest::kCancel ? Ending::kCancelled : Ending::kPreempted,
            {},
            0,
            std::nullopt,
            {}};
  }

  // The network as it will be measured.
  Outcome finish(Network& network, const fs::path& checkpoint) {
    std::string reason;
    if (device_.is_cpu()) {
      if (reason = network.fuse(); !reason.empty()) {
        observer_.log("the network is computed by LibTorch's operations, since " + reason);
      }
    }
    const std::optional<FinalReport> measured =
        final_report(network, reason, *dataset_, split_, device_, evaluation_batch_,
                     [this] { return stop_requested(); });
    if (!measured) {
      return stopped(StopRequest::kCancel);
    }
    if (!std::isfinite(measured->test_loss)) {
      throw Failure(FailureClass::kDiverged,
                    "the test loss is " + std::to_string(measured->test_loss));
    }
    TrainingResult result{};
    result.test_accuracy = measured->test_accuracy;
    result.validation_accuracy = measured->validation_accuracy;
    result.test_loss = measured->test_loss;
    result.best_epoch = 0;
    result.duration_seconds = seconds();
    result.images_per_second =
        static_cast<double>(images_done_ + measured->images) / std::max(seconds(), 1e-9);
    const std::vector<Point> points = {{"test_accuracy", steps_done_, measured->test_accuracy},
                                       {"test_loss", steps_done_, measured->test_loss}};
    observer_.points(points);
    return {Ending::kSucceeded, checkpoint, 0, result, measured->json};
  }

  const Spec& spec() const { return spec_; }
  const Job& job() const { return job_; }

 private:
  at::TensorOptions tensors() const {
    return at::TensorOptions().dtype(at::kFloat).device(device_);
  }

  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  void report_progress() {
    observer_.progress({0, 0, steps_done_, steps_, 0.0, std::nullopt, std::nullopt});
  }

  const Job& job_;
  const Spec& spec_;
  const at::Device device_;
  const std::shared_ptr<const Dataset> dataset_;
  Observer& observer_;
  const Split split_;
  HostBatch evaluation_batch_;
  const Clock::time_point start_;
  std::string what_;
  SafetensorsFile file_;
  std::int64_t steps_ = 0;
  std::int64_t steps_done_ = 0;
  std::int64_t images_done_ = 0;
};

ClippingRule rule_of(const Calibration& calibration) {
  switch (calibration.clip) {
    case Clipping::kMinMax:
      return {ClippingKind::kMinMax, 0.0};
    case Clipping::kAverage:
      return {ClippingKind::kAverage, 0.0};
    case Clipping::kDeviations:
      return {ClippingKind::kDeviations, calibration.deviations};
    case Clipping::kPercentile:
      return {ClippingKind::kPercentile, calibration.percentile};
    case Clipping::kAciqGauss:
      return {ClippingKind::kAciqGauss, 0.0};
    case Clipping::kAciqLaplace:
      return {ClippingKind::kAciqLaplace, 0.0};
  }
  fail_user_error("the spec's calibration.clip is unknown");
}

// Collects the ranges of what the layers compute with.
class RangeProbe : public Probe {
 public:
  explicit RangeProbe(const ClippingRule& rule) : rule_(rule) {}

  void activation(const Layer& layer, const at::Tensor& real, const at::Tensor&) override {
    ranges_.try_emplace(layer.plan.name, rule_).first->second.add(real);
  }

  const ClippingAccumulator& of(const std::string& layer) const { return ranges_.at(layer); }

 private:
  ClippingRule rule_;
  std::map<std::string, ClippingAccumulator> ranges_;
};

// Mean of the batches' statistics under the quantized weights and activations.
StopRequest reestimate_norms(Network& network, PostTraining& work, const Calibration& calibration) {
  // A batch leaves this share of its statistics in running ones that were zero (norm_act.h).
  constexpr double kShare = 0.1;
  std::vector<at::Tensor> means;
  std::vector<at::Tensor> variances;
  for (BatchNorm* const norm : network.norms()) {
    means.push_back(at::zeros_like(norm->running_mean));
    variances.push_back(at::zeros_like(norm->running_var));
  }
  Pass pass = kEvaluationPass;
  pass.estimates_norms = true;
  std::int64_t batches = 0;
  const StopRequest stop = work.for_training_batches(
      calibration.norm_batches, calibration.batch_size, [&](const at::Tensor& images) {
        for (BatchNorm* const norm : network.norms()) {
          norm->running_mean.zero_();
          norm->running_var.zero_();
        }
        network.forward(images, pass);
        for (std::size_t i = 0; i < means.size(); ++i) {
          means[i].add_(network.norms()[i]->running_mean, 1.0 / kShare);
          variances[i].add_(network.norms()[i]->running_var, 1.0 / kShare);
        }
        ++batches;
      });
  for (std::size_t i = 0; i < means.size(); ++i) {
    network.norms()[i]->running_mean.copy_(means[i] / static_cast<double>(batches));
    network.norms()[i]->running_var.copy_(variances[i] / static_cast<double>(batches));
  }
  return stop;
}

}  // namespace

Outcome run_quantization(const Job& job, const at::Device& device,
                         std::shared_ptr<const Dataset> dataset, Observer& observer) {
  PostTraining work(job, device, std::move(dataset), observer);
  const Calibration& calibration = job.spec.calibration;
  work.begin(calibration.batches + calibration.norm_batches);
  const at::NoGradGuard no_grad;

  RangeProbe probe(rule_of(calibration));
  const std::unique_ptr<Network> real = work.make(work.unquantized());
  StopRequest stop = work.for_training_batches(
      calibration.batches, calibration.batch_size, [&](const at::Tensor& images) {
        real->forward(images, kEvaluationPass, Taps{nullptr, &probe});
      });
  if (stop != StopRequest::kNone) {
    return PostTraining::stopped(stop);
  }

  const std::unique_ptr<Network> network = work.make(job.spec.network);
  for (const std::unique_ptr<Layer>& layer : network->layers()) {
    if (layer->input != nullptr) {
      const auto [low, high] = probe.of(layer->plan.name).range(layer->bits.activations);
      layer->input->set_range(low, high);
    }
  }
  if (calibration.norm_batches > 0) {
    stop = reestimate_norms(*network, work, calibration);
    if (stop != StopRequest::kNone) {
      return PostTraining::stopped(stop);
    }
  }
  const fs::path path = job.work_dir / "model.safetensors";
  write_safetensors(path, make_checkpoint(network->state(), job.spec, 0));
  return work.finish(*network, path);
}

Outcome run_evaluation(const Job& job, const at::Device& device,
                       std::shared_ptr<const Dataset> dataset, Observer& observer) {
  PostTraining work(job, device, std::move(dataset), observer);
  work.begin(0);
  const std::unique_ptr<Network> network = work.load_source();
  const fs::path path = job.work_dir / "model.safetensors";
  fs::copy_file(*job.source, path, fs::copy_options::overwrite_existing);
  return work.finish(*network, path);
}

}  // namespace bitrung::train
