#include "worker/train/distill.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "db/base/check.h"
#include "worker/train/random.h"

namespace bitrung::train {

namespace {

// Keeps logarithms and divisions finite where a probability is 0.
constexpr double kTiny = 1e-12;

double ramped(Ramp ramp, double start, double end, double share) {
  switch (ramp) {
    case Ramp::kConstant:
      return start;
    case Ramp::kLinear:
      return start + (end - start) * share;
    case Ramp::kCosine:
      return start + (end - start) * (1.0 - std::cos(std::numbers::pi * share)) / 2.0;
  }
  BITRUNG_CHECK(!"a ramp without a rule");
}

// (N,C,H,W) averaged down to side x side.
at::Tensor shrunk(const at::Tensor& x, std::int64_t side) {
  return x.size(2) == side ? x : at::adaptive_avg_pool2d(x, {side, side});
}

std::int64_t common_side(const at::Tensor& a, const at::Tensor& b) {
  return std::min(a.size(2), b.size(2));
}

// Channels of the stage that a hint compares: the middle one.
std::size_t hint_stage(std::size_t stages) {
  return stages / 2;
}

// Shapes of the stages' outputs, by one image.
std::vector<at::Tensor> stages_of(Network& network, const at::TensorOptions& tensors) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> stages;
  network.forward(at::zeros({1, 3, 32, 32}, tensors), kEvaluationPass, Taps{&stages, nullptr});
  return stages;
}

}  // namespace

DistillationNow distillation_at(const Distillation& distill, std::int64_t epoch,
                                std::int64_t epochs) {
  const auto first =
      static_cast<std::int64_t>(std::floor(distill.self_study * static_cast<double>(epochs)));
  if (epoch < first) {
    return {};
  }
  const double share = static_cast<double>(epoch - first) /
                       static_cast<double>(std::max<std::int64_t>(1, epochs - first - 1));
  return {true, ramped(distill.ramp, distill.temperature, distill.temperature_end, share),
          ramped(distill.ramp, distill.weight, distill.weight_end, share)};
}

at::Tensor mean_probabilities(std::span<const at::Tensor> logits, double temperature) {
  at::Tensor sum;
  for (const at::Tensor& z : logits) {
    const at::Tensor p = at::softmax(z / temperature, 1);
    sum = sum.defined() ? sum + p : p;
  }
  return sum / static_cast<double>(logits.size());
}

at::Tensor kd_loss(const at::Tensor& logits, const at::Tensor& p, double temperature) {
  const at::Tensor student = at::log_softmax(logits / temperature, 1);
  return at::kl_div(student, p, at::Reduction::Sum) *
         (temperature * temperature / static_cast<double>(logits.size(0)));
}

at::Tensor dkd_loss(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& p,
                    double temperature, double alpha, double beta) {
  const at::Tensor column = labels.unsqueeze(1);  // (N,1)
  const at::Tensor others = at::ones_like(p).scatter(1, column, 0.0);
  const at::Tensor log_q = at::log_softmax(logits / temperature, 1);
  const at::Tensor q_target = log_q.gather(1, column).exp();                  // (N,1)
  const at::Tensor q_rest = (log_q.exp() * others).sum(1, /*keepdim=*/true);  // 1 - q_target
  const at::Tensor p_target = p.gather(1, column);
  const at::Tensor p_rest = (p * others).sum(1, /*keepdim=*/true);
  const at::Tensor tckd = p_target * ((p_target + kTiny).log() - (q_target + kTiny).log()) +
                          p_rest * ((p_rest + kTiny).log() - (q_rest + kTiny).log());
  // Among the other classes: the target's logit is out of the softmax.
  const at::Tensor log_q_others =
      at::log_softmax((logits / temperature).masked_fill(others.eq(0), -1e9), 1);
  const at::Tensor p_others = p * others / (p_rest + kTiny);
  const at::Tensor nckd = p_others * ((p_others + kTiny).log() - log_q_others) * others;
  return (tckd.sum() * alpha + nckd.sum() * beta) *
         (temperature * temperature / static_cast<double>(logits.size(0)));
}

at::Tensor attention_loss(const at::Tensor& student, const at::Tensor& teacher) {
  const std::int64_t side = common_side(student, teacher);
  const auto map = [side](const at::Tensor& x) {
    const at::Tensor flat = shrunk(x.square().mean(1, /*keepdim=*/true), side).flatten(1);
    return flat / flat.norm(2, {1}, /*keepdim=*/true).clamp_min(kTiny);
  };
  return (map(student) - map(teacher)).square().mean();
}

at::Tensor similarity_loss(const at::Tensor& student, const at::Tensor& teacher) {
  const auto gram = [](const at::Tensor& x) {
    const at::Tensor flat = x.flatten(1);
    const at::Tensor products = flat.mm(flat.t());  // (N,N)
    return products / products.norm(2, {1}, /*keepdim=*/true).clamp_min(kTiny);
  };
  const auto n = static_cast<double>(student.size(0));
  return (gram(teacher) - gram(student)).square().sum() / (n * n);
}

at::Tensor hint_loss(const at::Tensor& student, const at::Tensor& regressor,
                     const at::Tensor& teacher) {
  const std::int64_t side = common_side(student, teacher);
  return (at::conv2d(shrunk(student, side), regressor) - shrunk(teacher, side)).square().mean();
}

Distiller::Distiller(const Distillation& options, std::vector<std::unique_ptr<Network>> teachers)
    : options_(options), teachers_(std::move(teachers)) {
  BITRUNG_CHECK(!teachers_.empty());
}

void Distiller::begin(const Network& student, std::uint64_t seed,
                      const at::TensorOptions& tensors) {
  regressors_.clear();
  if (options_.hint <= 0.0) {
    return;
  }
  // A network of the student's kind tells the shapes; its own statistics must not be touched.
  const std::unique_ptr<Network> twin = make_network(
      {{student.shape().choice.model, false, Bits{}, Method{}}, student.shape().classes}, 0,
      tensors);
  const std::vector<at::Tensor> own = stages_of(*twin, tensors);
  for (std::size_t i = 0; i < teachers_.size(); ++i) {
    const std::vector<at::Tensor> theirs = stages_of(*teachers_[i], tensors);
    const std::int64_t in = own[hint_stage(own.size())].size(1);
    const std::int64_t out = theirs[hint_stage(theirs.size())].size(1);
    const std::string name = "hint" + std::to_string(i) + ".weight";
    RandomStream random(Purpose::kInitialWeights, {seed, hash_of(name)});
    at::Tensor weight = at::empty({out, in, 1, 1}, at::kDouble);
    const double bound = 1.0 / std::sqrt(static_cast<double>(in));
    for (std::int64_t j = 0; j < weight.numel(); ++j) {
      weight.data_ptr<double>()[j] = bound * (2.0 * random.uniform() - 1.0);
    }
    regressors_.push_back({name, weight.to(tensors).set_requires_grad(true), 1.0, std::nullopt});
  }
}

bool Distiller::depends_on_threads() const {
  return uses_features() || std::ranges::any_of(teachers_, [](const auto& teacher) {
           return teacher->depends_on_threads();
         });
}

Distiller::Lesson Distiller::teach(const at::Tensor& images) const {
  const at::NoGradGuard no_grad;
  Lesson lesson;
  for (const std::unique_ptr<Network>& teacher : teachers_) {
    Taps taps;
    if (uses_features()) {
      taps.stages = &lesson.stages.emplace_back();
    }
    lesson.logits.push_back(teacher->forward(images, kEvaluationPass, taps));
  }
  return lesson;
}

Loss Distiller::loss(const at::Tensor& logits, const at::Tensor& labels,
                     const std::vector<at::Tensor>& stages, const Lesson& lesson,
                     const DistillationNow& now) const {
  const at::Tensor p = mean_probabilities(lesson.logits, now.temperature);
  const at::Tensor main =
      options_.kind == DistillKind::kDkd
          ? dkd_loss(logits, labels, p, now.temperature, options_.alpha, options_.beta)
          : kd_loss(logits, p, now.temperature);
  at::Tensor total =
      at::cross_entropy_loss(logits, labels) * (1.0 - now.weight) + main * now.weight;
  at::Tensor sum = main.detach();
  const double share = 1.0 / static_cast<double>(teachers_.size());
  const auto add = [&](const at::Tensor& loss, double weight) {
    total = total + loss * (weight * share);
    sum = sum + loss.detach() * (weight * share);
  };
  for (std::size_t i = 0; i < lesson.stages.size(); ++i) {
    const std::vector<at::Tensor>& theirs = lesson.stages[i];
    if (options_.attention > 0.0) {
      const std::size_t pairs = std::min(stages.size(), theirs.size());
      for (std::size_t back = 1; back <= pairs; ++back) {
        add(attention_loss(stages[stages.size() - back], theirs[theirs.size() - back]),
            options_.attention / static_cast<double>(pairs));
      }
    }
    if (options_.hint > 0.0) {
      add(hint_loss(stages[hint_stage(stages.size())], regressors_[i].tensor,
                    theirs[hint_stage(theirs.size())]),
          options_.hint);
    }
    if (options_.similarity > 0.0) {
      add(similarity_loss(stages.back(), theirs.back()), options_.similarity);
    }
  }
  return {total, sum};
}

}  // namespace bitrung::train
