#include "worker/train/device_step.h"

#include <utility>

#include "db/base/check.h"

namespace bitrung::train {

DeviceStep::DeviceStep(const ImageSet& set, const at::Device& device, std::int64_t batch_size,
                       std::string why_not_recorded)
    : device_(device),
      images_(set, device),
      picks_(at::zeros({batch_size, DeviceImages::kPickColumns},
                       at::TensorOptions().dtype(at::kLong).device(device))),
      rate_(at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(device))),
      why_not_recorded_(std::move(why_not_recorded)) {
  if (!why_not_recorded_.empty()) {
    return;
  }
  if (StepGraph::is_available(device)) {
    graph_.emplace(device);
  } else {
    why_not_recorded_ = "this build records nothing for " + device.str();
  }
}

void DeviceStep::forget() {
  steps_ = 0;
  recorded_ = {};
  if (graph_) {
    graph_->forget();
  }
}

// A new one for each step: the last may still be on its way to the device. The allocator of such
// memory keeps it until then, and hands it out again after.
at::Tensor DeviceStep::host_picks() const {
  return at::empty({picks_.size(0), DeviceImages::kPickColumns},
                   at::TensorOptions().dtype(at::kLong).pinned_memory(device_.is_cuda()));
}

StepValues DeviceStep::launch(const Work& work) const {
  return work(images_.images(picks_), images_.labels(picks_), rate_);
}

StepValues DeviceStep::run(const at::Tensor& picks, double rate, const Work& work) {
  BITRUNG_CHECK(picks.size(0) == picks_.size(0));
  picks_.copy_(picks, /*non_blocking=*/true);
  rate_.fill_(rate);
  if (!graph_ || steps_ < kFirstSteps) {
    ++steps_;
    return launch(work);
  }
  if (!graph_->is_recorded()) {
    try {
      graph_->record([&] { recorded_ = launch(work); });
    } catch (const c10::Error& error) {
      why_not_recorded_ = error.what_without_backtrace();
      recorded_ = {};
      graph_.reset();
      return launch(work);
    }
  }
  graph_->launch();
  const auto copy = [](const at::Tensor& value) {
    return value.defined() ? value.clone() : at::Tensor();
  };
  return {copy(recorded_.loss), copy(recorded_.distillation), copy(recorded_.correct)};
}

}  // namespace bitrung::train
