#include "worker/train/loss.h"

#include <gtest/gtest.h>

#include <cmath>

#include "worker/train/sgd.h"

namespace bitrung::train {
namespace {

using Rows = std::vector<std::vector<double>>;

const Rows kLogits = {{0.3, -1.2, 2.0}, {1.0, 0.0, -0.5}};
const Rows kTeacher = {{1.0, 0.5, -2.0}, {3.0, -1.0, 0.0}};
const std::vector<std::int64_t> kLabels = {2, 0};

at::Tensor tensor_of(const Rows& rows) {
  at::Tensor result = at::empty({2, 3}, at::kDouble);
  for (std::int64_t i = 0; i < 2; ++i) {
    for (std::int64_t j = 0; j < 3; ++j) {
      result[i][j] = rows[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)];
    }
  }
  return result;
}

std::vector<double> softmax(const std::vector<double>& row, double temperature) {
  double sum = 0.0;
  std::vector<double> result;
  for (const double value : row) {
    result.push_back(std::exp(value / temperature));
    sum += result.back();
  }
  for (double& value : result) {
    value /= sum;
  }
  return result;
}

TEST(Loss, WithoutATeacher_IsTheCrossEntropy) {
  const Loss loss = batch_loss(tensor_of(kLogits), at::tensor(kLabels), std::nullopt, {});
  const double expected =
      -(std::log(softmax(kLogits[0], 1)[2]) + std::log(softmax(kLogits[1], 1)[0])) / 2;
  EXPECT_NEAR(loss.total.item<double>(), expected, 1e-12);
  EXPECT_FALSE(loss.distillation.defined());
}

TEST(Loss, WithATeacher_IsTheClosedForm) {
  const double temperature = 5.0;
  const double weight = 0.3;
  at::Tensor logits = tensor_of(kLogits).set_requires_grad(true);
  const Loss loss = batch_loss(logits, at::tensor(kLabels), Distillation{temperature, weight},
                               tensor_of(kTeacher));
  loss.total.backward();

  double cross_entropy = 0.0;
  double divergence = 0.0;
  for (std::size_t i = 0; i < 2; ++i) {
    const auto hard = softmax(kLogits[i], 1.0);
    const auto student = softmax(kLogits[i], temperature);
    const auto teacher = softmax(kTeacher[i], temperature);
    const auto label = static_cast<std::size_t>(kLabels[i]);
    cross_entropy -= std::log(hard[label]) / 2;
    for (std::size_t j = 0; j < 3; ++j) {
      divergence += teacher[j] * std::log(teacher[j] / student[j]) / 2;
      const double expected = ((1 - weight) * (hard[j] - (j == label ? 1.0 : 0.0)) +
                               weight * temperature * (student[j] - teacher[j])) /
                              2;
      EXPECT_NEAR(
          logits.grad()[static_cast<std::int64_t>(i)][static_cast<std::int64_t>(j)].item<double>(),
          expected, 1e-12);
    }
  }
  EXPECT_NEAR(loss.distillation.item<double>(), temperature * temperature * divergence, 1e-12);
  EXPECT_NEAR(loss.total.item<double>(),
              (1 - weight) * cross_entropy + weight * temperature * temperature * divergence,
              1e-12);
}

// Two steps on one weight w = 1 with gradients 0.5 and -0.25.
double after_two_steps(const OptimizerOptions& options) {
  at::Tensor w = at::ones({1}, at::kDouble).set_requires_grad(true);
  Sgd sgd(options, {{"w", w}});
  for (const double gradient : {0.5, -0.25}) {
    w.mutable_grad() = at::full({1}, gradient, at::kDouble);
    sgd.step(options.learning_rate);
    EXPECT_FALSE(w.grad().defined());
  }
  return w.item<double>();
}

TEST(Sgd, Steps_AreThoseOfTorchOptim) {
  // Plain: 1 - 0.1 * 0.5 + 0.1 * 0.25.
  EXPECT_NEAR(after_two_steps({0.1, 0.0, false, 0.0}), 0.975, 1e-15);
  // Momentum 0.9: m = 0.5, then 0.9 * 0.5 - 0.25 = 0.2.
  EXPECT_NEAR(after_two_steps({0.1, 0.9, false, 0.0}), 1.0 - 0.05 - 0.02, 1e-15);
  // Nesterov: 0.5 + 0.9 * 0.5 = 0.95, then -0.25 + 0.9 * 0.2 = -0.07.
  EXPECT_NEAR(after_two_steps({0.1, 0.9, true, 0.0}), 1.0 - 0.095 + 0.007, 1e-15);
  // Decay 0.01: g = 0.51, w = 0.949; g = -0.25 + 0.00949 = -0.24051, m = 0.9 * 0.51 - 0.24051 =
  // 0.21849.
  EXPECT_NEAR(after_two_steps({0.1, 0.9, false, 0.01}), 0.949 - 0.021849, 1e-15);
}

}  // namespace
}  // namespace bitrung::train
