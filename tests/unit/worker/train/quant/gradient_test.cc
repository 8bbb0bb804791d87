#include "worker/train/quant/gradient.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/unit/worker/train/quant/subject.h"
#include "worker/train/random.h"

namespace bitrung::train {
namespace {

const Pass kPass{true, 0.25, 42, 1000};

at::Tensor gradients(at::IntArrayRef shape, at::ScalarType type) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    count *= size;
  }
  return (at::arange(count, at::kDouble) * 0.61 + 0.2).sin().mul(0.01).reshape(shape).to(type);
}

at::Tensor quantized(const at::Tensor& g, int bits, const Pass& pass = kPass,
                     const std::string& layer = "layer1.0.conv1") {
  const at::Tensor y = at::zeros_like(g).set_requires_grad(true);
  const at::Tensor z = quantize_gradient(y, bits, pass, layer);
  z.backward(g);
  return y.grad();
}

TEST(QuantizeGradient, Values_AreTheClosedFormWithTheSeedsNoise) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    const at::Tensor g = gradients({3, 2, 4, 5}, type);
    g[1].mul_(100.0);  // Each sample has its own largest magnitude.
    const Numbers given = numbers_of(g);
    for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8, 16}) {
      const double n = std::pow(2.0, bits) - 1.0;
      RandomStream stream(Purpose::kGradientNoise, {42, 1000, hash_of("layer1.0.conv1")});
      const std::uint64_t key = stream.next();
      const Numbers found = numbers_of(quantized(g, bits));
      for (std::size_t i = 0; i < given.size(); ++i) {
        const std::size_t sample = i / 40;
        double m = 0.0;
        for (std::size_t j = sample * 40; j < (sample + 1) * 40; ++j) {
          m = std::max(m, std::abs(given[j]));
        }
        const std::uint64_t word = mix_bits(key + (i + 1) * 0x9e3779b97f4a7c15U);
        const double noise = (static_cast<double>(word >> 11) / 9007199254740992.0 - 0.5) / n;
        const double v = n * std::min(1.0, std::max(0.0, given[i] / (2.0 * m) + 0.5 + noise));
        EXPECT_NEAR(found[i], 2.0 * m * (std::nearbyint(v) / n - 0.5),
                    (type == at::kFloat ? 1e-6 : 1e-12) * std::max(1.0, m))
            << bits << " bits, element " << i;
      }
    }
  }
}

TEST(QuantizeGradient, Forward_IsTheIdentity) {
  const at::Tensor y = gradients({2, 3}, at::kFloat);
  EXPECT_TRUE(at::equal(quantize_gradient(y, 4, kPass, "fc"), y));
  EXPECT_TRUE(quantize_gradient(y, 32, kPass, "fc").is_same(y));
}

TEST(QuantizeGradient, Noise_IsAFunctionOfSeedStepAndLayer) {
  const at::Tensor g = gradients({4, 100}, at::kFloat);
  const at::Tensor expected = quantized(g, 4);
  EXPECT_TRUE(at::equal(quantized(g, 4), expected));
  EXPECT_FALSE(at::equal(quantized(g, 4, Pass{true, 0.25, 43, 1000}), expected));
  EXPECT_FALSE(at::equal(quantized(g, 4, Pass{true, 0.25, 42, 1001}), expected));
  EXPECT_FALSE(at::equal(quantized(g, 4, kPass, "layer1.0.conv2"), expected));
  // Not of how far the training is meant to go.
  EXPECT_TRUE(at::equal(quantized(g, 4, Pass{true, 0.75, 42, 1000}), expected));
}

TEST(QuantizeGradient, Mean_IsTheGradient) {
  const at::Tensor g = gradients({2, 50}, at::kDouble);
  at::Tensor sum = at::zeros_like(g);
  constexpr int kSteps = 4000;
  for (int step = 0; step < kSteps; ++step) {
    sum += quantized(g, 2, Pass{true, 0.0, 42, step});
  }
  // A level is 2 m / 3 wide; six standard errors of a mean of noise that wide.
  const double level = 0.02 / 3.0;
  const double limit = 6.0 * level / 2.0 / std::sqrt(static_cast<double>(kSteps));
  EXPECT_LT((sum / kSteps - g).abs().max().item<double>(), limit);
}

TEST(QuantizeGradient, Levels_AreNoMoreThanTheBitsSay) {
  const at::Tensor g = gradients({2, 500}, at::kFloat);
  for (const int bits : {1, 2, 3, 4}) {
    const at::Tensor q = quantized(g, bits);
    for (std::int64_t sample = 0; sample < 2; ++sample) {
      const Numbers values = numbers_of(q[sample]);
      EXPECT_EQ(std::set<double>(values.begin(), values.end()).size(), std::size_t{1} << bits);
    }
  }
}

TEST(QuantizeGradient, ZeroSample_StaysZeroAndNotANumberIsNotHidden) {
  const at::Tensor g = gradients({3, 10}, at::kFloat);
  g[1].zero_();
  const at::Tensor q = quantized(g, 4);
  EXPECT_TRUE(at::equal(q[1], at::zeros_like(q[1])));
  EXPECT_GT(q[0].abs().max().item<double>(), 0.0);
  g[2][5] = std::nan("");
  EXPECT_TRUE(at::isnan(quantized(g, 4)[2][5]).item<bool>());
}

TEST(QuantizeGradient, Layout_DoesNotMatter) {
  const at::Tensor g = gradients({3, 4, 5, 6}, at::kFloat);
  const at::Tensor expected = quantized(g, 4);
  const at::Tensor y = at::zeros_like(g).set_requires_grad(true);
  quantize_gradient(y, 4, kPass, "layer1.0.conv1")
      .backward(g.contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(at::equal(y.grad(), expected));
  const at::Tensor z = at::zeros_like(g).set_requires_grad(true);
  quantize_gradient(z, 4, kPass, "layer1.0.conv1")
      .backward(g.permute({3, 1, 0, 2}).contiguous().permute({2, 1, 3, 0}));
  EXPECT_TRUE(at::equal(z.grad(), expected));
}

// Half precision has no loops of its own and goes the way of other devices.
TEST(QuantizeGradient, Operations_GiveWhatTheLoopsGive) {
  const at::Tensor g = gradients({3, 4, 5, 6}, at::kHalf);
  for (const int bits : {1, 4, 8}) {
    const at::Tensor by_loops = quantized(g.to(at::kDouble), bits).to(at::kHalf);
    EXPECT_TRUE(at::equal(quantized(g, bits), by_loops)) << bits;
  }
}

}  // namespace
}  // namespace bitrung::train
