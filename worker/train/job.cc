#include "worker/train/job.h"

#include <new>

#include "worker/train/failure.h"
#include "worker/train/loop.h"
#include "worker/train/post_training.h"
#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

namespace {

namespace fs = std::filesystem;

at::Device parse_device(const std::string& device) {
  try {
    return at::Device(device);
  } catch (const c10::Error& error) {
    fail_user_error("device \"" + device + "\" is unknown: " + error.what_without_backtrace());
  }
}

// A wrong method is refused before any data is read.
void check_methods(const NetworkChoice& choice, int classes) {
  known_method(choice.method.weights);
  known_method(choice.method.activations);
  QuantizerSite site;
  site.options = choice.method.options;
  for (const LayerPlan& layer : layer_plans(parse_architecture(choice.model).value(), classes)) {
    const LayerBits bits = choice.bits.of(layer.name, layer.role);
    site.layer = layer.name;
    if (site.bits = bits.weights; site.bits != kFullPrecisionBits) {
      check_method(choice.method.weights, Part::kWeights, site);
    }
    if (site.bits = bits.activations; site.bits != kFullPrecisionBits) {
      check_method(choice.method.activations, Part::kActivations, site);
    }
  }
}

Outcome run(const Job& job, const at::Device& device, DatasetCache& datasets, Observer& observer) {
  check_methods(job.spec.network, class_count(job.spec.dataset));
  std::shared_ptr<const Dataset> dataset = datasets.get(
      job.spec, job.data_dir, [&observer](const std::string& text) { observer.log(text); });
  switch (job.spec.kind) {
    case Kind::kTrain:
      return run_training(job, device, std::move(dataset), datasets.cache_dir(), observer);
    case Kind::kQuantize:
      return run_quantization(job, device, std::move(dataset), observer);
    case Kind::kEvaluate:
      return run_evaluation(job, device, std::move(dataset), observer);
  }
  fail_user_error("the spec's kind is unknown");
}

}  // namespace

Outcome run_job(const Job& job, const std::string& device, DatasetCache& datasets,
                Observer& observer) {
  try {
    if (std::error_code ignored; !fs::is_directory(job.work_dir, ignored)) {
      fail_user_error("work directory " + job.work_dir.string() + " is not there");
    }
    return run(job, parse_device(device), datasets, observer);
  } catch (const std::bad_alloc&) {
    throw Failure(FailureClass::kOutOfMemory, "the host has no memory left for this training");
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    if (is_out_of_memory(error)) {
      throw Failure(FailureClass::kOutOfMemory, text);
    }
    if (is_device_fault(error)) {
      throw Failure(FailureClass::kDeviceFault, device + ": " + text);
    }
    // Neither memory nor device: the same job would fail the same way again.
    throw Failure(FailureClass::kUserError, "LibTorch refused an operation: " + text);
  }
}

}  // namespace bitrung::train
