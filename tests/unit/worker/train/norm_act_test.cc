#include "worker/train/nn/norm_act.h"

#include <gtest/gtest.h>

#include <limits>

#include "worker/train/failure.h"

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

QuantizerSite site_of(int bits) {
  QuantizerSite site;
  site.layer = "layer1.0.conv1";
  site.bits = bits;
  return site;
}

BatchNorm make_norm(std::int64_t channels, at::ScalarType type) {
  BatchNorm norm;
  norm.name = "layer1.0.bn1";
  norm.weight = (pattern({channels}, 3.3, type) * 0.5 + 1.0).set_requires_grad(true);
  norm.bias = (pattern({channels}, 1.9, type) * 0.3 + 0.2).set_requires_grad(true);
  norm.running_mean = pattern({channels}, 0.7, type) * 0.1;
  norm.running_var = pattern({channels}, 0.3, type) * 0.1 + 1.0;
  norm.num_batches_tracked = at::zeros({}, at::kLong);
  return norm;
}

struct Passed {
  at::Tensor y;
  at::Tensor dx;
  BatchNorm norm;
};

// Forward, and with `training` backward, at a precision and by one of the two paths.
Passed run(int bits, std::int64_t channels, at::ScalarType type, bool training, bool reference) {
  Passed pass;
  pass.norm = make_norm(channels, type);
  const auto quantizer = make_activation_quantizer("dorefa", site_of(bits));
  Pass where;
  where.training = training;
  at::Tensor x = (pattern({3, channels, 24, 40}, 12.9898, at::kDouble) * 2.0 + 5.0)
                     .to(type)
                     .contiguous(at::MemoryFormat::ChannelsLast)
                     .set_requires_grad(training);
  const at::Tensor dy = pattern({3, channels, 24, 40}, 78.233, at::kDouble).to(type);
  const at::AutoGradMode mode(training);
  pass.y = reference ? norm_activate_reference(x, pass.norm, *quantizer, where)
                     : norm_activate(x, pass.norm, *quantizer, where);
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
  for (const std::int64_t channels : {16, 32, 64, 128}) {
    const Passed fast = run(32, channels, at::kFloat, true, false);
    const Passed slow = run(32, channels, at::kDouble, true, true);
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
    const Passed fast = run(bits, 32, at::kFloat, true, false);
    const Passed slow = run(bits, 32, at::kDouble, true, true);
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
    const Passed fast = run(bits, 64, at::kFloat, false, false);
    const Passed slow = run(bits, 64, at::kFloat, false, true);
    const double differing = ((fast.y - slow.y).abs() > 1e-5).to(at::kDouble).mean().item<double>();
    EXPECT_LT(differing, 1e-3) << bits;
    EXPECT_TRUE(at::equal(fast.norm.running_mean, make_norm(64, at::kFloat).running_mean));
    EXPECT_EQ(fast.norm.num_batches_tracked.item<int>(), 0);
  }
}

TEST(NormReluQuantize, NumberOfThreads_DoesNotMatter) {
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Passed one = run(4, 16, at::kFloat, true, false);
  at::set_num_threads(3);
  const Passed three = run(4, 16, at::kFloat, true, false);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(one.y, three.y));
  EXPECT_TRUE(at::equal(one.dx, three.dx));
  EXPECT_TRUE(at::equal(one.norm.weight.grad(), three.norm.weight.grad()));
}

// Without a ReLU, as methods of signed activations take it.
TEST(Normalize, WithoutARelu_AgreesWithDoubles) {
  std::vector<at::Tensor> found;
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    BatchNorm norm = make_norm(32, type);
    at::Tensor x = (pattern({3, 32, 24, 40}, 12.9898, at::kDouble) * 2.0 + 5.0)
                       .to(type)
                       .contiguous(at::MemoryFormat::ChannelsLast)
                       .set_requires_grad(true);
    Pass where;
    where.training = true;
    const at::Tensor y = normalize(x, norm, /*relu=*/false, where);
    (y * pattern({3, 32, 24, 40}, 78.233, at::kDouble).to(type)).sum().backward();
    EXPECT_LT(y.min().item<double>(), -0.5);
    for (const at::Tensor& tensor : {y.detach(), x.grad(), norm.weight.grad(), norm.bias.grad()}) {
      found.push_back(tensor);
    }
  }
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_LT(relative_error(found[i], found[i + 4]), 3e-5) << i;
  }
}

TEST(NormReluQuantize, NotANumber_IsNotHidden) {
  BatchNorm norm = make_norm(16, at::kFloat);
  const at::NoGradGuard no_grad;
  at::Tensor x = at::zeros({1, 16, 4, 4}).contiguous(at::MemoryFormat::ChannelsLast);
  x[0][3][2][1] = std::numeric_limits<float>::quiet_NaN();
  for (const int bits : {1, 4, 32}) {
    const auto quantizer = make_activation_quantizer("dorefa", site_of(bits));
    EXPECT_TRUE(at::isnan(norm_activate(x, norm, *quantizer, kEvaluationPass)).any().item<bool>())
        << bits;
  }
}

TEST(NormReluQuantize, NotANumberInTraining_IsRefusedWithTheLayersName) {
  Pass training;
  training.training = true;
  const auto quantizer = make_activation_quantizer("dorefa", site_of(4));
  for (const auto format : {at::MemoryFormat::ChannelsLast, at::MemoryFormat::Contiguous}) {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      BatchNorm norm = make_norm(16, at::kFloat);
      at::Tensor x = at::zeros({1, 16, 4, 4}).contiguous(format);
      x[0][3][2][1] = bad;
      try {
        norm_activate(x, norm, *quantizer, training);
        ADD_FAILURE() << "accepted " << bad;
      } catch (const Failure& failure) {
        EXPECT_EQ(failure.failure_class(), FailureClass::kDiverged);
        EXPECT_STREQ(failure.what(), "the input of layer1.0.bn1 holds NaN or infinite values");
      }
    }
  }
}

}  // namespace
}  // namespace bitrung::train
