#include "worker/train/sgd.h"

#include <gtest/gtest.h>

namespace bitrung::train {
namespace {

// Two steps on one weight w = 1 with gradients 0.5 and -0.25.
double after_two_steps(const OptimizerOptions& options) {
  at::Tensor w = at::ones({1}, at::kDouble).set_requires_grad(true);
  Sgd sgd(options, {{"w", w, 1.0, std::nullopt}});
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

TEST(Sgd, LearnedTensors_HaveTheirOwnDecayAndRate) {
  for (const bool device_has_rate : {false, true}) {
    at::Tensor w = at::ones({1}, at::kDouble).set_requires_grad(true);
    at::Tensor clip = at::full({1}, 8.0, at::kDouble).set_requires_grad(true);
    Sgd sgd({0.1, 0.0, false, 0.01}, {{"w", w, 1.0, std::nullopt}, {"clip", clip, 0.5, 0.001}});
    w.mutable_grad() = at::zeros({1}, at::kDouble);
    clip.mutable_grad() = at::ones({1}, at::kDouble);
    if (device_has_rate) {
      sgd.step(at::full({}, 0.1, at::kDouble));
    } else {
      sgd.step(0.1);
    }
    EXPECT_NEAR(w.item<double>(), 1.0 - 0.1 * 0.01, 1e-15);
    EXPECT_NEAR(clip.item<double>(), 8.0 - 0.1 * 0.5 * (1.0 + 0.001 * 8.0), 1e-15);
  }
}

}  // namespace
}  // namespace bitrung::train
