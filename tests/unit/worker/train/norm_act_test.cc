#include "worker/train/nn/norm_act.h"

#include <gtest/gtest.h>

#include <limits>

namespace bitrung::train {
namespace {

// Numbers in -1 .. 1 that look random.
at::Tensor pattern(at::IntArrayRef shape, double factor, at::ScalarType type) {
  std::int64_t count = 1;
  for (const std::int64_t side : shape) {
    count *= side;
  }
  return (at::arange(count, at::kDouble) * factor).sin().reshape(shape).to(type);
}

BatchNorm make_norm(std::int64_t channels, at::ScalarType type) {
  BatchNorm norm;
  norm.weight = (pattern({channels}, 3.3, type) * 0.5 + 1.0).set_requires_grad(true);
  norm.bias = (pattern({channels}, 1.9, type) * 0.3 + 0.2).set_requires_grad(true);
  norm.running_mean = pattern({channels}, 0.7, type) * 0.1;
  norm.running_var = pattern({channels}, 0.3, type) * 0.1 + 1.0;
  norm.num_batches_tracked = at::zeros({}, at::kLong);
  return norm;
}

struct Pass {
  at::Tensor y;
  at::Tensor dx;
  BatchNorm norm;
};

// Forward, and with `training` backward, at a precision and by one of the two paths.
Pass run(int bits, std::int64_t channels, at::ScalarType type, bool training, bool reference) {
  Pass pass;
  pass.norm = make_norm(channels, type);
  const auto quantizer = quantization_method("dorefa").make_activations(bits);
  at::Tensor x = (pattern({3, channels, 24, 40}, 12.9898, at::kDouble) * 2.0 + 5.0)
                     .to(type)
                     .contiguous(at::MemoryFormat::ChannelsLast)
                     .set_requires_grad(training);
  const at::Tensor dy = pattern({3, channels, 24, 40}, 78.233, at::kDouble).to(type);
  const at::AutoGradMode mode(training);
  pass.y = reference ? norm_relu_quantize_reference(x, pass.norm, *quantizer, training)
                     : norm_relu_quantize(x, pass.norm, *quantizer, training);
  if (training) {
    (pass.y * dy).sum().backward();
    pass.dx = x.grad();
  }
  pass.y = pass.y.detach();
  return pass;
}

double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor difference = found.to(at::kDouble) - expected.to(at::kDouble);
  return (difference.norm() / expected.to(at::kDouble).norm().clamp_min(1e-30)).item<double>();
}

TEST(NormRelu, FullPrecision_AgreesWithDoubles) {
  for (const std::int64_t channels : {16, 32, 64}) {
    const Pass fast = run(32, channels, at::kFloat, true, false);
    const Pass slow = run(32, channels, at::kDouble, true, true);
    EXPECT_LT(relative_error(fast.y, slow.y), 1e-6);
    EXPECT_LT(relative_error(fast.dx, slow.dx), 3e-5);
    EXPECT_LT(relative_error(fast.norm.weight.grad(), slow.norm.weight.grad()), 1e-5);
    EXPECT_LT(relative_error(fast.norm.bias.grad(), slow.norm.bias.grad()), 1e-5);
    EXPECT_LT(relative_error(fast.norm.running_mean, slow.norm.running_mean), 1e-6);
    EXPECT_LT(relative_error(fast.norm.running_var, slow.norm.running_var), 1e-6);
    EXPECT_EQ(fast.norm.num_batches_tracked.item<int>(), 1);
    EXPECT_TRUE(fast.y.is_contiguous(at::MemoryFormat::ChannelsLast));
  }
}

TEST(NormReluQuantize, FewBits_AgreeWithDoublesButForValuesAtAnEdge) {
  for (const int bits : {1, 2, 3, 4, 8}) {
    const Pass fast = run(bits, 32, at::kFloat, true, false);
    const Pass slow = run(bits, 32, at::kDouble, true, true);
    const double differing =
        ((fast.y.to(at::kDouble) - slow.y).abs() > 1e-6).to(at::kDouble).mean().item<double>();
    EXPECT_LT(differing, 1e-4) << bits;
    EXPECT_LT(relative_error(fast.dx, slow.dx), 2e-2) << bits;
    EXPECT_LT(relative_error(fast.norm.weight.grad(), slow.norm.weight.grad()), 1e-3) << bits;
  }
}

TEST(NormReluQuantize, Levels_AreTheVeryFloatsOfTheSlowPath) {
  for (const int bits : {1, 2, 4, 8, 16}) {
    const at::Tensor fast = run(bits, 16, at::kFloat, true, false).y;
    const double n = std::pow(2.0, bits) - 1.0;
    // Each value is the float nearest to level / n, as (level / n) is in the slow path.
    const at::Tensor levels = (fast * n).round();
    EXPECT_TRUE(at::equal(levels / n, fast)) << bits;
  }
}

TEST(NormReluQuantize, Evaluation_UsesTheRunningStatisticsAndLeavesThem) {
  for (const int bits : {1, 4, 32}) {
    const Pass fast = run(bits, 64, at::kFloat, false, false);
    const Pass slow = run(bits, 64, at::kFloat, false, true);
    const double differing = ((fast.y - slow.y).abs() > 1e-5).to(at::kDouble).mean().item<double>();
    EXPECT_LT(differing, 1e-3) << bits;
    EXPECT_TRUE(at::equal(fast.norm.running_mean, make_norm(64, at::kFloat).running_mean));
    EXPECT_EQ(fast.norm.num_batches_tracked.item<int>(), 0);
  }
}

TEST(NormReluQuantize, NumberOfThreads_DoesNotMatter) {
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Pass one = run(4, 16, at::kFloat, true, false);
  at::set_num_threads(3);
  const Pass three = run(4, 16, at::kFloat, true, false);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(one.y, three.y));
  EXPECT_TRUE(at::equal(one.dx, three.dx));
  EXPECT_TRUE(at::equal(one.norm.weight.grad(), three.norm.weight.grad()));
}

TEST(NormReluQuantize, NotANumber_IsNotHidden) {
  BatchNorm norm = make_norm(16, at::kFloat);
  const at::NoGradGuard no_grad;
  at::Tensor x = at::zeros({1, 16, 4, 4}).contiguous(at::MemoryFormat::ChannelsLast);
  x[0][3][2][1] = std::numeric_limits<float>::quiet_NaN();
  for (const int bits : {1, 4, 32}) {
    const auto quantizer = quantization_method("dorefa").make_activations(bits);
    EXPECT_TRUE(at::isnan(norm_relu_quantize(x, norm, *quantizer, false)).any().item<bool>())
        << bits;
  }
}

}  // namespace
}  // namespace bitrung::train
