// Networks over sets of images, without training them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "worker/train/data/dataset.h"
#include "worker/train/data/host_batch.h"
#include "worker/train/job.h"
#include "worker/train/nn/network.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

inline constexpr std::int64_t kEvaluationBatch = 250;

struct EvaluationHooks {
  // Asked between batches; anything but kNone ends the evaluation.
  std::function<StopRequest()> stop_requested;
  // logits: (N,classes), labels: (N) int64; both on the device.
  std::function<void(const at::Tensor& logits, const at::Tensor& labels)> on_batch;
};

// Every image once, in order, without gradients. `batch` has room for kEvaluationBatch.
StopRequest evaluate_images(Network& network, const ImageSet& set,
                            std::span<const std::uint32_t> indices, const at::Device& device,
                            HostBatch& batch, const EvaluationHooks& hooks);

}  // namespace bitrung::train
