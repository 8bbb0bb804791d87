#include "worker/train/evaluate.h"

#include <algorithm>

namespace bitrung::train {

StopRequest evaluate_images(Network& network, const ImageSet& set,
                            std::span<const std::uint32_t> indices, const at::Device& device,
                            HostBatch& batch, const EvaluationHooks& hooks) {
  const at::NoGradGuard no_grad;
  const auto count = static_cast<std::int64_t>(indices.size());
  for (std::int64_t first = 0; first < count; first += kEvaluationBatch) {
    const std::int64_t size = std::min(kEvaluationBatch, count - first);
    batch.fill(set,
               indices.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(size)),
               [](std::int64_t) { return Placement{}; });
    const at::Tensor labels = batch.labels(size).to(device);
    hooks.on_batch(network.forward(batch.images(size).to(device), kEvaluationPass), labels);
    if (const StopRequest stop = hooks.stop_requested(); stop != StopRequest::kNone) {
      return stop;
    }
  }
  return StopRequest::kNone;
}

}  // namespace bitrung::train
