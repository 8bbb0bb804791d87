#include "worker/train/quant/quantizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "worker/train/failure.h"

namespace bitrung::train {
namespace {

constexpr std::array<int, 10> kAllBits = {1, 2, 3, 4, 5, 6, 7, 8, 16, 32};

QuantizerSite site_of(int bits) {
  QuantizerSite site;
  site.layer = "conv1";
  site.bits = bits;
  return site;
}

std::unique_ptr<WeightQuantizer> weights_of(int bits) {
  return make_weight_quantizer("dorefa", site_of(bits));
}

std::unique_ptr<ActivationQuantizer> activations_of(int bits) {
  return make_activation_quantizer("dorefa", site_of(bits));
}

double sign(double x) {
  return x > 0 ? 1.0 : (x < 0 ? -1.0 : 0.0);
}

std::vector<double> values_of(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

at::Tensor doubles(const std::vector<double>& values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kDouble);
  std::copy(values.begin(), values.end(), tensor.data_ptr<double>());
  return tensor;
}

// A spread of values with the special ones among them.
std::vector<double> sample_values() {
  std::vector<double> values = {0.0, 0.5, 1.0, -1.0, 1.5, -0.25, 1e-8, -1e-8, 3.0, 1.0 / 6.0};
  for (int i = 0; i < 90; ++i) {
    values.push_back(1.7 * std::sin(1.0 + 0.7 * i));
  }
  return values;
}

struct Expected {
  std::vector<double> value;
  std::vector<double> gradient;  // For the gradient 1 + i / 10 from above.
};

double upstream(std::size_t i) {
  return 1.0 + static_cast<double>(i) / 10.0;
}

// The closed forms, written without tensors.
Expected expected_weights(const std::vector<double>& w, int bits) {
  const double n = std::pow(2.0, bits) - 1.0;
  double peak = 0.0;
  double mean = 0.0;
  for (const double x : w) {
    peak = std::max(peak, std::abs(std::tanh(x)));
    mean += std::abs(x) / static_cast<double>(w.size());
  }
  Expected expected;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double t = std::tanh(w[i]);
    if (bits == 32) {
      expected.value.push_back(w[i]);
      expected.gradient.push_back(upstream(i));
    } else if (bits == 1) {
      expected.value.push_back(mean * sign(w[i]));
      expected.gradient.push_back(upstream(i));
    } else {
      const double level = std::nearbyint(n * (t / 2.0 / peak + 0.5)) / n;
      expected.value.push_back(peak * (2.0 * level - 1.0));
      expected.gradient.push_back(upstream(i) * (1.0 - t * t));
    }
  }
  return expected;
}

Expected expected_activations(const std::vector<double>& x, int bits) {
  const double n = std::pow(2.0, bits) - 1.0;
  Expected expected;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double clamped = std::min(1.0, std::max(0.0, x[i]));
    const bool passes = x[i] >= 0.0 && x[i] <= 1.0;
    expected.value.push_back(bits == 32  ? x[i]
                             : bits == 1 ? sign(clamped)
                                         : std::nearbyint(n * clamped) / n);
    expected.gradient.push_back(bits == 32 || passes ? upstream(i) : 0.0);
  }
  return expected;
}

template <typename Quantize>
void expect_equal(const std::vector<double>& values, const Expected& expected,
                  const Quantize& quantize, int bits) {
  at::Tensor x = doubles(values).set_requires_grad(true);
  const at::Tensor y = quantize(x);
  std::vector<double> above;
  for (std::size_t i = 0; i < values.size(); ++i) {
    above.push_back(upstream(i));
  }
  (y * doubles(above)).sum().backward();
  const std::vector<double> found = values_of(y);
  const std::vector<double> gradient = values_of(x.grad());
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_NEAR(found[i], expected.value[i], 1e-12)
        << "value of " << values[i] << " at " << bits << " bits";
    EXPECT_NEAR(gradient[i], expected.gradient[i], 1e-12)
        << "gradient of " << values[i] << " at " << bits << " bits";
  }
}

TEST(DorefaWeights, ValuesAndGradients_AreTheClosedForms) {
  for (const int bits : kAllBits) {
    const auto quantizer = weights_of(bits);
    expect_equal(
        sample_values(), expected_weights(sample_values(), bits),
        [&](const at::Tensor& w) { return quantizer->quantize(w, kEvaluationPass); }, bits);
  }
}

TEST(DorefaActivations, ValuesAndGradients_AreTheClosedForms) {
  for (const int bits : kAllBits) {
    const auto quantizer = activations_of(bits);
    expect_equal(
        sample_values(), expected_activations(sample_values(), bits),
        [&](const at::Tensor& x) { return quantizer->quantize(x, kEvaluationPass); }, bits);
  }
}

TEST(DorefaWeights, Zero_GoesToTheUpperOfTheTwoMiddleLevels) {
  for (const int bits : {2, 3, 4, 8, 16}) {
    const at::Tensor w = at::tensor({0.0F, 0.75F, -0.5F});
    const at::Tensor q = weights_of(bits)->quantize(w, kEvaluationPass);
    const double n = std::pow(2.0, bits) - 1.0;
    EXPECT_NEAR(q[0].item<double>(), std::tanh(0.75) / n, 1e-6) << bits;
  }
}

TEST(DorefaWeights, OneBit_TakesZeroAsZero) {
  const at::Tensor q =
      weights_of(1)->quantize(at::tensor({0.0F, 3.0F, -1.0F, 0.0F}), kEvaluationPass);
  EXPECT_EQ(values_of(q), (std::vector<double>{0.0, 1.0, -1.0, 0.0}));
}

TEST(DorefaActivations, Ties_GoToTheEvenLevel) {
  // 15 * float(1 / 6) is exactly 2.5, which std::round would make 3.
  ASSERT_EQ(15.0F * (1.0F / 6.0F), 2.5F);
  const at::Tensor q =
      activations_of(4)->quantize(at::tensor({1.0F / 6.0F, 0.5F}), kEvaluationPass);
  EXPECT_EQ(q[0].item<float>(), 2.0F / 15.0F);
  EXPECT_EQ(q[1].item<float>(), 8.0F / 15.0F);
}

TEST(DorefaActivations, OneBit_IsTheSignAndNotTheNearest) {
  const at::Tensor q =
      activations_of(1)->quantize(at::tensor({-1.0F, 0.0F, 0.01F, 0.5F, 2.0F}), kEvaluationPass);
  EXPECT_EQ(values_of(q), (std::vector<double>{0.0, 0.0, 1.0, 1.0, 1.0}));
}

TEST(Dorefa, ZeroTensor_StaysZeroWithAFiniteGradient) {
  for (const int bits : kAllBits) {
    at::Tensor w = at::zeros({2, 3, 3, 3}).set_requires_grad(true);
    const at::Tensor q = weights_of(bits)->quantize(w, kEvaluationPass);
    q.sum().backward();
    EXPECT_TRUE(at::equal(q.detach(), at::zeros_like(q))) << bits;
    EXPECT_TRUE(at::equal(w.grad(), at::ones_like(q))) << bits;
    const at::Tensor a = activations_of(bits)->quantize(at::zeros({5}), kEvaluationPass);
    EXPECT_TRUE(at::equal(a, at::zeros({5}))) << bits;
  }
}

TEST(Dorefa, SingleElement_IsItsOwnPeak) {
  for (const int bits : kAllBits) {
    const at::Tensor q =
        weights_of(bits)->quantize(at::tensor({-0.3}, at::kDouble), kEvaluationPass);
    EXPECT_NEAR(q.item<double>(), bits == 1 || bits == 32 ? -0.3 : std::tanh(-0.3), 1e-12) << bits;
  }
}

TEST(Dorefa, Layout_DoesNotMatter) {
  const at::Tensor x = (at::arange(2 * 4 * 3 * 5, at::kFloat).reshape({2, 4, 3, 5}) * 0.37F).sin();
  for (const int bits : kAllBits) {
    for (const at::Tensor& other : {x.contiguous(at::MemoryFormat::ChannelsLast),
                                    x.permute({3, 1, 0, 2}).contiguous().permute({2, 1, 3, 0})}) {
      ASSERT_FALSE(other.is_contiguous());
      for (const bool weights : {true, false}) {
        const auto quantize = [&](const at::Tensor& input) {
          return weights ? weights_of(bits)->quantize(input, kEvaluationPass)
                         : activations_of(bits)->quantize(input, kEvaluationPass);
        };
        at::Tensor a = x.clone().set_requires_grad(true);
        at::Tensor b = other.clone().set_requires_grad(true);
        const at::Tensor qa = quantize(a);
        const at::Tensor qb = quantize(b);
        // The mean behind 1-bit weights is summed in memory order.
        EXPECT_TRUE(at::allclose(qa.detach(), qb.detach(), 1e-6, 1e-7)) << bits;
        (qa * x).sum().backward();
        (qb * x).sum().backward();
        EXPECT_TRUE(at::equal(a.grad(), b.grad())) << bits;
      }
    }
  }
}

TEST(Dorefa, NotANumber_IsNotHidden) {
  for (const int bits : {1, 2, 8}) {
    const at::Tensor x = at::tensor({std::nan(""), 0.5}, at::kDouble);
    EXPECT_TRUE(at::isnan(weights_of(bits)->quantize(x, kEvaluationPass)).any().item<bool>())
        << bits;
  }
}

TEST(Registry, UnknownMethod_ListsTheKnownOnes) {
  try {
    make_weight_quantizer("pact2", site_of(4));
    FAIL();
  } catch (const Failure& failure) {
    EXPECT_EQ(std::string(failure.what())
                  .find("spec: method \"pact2\" is unknown to this trainer; known are dorefa, "
                        "dorefa-paper, linear, "),
              0U)
        << failure.what();
  }
}

}  // namespace
}  // namespace bitrung::train
