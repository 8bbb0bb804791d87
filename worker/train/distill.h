// What a student learns from its teachers.
//
// Belongs to the thread that trains. The hint's regressors are learned with the student and kept in
// resume states, but are no part of the network.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "worker/train/nn/network.h"
#include "worker/train/spec.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

// The distillation's changing values in one epoch.
struct DistillationNow {
  bool is_on = false;  // Not in the self-study.
  double temperature = 1.0;
  double weight = 0.0;
  bool operator==(const DistillationNow&) const = default;
};

// Epoch e of n, from 0; the first floor(self_study n) epochs are without a teacher. With f the
// share of the remaining epochs that are done, (e - first) / max(1, n - first - 1), a value goes
// from start to end as start + (end - start) f (linear) or start + (end - start) (1 - cos(pi f)) /
// 2 (cosine); constant is the start.
DistillationNow distillation_at(const Distillation& distill, std::int64_t epoch,
                                std::int64_t epochs);

// The softened classes of several teachers: the mean of softmax(logits / T). Each (N,classes).
at::Tensor mean_probabilities(std::span<const at::Tensor> logits, double temperature);

// T^2 KL(p || softmax(logits / T)), averaged over the batch (Hinton et al. 2015, arXiv 1503.02531,
// section 2; the mean is over the images and not over images x classes). p: (N,classes), of the
// teachers, at T.
at::Tensor kd_loss(const at::Tensor& logits, const at::Tensor& p, double temperature);

// T^2 (alpha TCKD + beta NCKD), averaged over the batch (Zhao et al. 2022, arXiv 2203.08679, eq. 6
// and 7): TCKD is the divergence of (target, all others), NCKD that among the others.
at::Tensor dkd_loss(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& p,
                    double temperature, double alpha, double beta);

// Mean squared difference of the attention maps, each the channels' mean square, flattened and
// scaled to length 1 (Zagoruyko and Komodakis 2016, arXiv 1612.03928, with p = 2). student and
// teacher: (N,C,H,W) with any C; maps of different sizes are averaged down to the smaller one.
at::Tensor attention_loss(const at::Tensor& student, const at::Tensor& teacher);

// |G_t - G_s|^2 / N^2 (Frobenius), G the row-normalised Gram matrix of the flattened samples (Tung
// and Mori 2019, arXiv 1907.09682). (N,...) each.
at::Tensor similarity_loss(const at::Tensor& student, const at::Tensor& teacher);

// Mean squared difference of regressor(student) and teacher (Romero et al. 2014, arXiv 1412.6550).
// student: (N,C,H,W); regressor: (C',C,1,1); teacher: (N,C',H',W'), averaged down or the student
// is.
at::Tensor hint_loss(const at::Tensor& student, const at::Tensor& regressor,
                     const at::Tensor& teacher);

struct Loss {
  at::Tensor total;         // (), differentiable with respect to the logits and stages.
  at::Tensor distillation;  // (), what the teachers add, without its weight; undefined without one.
};

class Distiller {
 public:
  // teachers: at least one.
  Distiller(const Distillation& options, std::vector<std::unique_ptr<Network>> teachers);

  // Begins a training of this student: draws the hint's regressors.
  void begin(const Network& student, std::uint64_t seed, const at::TensorOptions& tensors);

  // What the teachers say to a batch of images (N,3,32,32).
  struct Lesson {
    std::vector<at::Tensor> logits;               // (N,classes) of each teacher.
    std::vector<std::vector<at::Tensor>> stages;  // Of each teacher; empty unless losses need them.
  };
  Lesson teach(const at::Tensor& images) const;

  // (1 - weight) CE + weight KD (or DKD) + attention AT + hint FitNets + similarity SP. The feature
  // losses compare the last stages pairwise, as many as both networks have (hint: the middle one;
  // similarity: the last), averaged over the teachers. stages: the student's.
  Loss loss(const at::Tensor& logits, const at::Tensor& labels,
            const std::vector<at::Tensor>& stages, const Lesson& lesson,
            const DistillationNow& now) const;

  bool uses_features() const { return options_.uses_features(); }
  // As Network::depends_on_threads(), of the teachers and what is computed from their features.
  bool depends_on_threads() const;
  std::span<const std::unique_ptr<Network>> teachers() const { return teachers_; }
  // Learned beside the student.
  const std::vector<LearnedTensor>& parameters() const { return regressors_; }

 private:
  Distillation options_;
  std::vector<std::unique_ptr<Network>> teachers_;
  std::vector<LearnedTensor> regressors_;  // One for each teacher, with a hint.
};

}  // namespace bitrung::train
