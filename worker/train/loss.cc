#include "worker/train/loss.h"

#include "db/base/check.h"

namespace bitrung::train {

Loss batch_loss(const at::Tensor& logits, const at::Tensor& labels,
                const std::optional<Distillation>& distill, const at::Tensor& teacher_logits) {
  BITRUNG_CHECK(distill.has_value() == teacher_logits.defined());
  const at::Tensor cross_entropy = at::cross_entropy_loss(logits, labels);
  if (!distill) {
    return {cross_entropy, {}};
  }
  const double temperature = distill->temperature;
  const at::Tensor student = at::log_softmax(logits / temperature, 1);          // (N,classes)
  const at::Tensor teacher = at::log_softmax(teacher_logits / temperature, 1);  // (N,classes)
  const at::Tensor divergence =
      at::kl_div(student, teacher, at::Reduction::Sum, /*log_target=*/true) /
      static_cast<double>(logits.size(0));
  const at::Tensor distillation = divergence * (temperature * temperature);
  return {cross_entropy * (1.0 - distill->weight) + distillation * distill->weight,
          distillation.detach()};
}

}  // namespace bitrung::train
