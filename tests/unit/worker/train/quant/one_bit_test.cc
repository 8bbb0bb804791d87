// The one-bit methods against their formulas, written in plain doubles. Where a gradient flows
// through a mean and a deviation, the formulas are followed by dual numbers instead of a
// derivation.

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {
namespace {

constexpr std::array<int, 10> kAllBits = {1, 2, 3, 4, 5, 6, 7, 8, 16, 32};
constexpr std::array<const char*, 4> kMethods = {"xnor", "ir-net", "recu", "react"};
constexpr std::array<double, 3> kProgress = {0.0, 0.4, 1.0};

using Values = std::vector<double>;

Values values_of(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

at::Tensor doubles(const Values& values, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kDouble);
  EXPECT_EQ(tensor.numel(), static_cast<std::int64_t>(values.size()));
  std::copy(values.begin(), values.end(), tensor.data_ptr<double>());
  return tensor;
}

// What comes from above in the backward pass; nothing special.
double upstream(std::size_t i) {
  return 0.3 + std::cos(static_cast<double>(i) * 1.3);
}

at::Tensor upstream_like(const at::Tensor& x) {
  Values values;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    values.push_back(upstream(static_cast<std::size_t>(i)));
  }
  return doubles(values, x.sizes()).to(x.scalar_type()).contiguous(x.suggest_memory_format());
}

QuantizerSite site(int bits, std::int64_t channels, at::ScalarType type = at::kDouble) {
  return {.layer = "layer1.0.conv1",
          .bits = bits,
          .channels = channels,
          .out_channels = channels,
          .options = {},
          .tensors = at::TensorOptions().dtype(type)};
}

Pass training_at(double progress) {
  return {.training = true, .progress = progress, .seed = 0, .step = 0};
}

// A number and its derivative with respect to one input.
struct Dual {
  double value = 0.0;
  double slope = 0.0;
};
Dual operator+(Dual a, Dual b) {
  return {a.value + b.value, a.slope + b.slope};
}
Dual operator-(Dual a, Dual b) {
  return {a.value - b.value, a.slope - b.slope};
}
Dual operator*(Dual a, Dual b) {
  return {a.value * b.value, a.slope * b.value + a.value * b.slope};
}
Dual operator/(Dual a, Dual b) {
  return {a.value / b.value, (a.slope * b.value - a.value * b.slope) / (b.value * b.value)};
}
Dual root(Dual a) {
  return {std::sqrt(a.value), a.slope / (2.0 * std::sqrt(a.value))};
}
Dual constant(double value) {
  return {value, 0.0};
}

// x as dual numbers whose j-th is the input.
std::vector<Dual> with_input(const Values& x, std::size_t j) {
  std::vector<Dual> result;
  for (std::size_t i = 0; i < x.size(); ++i) {
    result.push_back({x[i], i == j ? 1.0 : 0.0});
  }
  return result;
}

Dual mean_of(const std::vector<Dual>& x) {
  Dual sum;
  for (const Dual& value : x) {
    sum = sum + value;
  }
  return sum / constant(static_cast<double>(x.size()));
}

Dual deviation_of(const std::vector<Dual>& x, double epsilon) {
  const Dual mean = mean_of(x);
  Dual sum;
  for (const Dual& value : x) {
    sum = sum + (value - mean) * (value - mean);
  }
  return root(sum / constant(static_cast<double>(x.size() - 1)) + constant(epsilon));
}

double level(double x, int bits) {
  if (bits == 1) {
    return x >= 0.0 ? 1.0 : -1.0;
  }
  const double n = std::pow(2.0, bits) - 1.0;
  const double clipped = std::min(1.0, std::max(-1.0, x));
  return 2.0 * (std::nearbyint(n * ((clipped + 1.0) / 2.0)) / n) - 1.0;
}

double triangle(double x) {
  return std::max(0.0, 2.0 - 2.0 * std::abs(x));
}

double decay(double x, double progress) {
  const double t = std::pow(10.0, -3.0 + 4.0 * progress);
  const double k = std::max(1.0 / t, 1.0);
  return k * t * (1.0 - std::tanh(t * x) * std::tanh(t * x));
}

double mean_magnitude(const Values& x) {
  double sum = 0.0;
  for (const double value : x) {
    sum += std::abs(value);
  }
  return sum / static_cast<double>(x.size());
}

double peak_magnitude(const Values& x) {
  double peak = 0.0;
  for (const double value : x) {
    peak = std::max(peak, std::abs(value));
  }
  return peak;
}

struct Expected {
  Values value;
  Values gradient;  // For upstream().
};

Values channel(const Values& x, std::size_t index, std::size_t size) {
  return {x.begin() + static_cast<std::ptrdiff_t>(index * size),
          x.begin() + static_cast<std::ptrdiff_t>((index + 1) * size)};
}

Values numbers(const std::vector<Dual>& x) {
  Values result;
  for (const Dual& value : x) {
    result.push_back(value.value);
  }
  return result;
}

// Without channels that are equal throughout: what those become is tested apart.
Expected expected_weights(const std::string& method, const Values& w, std::size_t size, int bits,
                          double progress) {
  Expected expected;
  const std::size_t channels = w.size() / size;
  if (bits == 32) {
    for (std::size_t i = 0; i < w.size(); ++i) {
      expected.value.push_back(w[i]);
      expected.gradient.push_back(upstream(i));
    }
    return expected;
  }
  // z of each channel and, for recu, the bound that is common to all.
  const bool is_recu = method == "recu";
  const double stretch = is_recu ? 2.0 * std::sqrt(2.0) : 1.0;
  const auto standardized = [&](const Values& x, std::size_t j) {
    const std::vector<Dual> in = with_input(x, j);
    const Dual mean = mean_of(in);
    const Dual deviation = deviation_of(in, is_recu ? 1e-5 : 0.0);
    std::vector<Dual> z;
    for (const Dual& value : in) {
      z.push_back(constant(stretch) * (value - mean) / deviation);
    }
    return z;
  };
  double bound = 0.0;
  if (is_recu) {
    const double tau = 0.85 + 0.14 * (std::exp(progress) - 1.0) / (std::exp(1.0) - 1.0);
    for (std::size_t c = 0; c < channels; ++c) {
      bound += mean_magnitude(numbers(standardized(channel(w, c, size), 0)));
    }
    bound *= -std::log(2.0 - 2.0 * tau) / static_cast<double>(channels);
  }
  for (std::size_t c = 0; c < channels; ++c) {
    const Values x = channel(w, c, size);
    if (method == "xnor" || method == "react") {
      const double scale = bits == 1 ? mean_magnitude(x) : peak_magnitude(x);
      for (std::size_t i = 0; i < size; ++i) {
        const double g = upstream(c * size + i);
        const double inside = std::abs(x[i]) <= 1.0 ? 1.0 : 0.0;
        expected.value.push_back(bits == 1 ? scale * level(x[i], 1)
                                           : scale * level(x[i] / scale, bits));
        expected.gradient.push_back(bits > 1 ? g
                                    : method == "xnor"
                                        ? g * (1.0 / static_cast<double>(size) + scale * inside)
                                        : g * inside);
      }
      continue;
    }
    Values z = numbers(standardized(x, 0));
    if (is_recu) {
      for (double& value : z) {
        value = std::min(bound, std::max(-bound, value));
      }
    }
    const double magnitude = bits == 1 ? mean_magnitude(z) : peak_magnitude(z);
    const double scale = is_recu ? (bits == 1 ? 1.0 : magnitude)
                                 : std::pow(2.0, std::nearbyint(std::log2(magnitude)));
    for (std::size_t i = 0; i < size; ++i) {
      expected.value.push_back(bits == 1 ? scale * level(z[i], 1)
                                         : scale * level(z[i] / scale, bits));
    }
    for (std::size_t j = 0; j < size; ++j) {
      const std::vector<Dual> duals = standardized(x, j);
      double sum = 0.0;
      for (std::size_t i = 0; i < size; ++i) {
        const double value = duals[i].value;
        const double slope = is_recu     ? (std::abs(value) <= bound ? 1.0 : 0.0)
                             : bits == 1 ? scale * decay(value, progress)
                                         : (std::abs(value) <= scale ? 1.0 : 0.0);
        sum += upstream(c * size + i) * slope * duals[i].slope;
      }
      expected.gradient.push_back(sum);
    }
  }
  return expected;
}

// (samples, channels, pixels); threshold of the channels for react.
Expected expected_activations(const std::string& method, const Values& x, std::size_t samples,
                              std::size_t channels, const Values& threshold, int bits,
                              double progress) {
  Expected expected;
  const std::size_t size = x.size() / samples;
  const std::size_t pixels = size / channels;
  const auto slope_at = [&](double value) {
    if (bits > 1 || method == "xnor") {
      return std::abs(value) <= 1.0 ? 1.0 : 0.0;
    }
    return method != "ir-net"      ? triangle(value)
           : std::abs(value) < 1.0 ? decay(value, progress)
                                   : 0.0;
  };
  for (std::size_t s = 0; s < samples; ++s) {
    const Values sample = channel(x, s, size);
    for (std::size_t i = 0; i < size; ++i) {
      const double g = upstream(s * size + i);
      if (bits == 32) {
        expected.value.push_back(sample[i]);
        expected.gradient.push_back(g);
      } else if (method != "recu") {
        const double u = sample[i] - (method == "react" ? threshold[i / pixels] : 0.0);
        expected.value.push_back(level(u, bits));
        expected.gradient.push_back(g * slope_at(u));
      } else {
        const std::vector<Dual> in = with_input(sample, i);
        const Dual deviation = deviation_of(in, 1e-5);
        expected.value.push_back(level(sample[i] / deviation.value, bits));
        double sum = 0.0;
        for (std::size_t j = 0; j < size; ++j) {
          const Dual y = in[j] / deviation;
          sum += upstream(s * size + j) * slope_at(y.value) * y.slope;
        }
        expected.gradient.push_back(sum);
      }
    }
  }
  return expected;
}

// Values come one level off where rounding decides otherwise; only so near a tie.
constexpr double kTieMargin = 0.02;

void expect_near(const Values& found, const Values& expected, double tolerance,
                 const std::string& what, double level_step = 0.0) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  double largest = 1.0;
  for (const double value : expected) {
    largest = std::max(largest, std::abs(value));
  }
  std::size_t off_by_a_level = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(found[i] - expected[i]);
    if (level_step > 0.0 && std::abs(difference - level_step) < tolerance * largest) {
      ++off_by_a_level;
      continue;
    }
    EXPECT_LE(difference, tolerance * largest)
        << what << " [" << i << "] is " << found[i] << " and not " << expected[i];
  }
  EXPECT_LE(static_cast<double>(off_by_a_level), kTieMargin * static_cast<double>(found.size()))
      << what;
}

constexpr std::int64_t kChannels = 4;
constexpr std::size_t kChannelSize = 18;

// A spread of values with the special ones among them; (4,2,3,3).
Values sample_weights() {
  Values values;
  for (std::size_t i = 0; i < kChannels * kChannelSize; ++i) {
    const double c = static_cast<double>(i / kChannelSize);
    values.push_back((0.4 + 0.5 * c) * std::sin(1.0 + 0.7 * static_cast<double>(i)));
  }
  const Values special = {0.0, 1.0, -1.0, 0.5, 2.0, -1e-3};
  std::copy(special.begin(), special.end(), values.begin());
  return values;
}

constexpr std::size_t kSamples = 3;

// (3,4,3,3)
Values sample_activations() {
  Values values;
  for (std::size_t i = 0; i < kSamples * kChannels * 9; ++i) {
    values.push_back(1.4 * std::sin(0.3 + 0.9 * static_cast<double>(i)) + 0.1);
  }
  const Values special = {0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -2.0, 1e-3, -1e-3};
  std::copy(special.begin(), special.end(), values.begin());
  return values;
}

const Values kThreshold = {0.25, -0.125, 0.0, 0.5};

std::unique_ptr<ActivationQuantizer> activations_with_threshold(const std::string& method,
                                                                const QuantizerSite& where) {
  std::unique_ptr<ActivationQuantizer> quantizer = make_activation_quantizer(method, where);
  for (const LearnedTensor& learned : quantizer->parameters()) {
    if (learned.name == "threshold") {
      const at::NoGradGuard no_grad;
      at::Tensor(learned.tensor).copy_(doubles(kThreshold, {kChannels}));
    }
  }
  return quantizer;
}

TEST(OneBitWeights, ValuesAndGradients_AreTheFormulas) {
  for (const std::string method : kMethods) {
    for (const int bits : kAllBits) {
      for (const double progress : kProgress) {
        const std::string what =
            method + " at " + std::to_string(bits) + " bits, progress " + std::to_string(progress);
        const auto quantizer = make_weight_quantizer(method, site(bits, kChannels));
        at::Tensor w = doubles(sample_weights(), {kChannels, 2, 3, 3}).set_requires_grad(true);
        const at::Tensor q = quantizer->quantize(w, training_at(progress));
        (q * upstream_like(w)).sum().backward();
        const Expected expected =
            expected_weights(method, sample_weights(), kChannelSize, bits, progress);
        expect_near(values_of(q), expected.value, 1e-9, what);
        expect_near(values_of(w.grad()), expected.gradient, 1e-9, "gradient of " + what);
      }
    }
  }
}

TEST(OneBitWeights, SinglePrecision_IsTheSame) {
  for (const std::string method : kMethods) {
    for (const int bits : kAllBits) {
      const auto quantizer = make_weight_quantizer(method, site(bits, kChannels, at::kFloat));
      at::Tensor w = doubles(sample_weights(), {kChannels, 2, 3, 3})
                         .to(at::kFloat)
                         .contiguous(at::MemoryFormat::ChannelsLast)
                         .set_requires_grad(true);
      const at::Tensor q = quantizer->quantize(w, training_at(0.4));
      EXPECT_TRUE(q.is_contiguous(at::MemoryFormat::ChannelsLast)) << method;
      (q * upstream_like(w)).sum().backward();
      const Expected expected = expected_weights(method, values_of(w), kChannelSize, bits, 0.4);
      const std::string what = method + " at " + std::to_string(bits) + " bits";
      expect_near(values_of(q), expected.value, 1e-6, what,
                  bits == 16 ? 2.0 / 65535.0 * peak_magnitude(expected.value) : 0.0);
      expect_near(values_of(w.grad()), expected.gradient, 1e-6, "gradient of " + what);
    }
  }
}

struct Variant {
  at::ScalarType type;
  at::MemoryFormat layout;  // Decides which loops are taken.
};
constexpr std::array<Variant, 3> kVariants = {{{at::kDouble, at::MemoryFormat::Contiguous},
                                               {at::kFloat, at::MemoryFormat::Contiguous},
                                               {at::kFloat, at::MemoryFormat::ChannelsLast}}};

TEST(OneBitActivations, ValuesAndGradients_AreTheFormulas) {
  for (const std::string method : kMethods) {
    for (const int bits : kAllBits) {
      for (const double progress : kProgress) {
        for (const auto& [type, layout] : kVariants) {
          std::string what = method + " at " + std::to_string(bits) + " bits, progress ";
          what += std::to_string(progress) + ", " + at::toString(type) +
                  (layout == at::MemoryFormat::Contiguous ? "" : ", channels last");
          const auto quantizer = activations_with_threshold(method, site(bits, kChannels, type));
          at::Tensor x = doubles(sample_activations(), {kSamples, kChannels, 3, 3})
                             .to(type)
                             .contiguous(layout)
                             .set_requires_grad(true);
          const at::Tensor y = quantizer->quantize(x, training_at(progress));
          EXPECT_TRUE(y.is_contiguous(layout)) << what;
          y.backward(upstream_like(x));
          const Expected expected = expected_activations(method, values_of(x), kSamples, kChannels,
                                                         kThreshold, bits, progress);
          const double tolerance = type == at::kDouble ? 1e-9 : 1e-6;
          expect_near(values_of(y), expected.value, tolerance, what,
                      type == at::kFloat && bits == 16 ? 2.0 / 65535.0 : 0.0);
          expect_near(values_of(x.grad()), expected.gradient, tolerance, "gradient of " + what);
          if (method == "react" && bits != 32) {
            Values sums(kChannels, 0.0);
            for (std::size_t i = 0; i < expected.gradient.size(); ++i) {
              sums[(i / 9) % kChannels] -= expected.gradient[i];
            }
            expect_near(values_of(quantizer->parameters()[0].tensor.grad()), sums, tolerance,
                        "threshold's gradient of " + what);
          }
        }
      }
    }
  }
}

TEST(OneBitActivations, OfALinearLayer_AreThoseOfOnePixel) {
  for (const std::string method : kMethods) {
    for (const int bits : {1, 2, 8}) {
      const auto quantizer = activations_with_threshold(method, site(bits, kChannels));
      at::Tensor flat =
          doubles(channel(sample_activations(), 0, 12), {3, kChannels}).set_requires_grad(true);
      at::Tensor pixels = flat.detach().view({3, kChannels, 1, 1}).clone().set_requires_grad(true);
      const at::Tensor a = quantizer->quantize(flat, training_at(0.5));
      const at::Tensor b = quantizer->quantize(pixels, training_at(0.5));
      (a * upstream_like(a)).sum().backward();
      (b * upstream_like(b)).sum().backward();
      EXPECT_EQ(values_of(a), values_of(b)) << method << bits;
      expect_near(values_of(flat.grad()), values_of(pixels.grad()), 1e-12, method);
    }
  }
}

TEST(OneBit, ThirtyTwoBits_LearnNothingAndTakeARelu) {
  for (const std::string method : kMethods) {
    const auto weights = make_weight_quantizer(method, site(32, kChannels));
    const auto activations = make_activation_quantizer(method, site(32, kChannels));
    EXPECT_TRUE(weights->parameters().empty() && weights->buffers().empty()) << method;
    EXPECT_TRUE(activations->parameters().empty() && activations->buffers().empty()) << method;
    EXPECT_TRUE(activations->takes_relu()) << method;
    EXPECT_FALSE(weights->grid(at::ones({kChannels, 3})) || activations->grid()) << method;
    const at::Tensor y = at::randn({2, kChannels, 3, 3});
    EXPECT_TRUE(y.is_same(weights->scale_output(y)) && y.is_same(activations->after_sum(y)));
    for (const int bits : {1, 4, 16}) {
      EXPECT_FALSE(make_activation_quantizer(method, site(bits, kChannels))->takes_relu());
    }
  }
}

TEST(OneBit, Zero_GoesToTheUpperLevel) {
  for (const std::string method : kMethods) {
    for (const int bits : {1, 2, 3, 8, 16}) {
      for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
        const auto quantizer = make_activation_quantizer(method, site(bits, 1, type));
        // Zeros of both signs in a sample with a mean of 0.
        const at::Tensor x = at::tensor({0.0, -0.0, 1.0, -1.0}, at::kDouble).to(type);
        const Values y = values_of(quantizer->quantize(x.view({1, 1, 2, 2}), {}));
        const double first = 1.0 / (std::pow(2.0, bits) - 1.0);
        EXPECT_NEAR(y[0], first, 1e-6) << method << bits;
        EXPECT_NEAR(y[1], first, 1e-6) << method << bits;
      }
    }
  }
}

TEST(OneBitWeights, ChannelOfZeros_IsZeroWithAFiniteGradient) {
  for (const std::string method : kMethods) {
    for (const int bits : kAllBits) {
      for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
        const auto quantizer = make_weight_quantizer(method, site(bits, kChannels, type));
        at::Tensor w = doubles(sample_weights(), {kChannels, 2, 3, 3}).to(type);
        w[1].zero_();
        w.set_requires_grad(true);
        const at::Tensor q = quantizer->quantize(w, training_at(0.3));
        (q * upstream_like(w)).sum().backward();
        EXPECT_TRUE(at::equal(q[1].detach(), at::zeros_like(q[1]))) << method << bits;
        EXPECT_TRUE(at::isfinite(q).all().item<bool>()) << method << bits;
        EXPECT_TRUE(at::isfinite(w.grad()).all().item<bool>()) << method << bits;
        // It can become something else again.
        EXPECT_GT(w.grad()[1].abs().max().item<double>(), 0.0) << method << bits;
      }
    }
  }
}

TEST(OneBitWeights, ZeroTensorAndSingleValues_StayFinite) {
  for (const std::string method : kMethods) {
    for (const int bits : kAllBits) {
      for (const at::Tensor& start :
           {at::zeros({3, 2, 3, 3}), at::tensor({0.3F, -0.2F, 0.0F}).view({3, 1}),
            at::tensor({-0.3F}).view({1, 1, 1, 1})}) {
        at::Tensor w = start.clone().set_requires_grad(true);
        const auto quantizer = make_weight_quantizer(method, site(bits, w.size(0), at::kFloat));
        const at::Tensor q = quantizer->quantize(w, training_at(0.3));
        q.sum().backward();
        EXPECT_TRUE(at::isfinite(q).all().item<bool>()) << method << bits;
        EXPECT_TRUE(at::isfinite(w.grad()).all().item<bool>()) << method << bits;
      }
    }
  }
}

// A mean that is not exact must not be taken for a spread.
TEST(OneBitWeights, StandardizedChannelOfEqualValues_IsZero) {
  for (const std::string method : {"ir-net", "recu"}) {
    for (const int bits : {1, 2, 8}) {
      for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
        const auto quantizer = make_weight_quantizer(method, site(bits, 2, type));
        at::Tensor w = at::full({2, 7, 3, 3}, 0.1, type);
        w[1].copy_(at::arange(63, type).view({7, 3, 3}).sin());
        const at::Tensor q = quantizer->quantize(w, training_at(0.3));
        EXPECT_TRUE(at::equal(q[0], at::zeros_like(q[0]))) << method << bits;
        EXPECT_GT(q[1].abs().max().item<double>(), 0.1) << method << bits;
      }
    }
  }
}

TEST(OneBit, Grid_HoldsEveryValue) {
  for (const std::string method : kMethods) {
    for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8, 16}) {
      const auto weights = make_weight_quantizer(method, site(bits, kChannels));
      at::Tensor w = doubles(sample_weights(), {kChannels, 2, 3, 3});
      w[2].zero_();
      weights->quantize(w, training_at(0.7));  // recu's tau moves.
      const auto activations = activations_with_threshold(method, site(bits, kChannels));
      const at::Tensor x = doubles(sample_activations(), {kSamples, kChannels, 3, 3});
      const std::vector<std::pair<at::Tensor, Grid>> pairs = {
          {weights->quantize(w, {}), weights->grid(w).value()},
          {activations->quantize(x, {}), activations->grid().value()}};
      for (const auto& [q, grid] : pairs) {
        const at::Tensor scale = at::where(grid.scale.eq(0), at::ones_like(grid.scale), grid.scale);
        const at::Tensor code = q / scale + grid.zero_point * grid.scale.ne(0);
        const at::Tensor nearest = code.round();
        EXPECT_LT((code - nearest).abs().max().item<double>(), 1e-9 * std::pow(2.0, bits))
            << method << bits;
        EXPECT_GE(nearest.min().item<double>(), 0.0) << method << bits;
        EXPECT_LE(nearest.max().item<double>(), std::pow(2.0, bits) - 1.0) << method << bits;
      }
    }
  }
}

TEST(OneBit, LayoutAndRepetition_ChangeNothing) {
  for (const std::string method : kMethods) {
    for (const int bits : {1, 2, 4, 16}) {
      for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
        const at::Tensor x = at::arange(2 * 4 * 3 * 5, type).view({2, 4, 3, 5}).mul(0.37).sin();
        const at::Tensor scattered = x.permute({3, 1, 0, 2}).contiguous().permute({2, 1, 3, 0});
        for (const at::Tensor& other : {x.contiguous(at::MemoryFormat::ChannelsLast), scattered,
                                        at::stack({x, x}, 4).select(4, 0)}) {
          ASSERT_FALSE(other.is_contiguous());
          const auto weights = make_weight_quantizer(method, site(bits, 2, type));
          const auto activations = make_activation_quantizer(method, site(bits, 4, type));
          for (const bool is_weights : {true, false}) {
            const auto quantize = [&](const at::Tensor& input) {
              return is_weights ? weights->quantize(input, training_at(0.5))
                                : activations->quantize(input, training_at(0.5));
            };
            at::Tensor a = x.clone().set_requires_grad(true);
            at::Tensor b = other.detach().set_requires_grad(true);
            const at::Tensor qa = quantize(a);
            const at::Tensor qb = quantize(b);
            EXPECT_TRUE(at::equal(qb, quantize(b))) << method << bits;
            (qa * x).sum().backward();
            (qb * x).sum().backward();
            expect_near(values_of(qb), values_of(qa), 1e-6, method,
                        bits == 16 ? 2.0 / 65535.0 * peak_magnitude(values_of(qa)) : 0.0);
            expect_near(values_of(b.grad()), values_of(a.grad()), 1e-6, "gradient of " + method);
          }
        }
      }
    }
  }
}

TEST(OneBit, NotANumber_IsNotHidden) {
  for (const std::string method : kMethods) {
    for (const int bits : {1, 2, 8}) {
      for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
        at::Tensor x = at::arange(18, type).view({1, 2, 3, 3}).sin();
        x[0][1][1][1] = std::nan("");
        EXPECT_TRUE(at::isnan(make_weight_quantizer(method, site(bits, 1, type))->quantize(x, {}))
                        .any()
                        .item<bool>())
            << method << bits;
        EXPECT_TRUE(
            at::isnan(make_activation_quantizer(method, site(bits, 2, type))->quantize(x, {}))
                .any()
                .item<bool>())
            << method << bits;
      }
    }
  }
}

TEST(Recu, TauOutsideTraining_IsTheLastOfTheTraining) {
  const at::Tensor w = doubles(sample_weights(), {kChannels, 2, 3, 3});
  const auto quantizer = make_weight_quantizer("recu", site(4, kChannels));
  ASSERT_EQ(quantizer->buffers().size(), 1U);
  const at::Tensor tau = quantizer->buffers()[0].tensor;
  EXPECT_DOUBLE_EQ(tau.item<double>(), 0.85);
  const at::Tensor late = quantizer->quantize(w, training_at(1.0));
  EXPECT_DOUBLE_EQ(tau.item<double>(), 0.99);
  EXPECT_TRUE(at::equal(quantizer->quantize(w, {}), late));
  EXPECT_FALSE(at::equal(quantizer->quantize(w, training_at(0.0)), late));
  // Another one that is given the state.
  const auto restored = make_weight_quantizer("recu", site(4, kChannels));
  at::Tensor(restored->buffers()[0].tensor).fill_(0.99);
  EXPECT_TRUE(at::equal(restored->quantize(w, {}), late));
}

TEST(Recu, OutputScale_IsLearnedForEachChannel) {
  const auto quantizer = make_weight_quantizer("recu", site(1, 2));
  const std::vector<LearnedTensor> learned = quantizer->parameters();
  ASSERT_EQ(learned.size(), 1U);
  EXPECT_EQ(values_of(learned[0].tensor), (Values{1.0, 1.0}));
  {
    const at::NoGradGuard no_grad;
    at::Tensor(learned[0].tensor).copy_(at::tensor({0.5, -2.0}, at::kDouble));
  }
  const Values in = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0};
  for (const bool is_image : {true, false}) {
    at::Tensor y =
        (is_image ? doubles(in, {2, 2, 1, 2}) : doubles(in, {4, 2})).set_requires_grad(true);
    const at::Tensor z = quantizer->scale_output(y);
    learned[0].tensor.mutable_grad() = at::Tensor();
    (z * upstream_like(z)).sum().backward();
    Values value;
    Values gradient;
    Values scale_gradient = {0.0, 0.0};
    for (std::size_t i = 0; i < in.size(); ++i) {
      const std::size_t c = is_image ? (i / 2) % 2 : i % 2;
      const double scale = c == 0 ? 0.5 : -2.0;
      value.push_back(scale * in[i]);
      gradient.push_back(scale * upstream(i));
      scale_gradient[c] += in[i] * upstream(i);
    }
    expect_near(values_of(z), value, 1e-12, "value");
    expect_near(values_of(y.grad()), gradient, 1e-12, "gradient");
    expect_near(values_of(learned[0].tensor.grad()), scale_gradient, 1e-12, "scale's gradient");
  }
}

void expect_shifted_prelu(at::ScalarType type) {
  const auto quantizer = make_activation_quantizer("react", site(1, 2, type));
  const std::vector<LearnedTensor> learned = quantizer->parameters();
  ASSERT_EQ(learned.size(), 4U);
  EXPECT_EQ(learned[1].name, "prelu_shift_in");
  EXPECT_EQ(values_of(learned[2].tensor), (Values{0.25, 0.25}));
  for (const LearnedTensor& tensor : learned) {
    EXPECT_EQ(tensor.weight_decay, 0.0);
  }
  const Values shift_in = {0.5, -1.0};
  const Values slope = {0.25, -0.5};
  const Values shift_out = {2.0, 0.125};
  {
    const at::NoGradGuard no_grad;
    at::Tensor(learned[1].tensor).copy_(doubles(shift_in, {2}));
    at::Tensor(learned[2].tensor).copy_(doubles(slope, {2}));
    at::Tensor(learned[3].tensor).copy_(doubles(shift_out, {2}));
  }
  // 0.5 and -1 are the kinks.
  const Values in = {0.5, 0.75, -3.0, -1.0, 0.25, 1.5, -0.5, -2.0};
  Values value;
  Values gradient;
  Values for_shift_in(2, 0.0);
  Values for_slope(2, 0.0);
  Values for_shift_out(2, 0.0);
  for (std::size_t i = 0; i < in.size(); ++i) {
    const std::size_t c = (i / 2) % 2;
    const double u = in[i] - shift_in[c];
    const double g = upstream(i);
    value.push_back((u > 0.0 ? u : slope[c] * u) + shift_out[c]);
    gradient.push_back(g * (u > 0.0 ? 1.0 : slope[c]));
    for_shift_in[c] -= gradient.back();
    for_slope[c] += u > 0.0 ? 0.0 : g * u;
    for_shift_out[c] += g;
  }
  for (const at::MemoryFormat layout :
       {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    at::Tensor y = doubles(in, {2, 2, 1, 2}).to(type).contiguous(layout).set_requires_grad(true);
    for (const LearnedTensor& tensor : learned) {
      tensor.tensor.mutable_grad() = at::Tensor();
    }
    const at::Tensor z = quantizer->after_sum(y);
    z.backward(upstream_like(y));
    const double tolerance = type == at::kDouble ? 1e-12 : 1e-6;
    expect_near(values_of(z), value, tolerance, "value");
    expect_near(values_of(y.grad()), gradient, tolerance, "gradient");
    expect_near(values_of(learned[1].tensor.grad()), for_shift_in, tolerance, "first shift");
    expect_near(values_of(learned[2].tensor.grad()), for_slope, tolerance, "slope");
    expect_near(values_of(learned[3].tensor.grad()), for_shift_out, tolerance, "second shift");
  }
}

class React : public testing::TestWithParam<at::ScalarType> {};

TEST_P(React, AfterSum_IsAShiftedPrelu) {
  expect_shifted_prelu(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Types, React, testing::Values(at::kDouble, at::kFloat));

// Many blocks of rows, the last one not full, against the other loops in double.
TEST(ReactChannels, LargeTensors_AreSummedTheSame) {
  for (const bool is_prelu : {true, false}) {
    const at::Tensor x =
        at::arange(3 * 5 * 41 * 43, at::kDouble).view({3, 5, 41, 43}).mul(0.37).sin();
    const at::Tensor g =
        at::arange(3 * 5 * 41 * 43, at::kDouble).view({3, 5, 41, 43}).mul(0.11).cos();
    std::vector<Values> gradients;
    for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
      const auto quantizer = make_activation_quantizer("react", site(1, 5, type));
      at::Tensor in = x.to(type).contiguous(at::MemoryFormat::ChannelsLast).set_requires_grad(true);
      const at::Tensor y =
          is_prelu ? quantizer->after_sum(in) : quantizer->quantize(in, training_at(0.5));
      y.backward(g.to(type).contiguous(at::MemoryFormat::ChannelsLast));
      Values found = values_of(in.grad());
      for (const LearnedTensor& learned : quantizer->parameters()) {
        if (learned.tensor.grad().defined()) {
          for (const double value : values_of(learned.tensor.grad())) {
            found.push_back(value);
          }
        }
      }
      gradients.push_back(found);
    }
    EXPECT_EQ(gradients[0].size(), static_cast<std::size_t>(x.numel()) + (is_prelu ? 15U : 5U));
    // Thousands of rounded products are summed.
    expect_near(gradients[1], gradients[0], 1e-5, is_prelu ? "prelu" : "threshold");
  }
}

TEST(ReactChannels, WithoutASum_HasTheThresholdsOnly) {
  QuantizerSite where = site(1, 2);
  where.out_channels = 0;
  const auto quantizer = make_activation_quantizer("react", where);
  EXPECT_EQ(quantizer->parameters().size(), 1U);
  const at::Tensor y = at::randn({1, 2, 3, 3});
  EXPECT_TRUE(y.is_same(quantizer->after_sum(y)));
}

}  // namespace
}  // namespace bitrung::train
