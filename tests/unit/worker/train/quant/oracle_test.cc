// The methods that LibTorch has operators for against those, and the loops of uniform.h against
// LibTorch's operations.

#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/worker/train/quant/subject.h"
#include "worker/train/quant/state.h"
#include "worker/train/quant/uniform.h"

namespace bitrung::train {
namespace {

constexpr std::int64_t kChannels = 4;

at::Tensor values(std::int64_t count = 400) {
  at::Tensor x = (at::arange(count, at::kDouble) * 0.7 + 0.3).sin().mul(2.3);
  // Zero, ends, and places halfway between levels of many scales.
  const at::Tensor special =
      at::tensor({0.0, 0.125, 0.25, 0.375, -0.125, 1.0, -1.0, 2.5}, at::kDouble);
  x.slice(0, 0, special.numel()).copy_(special);
  return x.to(at::kFloat).reshape({kChannels, -1});
}

at::Tensor gradient_of(const at::Tensor& y, const at::Tensor& g) {
  (y * g).sum().backward();
  return g;
}

struct Fake {
  at::Tensor y;
  at::Tensor dx;
};

Fake fake_quantize(const at::Tensor& x, const at::Tensor& g, const Grid& grid, int bits) {
  const std::int64_t last = (std::int64_t{1} << bits) - 1;
  const at::Tensor input = x.detach().clone().set_requires_grad(true);
  at::Tensor y;
  if (grid.scale.numel() == 1) {
    y = at::fake_quantize_per_tensor_affine(input, grid.scale.item<double>(),
                                            grid.zero_point.item<std::int64_t>(), 0, last);
  } else {
    y = at::fake_quantize_per_channel_affine(input, grid.scale.flatten().to(at::kFloat),
                                             grid.zero_point.flatten().to(at::kInt), 0, 0, last);
  }
  gradient_of(y, g);
  return {y.detach(), input.grad()};
}

TEST(Affine, Fixed_IsTorchsFakeQuantizationBitForBit) {
  const at::Tensor g = (at::arange(400, at::kFloat) * 0.1F).cos().reshape({kChannels, -1});
  for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8, 16}) {
    for (const Part part : {Part::kWeights, Part::kActivations}) {
      for (const std::string granularity : {"tensor", "channel"}) {
        SubjectOptions options{
            .method = "affine", .part = part, .bits = bits, .options = {}, .type = at::kFloat};
        options.options.granularity = granularity;
        Subject subject(options);
        // Values beyond the tracked range as well.
        subject.quantize(part == Part::kActivations ? values().clamp(-0.7, 1.25) : values(),
                         kTrainingPass);
        const at::Tensor x = values().set_requires_grad(true);
        const at::Tensor y = subject.quantize(x, kEvaluationPass);
        gradient_of(y, g);
        const Fake expected = fake_quantize(values(), g, *subject.grid(values()), bits);
        EXPECT_TRUE(at::equal(y.detach(), expected.y)) << name_of(options);
        EXPECT_TRUE(at::equal(x.grad(), expected.dx)) << name_of(options);
      }
    }
  }
}

TEST(Affine, Learned_IsTorchsLearnableFakeQuantization) {
  const at::Tensor g = (at::arange(400, at::kFloat) * 0.1F).cos().reshape({kChannels, -1});
  for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8, 16}) {
    for (const Part part : {Part::kWeights, Part::kActivations}) {
      for (const std::string granularity : {"tensor", "channel"}) {
        const bool by_channel = granularity == "channel";
        if (by_channel && part == Part::kActivations) {
          continue;
        }
        SubjectOptions options{
            .method = "affine", .part = part, .bits = bits, .options = {}, .type = at::kFloat};
        options.options.granularity = granularity;
        options.options.scale = "learned";
        Subject subject(options);
        subject.quantize(values(), kTrainingPass);
        {
          const at::NoGradGuard no_grad;  // So that values lie beyond the grid, on both sides.
          subject.learned("scale").mul_(0.6);
          subject.learned("zero_point").add_(0.3);
        }
        const at::Tensor x = values();
        const Outcome found = run(subject, x, g, kTrainingPass);

        const double last = level_count(bits);
        const double factor = 1.0 / std::sqrt(static_cast<double>(x.numel()) * last);
        const auto leaf = [](const at::Tensor& tensor) {
          return tensor.detach().clone().reshape({-1}).set_requires_grad(true);
        };
        const at::Tensor scale = leaf(subject.learned("scale"));
        const at::Tensor zero_point = leaf(subject.learned("zero_point"));
        const at::Tensor input = x.clone().set_requires_grad(true);
        const auto n = static_cast<std::int64_t>(last);
        const at::Tensor y = by_channel ? at::_fake_quantize_learnable_per_channel_affine(
                                              input, scale, zero_point, 0, 0, n, factor)
                                        : at::_fake_quantize_learnable_per_tensor_affine(
                                              input, scale, zero_point, 0, n, factor);
        gradient_of(y, g);
        EXPECT_EQ(found.y, numbers_of(y)) << name_of(options);
        EXPECT_EQ(found.dx, numbers_of(input.grad())) << name_of(options);
        const auto compare = [&](const std::string& name, const at::Tensor& expected) {
          const Numbers gradients = numbers_of(expected);
          for (std::size_t c = 0; c < gradients.size(); ++c) {
            // Its terms are summed in single precision; at 16 bits a term is a difference of
            // numbers up to 65535.
            const double size = 1e-6 * (1.0 + last) + 1e-5 * std::abs(gradients[c]);
            EXPECT_NEAR(found.learned.at(name)[c], gradients[c], size) << name_of(options) << name;
          }
        };
        compare("scale", scale.grad());
        compare("zero_point", zero_point.grad());
      }
    }
  }
}

// Values of LSQ's weights are fake quantization with zero point 2^(k-1).
TEST(Lsq, Weights_HaveTheValuesOfTorchsFakeQuantization) {
  for (const int bits : {2, 3, 4, 5, 6, 7, 8, 16}) {
    for (const std::string granularity : {"tensor", "channel"}) {
      SubjectOptions options{
          .method = "lsq", .part = Part::kWeights, .bits = bits, .options = {}, .type = at::kFloat};
      options.options.granularity = granularity;
      Subject subject(options);
      const at::Tensor y = subject.quantize(values(), kTrainingPass);
      const Fake expected =
          fake_quantize(values(), at::ones_like(values()), *subject.grid(values()), bits);
      EXPECT_TRUE(at::equal(y.detach(), expected.y)) << name_of(options);
    }
  }
}

UniformRule some_rule(GradientMask mask) {
  UniformRule rule;
  rule.mask = mask;
  rule.low = scalar_tensor(-1.25);
  rule.high = scalar_tensor(1.75);
  rule.offset = scalar_tensor(0.1);
  rule.factor = scalar_tensor(1.0 / 0.3);
  rule.shift = scalar_tensor(1.0);
  rule.code_low = scalar_tensor(-2.0);
  rule.code_high = scalar_tensor(5.0);
  rule.step = scalar_tensor(0.3);
  return rule;
}

// Long enough for several blocks, vectors and a rest.
TEST(Uniform, Loops_AreTheOperations) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    const at::Tensor x = values(100003 * kChannels).to(type).flatten();
    const at::Tensor g = (at::arange(x.numel(), at::kDouble) * 0.013).cos().to(type);
    for (const GradientMask mask :
         {GradientMask::kEverywhere, GradientMask::kClosed, GradientMask::kOpen,
          GradientMask::kOpenCode, GradientMask::kRoundedCode}) {
      for (const bool learns : {false, true}) {
        struct Run {
          at::Tensor y, dx, a, b;
        };
        const auto compute = [&](const auto& quantize) {
          UniformRule rule = some_rule(mask);
          const at::Tensor a = at::zeros({}, type).set_requires_grad(true);
          const at::Tensor b = at::zeros({}, type).set_requires_grad(true);
          if (learns) {
            rule.learned = {{a, scalar_tensor(1.0), scalar_tensor(0.0), scalar_tensor(0.0)},
                            {b, scalar_tensor(0.0), scalar_tensor(-0.5), scalar_tensor(2.0)}};
          }
          const at::Tensor input = x.clone().set_requires_grad(true);
          const at::Tensor y = quantize(input, rule);
          (y * g).sum().backward();
          return Run{y.detach(), input.grad(), a.grad(), b.grad()};
        };
        const Run loops = compute(quantize_uniform);
        const Run operations = compute(quantize_uniform_reference);
        EXPECT_TRUE(at::equal(loops.y, operations.y));
        EXPECT_TRUE(at::equal(loops.dx, operations.dx));
        if (learns) {
          const double tolerance = type == at::kFloat ? 1e-3 : 1e-9;  // Sums of 400,000 terms.
          EXPECT_NEAR(loops.a.item<double>(), operations.a.item<double>(), tolerance);
          EXPECT_NEAR(loops.b.item<double>(), operations.b.item<double>(), tolerance);
        }
      }
    }
  }
}

TEST(Extremes, Loops_AreTheOperations) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    for (const std::int64_t count : {1, 15, 16, 17, 100003}) {
      const at::Tensor x = values(4 * 100003).to(type).flatten().slice(0, 7, 7 + count);
      const Extremes found = extremes(x, /*by_channel=*/false);
      EXPECT_EQ(found.low.item<double>(), x.min().item<double>()) << count;
      EXPECT_EQ(found.high.item<double>(), x.max().item<double>()) << count;
      const at::Tensor with_nan = x.clone();
      with_nan[count / 2] = std::nan("");
      EXPECT_TRUE(std::isnan(extremes(with_nan, false).low.item<double>())) << count;
      EXPECT_TRUE(std::isnan(extremes(with_nan, false).high.item<double>())) << count;
    }
  }
}

// The sums are added in an order that the threads do not change.
TEST(Uniform, Gradients_DoNotDependOnTheNumberOfThreads) {
  const at::Tensor x = values(100003 * kChannels).flatten();
  const auto gradient = [&] {
    UniformRule rule = some_rule(GradientMask::kOpenCode);
    const at::Tensor a = at::zeros({}, at::kFloat).set_requires_grad(true);
    rule.learned = {{a, scalar_tensor(1.0), scalar_tensor(-2.0), scalar_tensor(5.0)}};
    quantize_uniform(x, rule).mul(x).sum().backward();
    return a.grad().item<float>();
  };
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const float one = gradient();
  at::set_num_threads(4);
  const float four = gradient();
  at::set_num_threads(threads);
  EXPECT_EQ(one, four);
}

}  // namespace
}  // namespace bitrung::train
