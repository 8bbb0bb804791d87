// Loss of one batch, alone or with a teacher.
#pragma once

#include <optional>

#include "worker/train/spec.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

struct Loss {
  at::Tensor total;         // (), differentiable with respect to the logits.
  at::Tensor distillation;  // (), T^2 KL without its weight; undefined without a teacher.
};

// (1 - weight) CE(labels, logits) + weight T^2 KL(softmax(teacher / T) || softmax(logits / T)),
// both averaged over the batch (Hinton et al. 2015, arXiv 1503.02531, section 2; the mean is over
// the images and not over images x classes). logits and teacher_logits are (N,classes), labels (N)
// int64. Without a teacher: plain CE.
Loss batch_loss(const at::Tensor& logits, const at::Tensor& labels,
                const std::optional<Distillation>& distill, const at::Tensor& teacher_logits);

}  // namespace bitrung::train
