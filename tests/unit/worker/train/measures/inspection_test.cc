#include "worker/train/measures/inspection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

namespace bitrung::train {
namespace {

at::Tensor doubles(const std::vector<double>& values, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kDouble);
  EXPECT_EQ(tensor.numel(), static_cast<std::int64_t>(values.size()));
  std::copy(values.begin(), values.end(), tensor.data_ptr<double>());
  return tensor;
}

at::Tensor number(double value) {
  return at::scalar_tensor(value, at::kDouble);
}

// A tensor on the grid 0.5 (code - 1), code 0 to 3: levels -0.5, 0, 0.5, 1.
TEST(Inspection, SmallTensor_IsMeasuredByHand) {
  const at::Tensor real = doubles({-0.9, -0.5, 0.1, 0.4, 0.6, 1.2, 1.0, 0.0}, {2, 4});
  const at::Tensor quantized = doubles({-0.5, -0.5, 0.0, 0.5, 0.5, 1.0, 1.0, 0.0}, {2, 4});
  const TensorStatistics found =
      inspect_tensor(real, quantized, Grid{number(0.5), number(1.0), {}}, 2, "linear");
  EXPECT_EQ(found.bits, 2);
  EXPECT_EQ(found.method, "linear");
  EXPECT_EQ(found.levels, 4);
  EXPECT_EQ(found.min, -0.5);
  EXPECT_EQ(found.max, 1.0);
  EXPECT_EQ(found.scale, 0.5);
  EXPECT_FALSE(found.scale_min || found.scale_max);
  EXPECT_EQ(found.zero_point, 1.0);
  const double signal = 0.81 + 0.25 + 0.01 + 0.16 + 0.36 + 1.44 + 1.0;
  const double noise = 0.16 + 0.01 + 0.01 + 0.01 + 0.04;
  EXPECT_NEAR(found.sqnr_db.value(), 10.0 * std::log10(signal / noise), 1e-12);
  EXPECT_DOUBLE_EQ(found.saturated, 2.0 / 8.0);  // -0.9 and 1.2; not -0.5 and 1.0.
  EXPECT_DOUBLE_EQ(found.entropy.value(), 2.0);  // Two values on each level.
  EXPECT_EQ(found.histogram_from, -0.9);
  EXPECT_EQ(found.histogram_to, 1.2);
  std::array<std::int64_t, 16> counts{};
  for (const int bin : {0, 3, 7, 9, 11, 15, 14, 6}) {  // 2.1 / 16 wide each.
    ++counts[static_cast<std::size_t>(bin)];
  }
  EXPECT_EQ(found.histogram, counts);
  EXPECT_EQ(found.scales, 1);
}

TEST(Inspection, TensorThatWasNotQuantized_HasMoreLevelsThanItsBitsAllow) {
  const at::Tensor real = at::arange(1000, at::kDouble).mul(0.001).sub(0.5);
  const TensorStatistics found =
      inspect_tensor(real, real, Grid{number(1.0 / 3.0), number(1.5), {}}, 2, "dorefa");
  EXPECT_GT(found.levels.value(), 4);
}

TEST(Inspection, FullPrecision_HasNoGrid) {
  const at::Tensor real = doubles({-1.0, 0.5, 3.0}, {3});
  const TensorStatistics found = inspect_tensor(real, real, std::nullopt, 32, "dorefa");
  EXPECT_FALSE(found.levels || found.scale || found.zero_point || found.sqnr_db || found.entropy);
  EXPECT_EQ(found.saturated, 0.0);
  EXPECT_EQ(found.max, 3.0);
  EXPECT_EQ(found.histogram[0], 1);
  EXPECT_EQ(found.histogram[15], 1);
  EXPECT_EQ(found.scales, 0);
}

TEST(Inspection, GridForEachChannel_CountsLevelsInsideOne) {
  for (const bool is_weights : {true, false}) {
    // Channel 0 has the levels +-1 and channel 1 has +-0.25; together they are four.
    at::Tensor quantized = is_weights
                               ? doubles({1, -1, 1, -1, 0.25, -0.25, 0.25, 0.25}, {2, 4, 1, 1})
                               : doubles({1, -1, 0.25, -0.25, 1, -1, 0.25, 0.25}, {2, 2, 1, 2});
    const at::Tensor scale =
        doubles({2.0, 0.5}, {2})
            .view(is_weights ? at::IntArrayRef{2, 1, 1, 1} : at::IntArrayRef{1, 2, 1, 1});
    const Grid grid{scale, at::full_like(scale, 0.5), {}};
    // The layout is not the order of the values.
    const TensorStatistics found = inspect_tensor(
        quantized * 0.5, quantized.contiguous(at::MemoryFormat::ChannelsLast), grid, 1, "xnor");
    EXPECT_EQ(found.levels, 2);
    EXPECT_FALSE(found.scale);
    EXPECT_EQ(found.scale_min, 0.5);
    EXPECT_EQ(found.scale_max, 2.0);
    EXPECT_EQ(found.zero_point, 0.5);
    EXPECT_EQ(found.scales, 2);
    EXPECT_EQ(found.saturated, 0.0);
    const double low = 3.0 / 8.0;
    EXPECT_NEAR(found.entropy.value(), -low * std::log2(low) - (1 - low) * std::log2(1 - low),
                1e-12);
  }
}

TEST(Inspection, ChannelOfZeros_IsOneLevel) {
  const at::Tensor scale = doubles({0.0, 1.0}, {2, 1});
  const at::Tensor quantized = doubles({0.0, -0.0, 0.5, -0.5}, {2, 2});
  const TensorStatistics found =
      inspect_tensor(quantized, quantized, Grid{scale, at::full_like(scale, 0.5), {}}, 1, "xnor");
  EXPECT_EQ(found.levels, 2);
  EXPECT_FALSE(found.sqnr_db);
}

TEST(Inspection, Codebook_GivesTheNearestEntry) {
  const std::vector<double> codebook = {-1.0, -0.25, 0.0, 0.5};
  const at::Tensor quantized = doubles({-2.0, -0.5, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0}, {8});
  const at::Tensor real = doubles({-2.5, -0.4, 0.1, 1.0, 0.9, 1.1, 1.2, 0.8}, {8});
  const TensorStatistics found =
      inspect_tensor(real, quantized, Grid{number(2.0), at::Tensor(), codebook}, 2, "apot");
  EXPECT_EQ(found.levels, 4);
  EXPECT_EQ(found.scale, 2.0);
  EXPECT_FALSE(found.zero_point);
  EXPECT_DOUBLE_EQ(found.saturated, 3.0 / 8.0);  // -2.5, 1.1 and 1.2.
  EXPECT_NEAR(found.entropy.value(), 3.0 / 8.0 * 3.0 - 5.0 / 8.0 * std::log2(5.0 / 8.0), 1e-12);
}

// Codes 0 to 2 of 4: what a method with one bit for the sign uses.
TEST(Inspection, GridWithoutItsLastCode_SaturatesAtTheOneBefore) {
  const at::Tensor real = doubles({-1.2, -0.4, 0.9, 1.3, 1.6, 0.2}, {6});
  const at::Tensor quantized = doubles({-1.0, 0.0, 1.0, 1.0, 1.0, 0.0}, {6});
  const TensorStatistics found =
      inspect_tensor(real, quantized, Grid{number(1.0), number(1.0), {}}, 2, "wrpn");
  EXPECT_EQ(found.levels, 3);
  EXPECT_DOUBLE_EQ(found.saturated, 2.0 / 6.0);  // -1.2 and 1.6; 1.3 is also nearest to 1.
}

// Every method, part and number of bits against sets and maps over the values.
TEST(Inspection, EveryMethod_HasAtMostItsLevelsAndMatchesBruteForce) {
  for (const MethodInfo& method : methods()) {
    for (const int bits : {1, 2, 3, 4, 8, 16}) {
      const QuantizerSite site = {.layer = "conv",
                                  .bits = bits,
                                  .channels = 6,
                                  .out_channels = 6,
                                  .options = {},
                                  .tensors = at::TensorOptions().dtype(at::kFloat)};
      for (const Part part : {Part::kWeights, Part::kActivations}) {
        if (refusal(method, part, bits, site.options)) {
          continue;
        }
        const std::string what =
            std::string(method.name) + " at " + std::to_string(bits) +
            (part == Part::kWeights ? " bits of weights" : " bits of activations");
        at::Tensor real =
            at::arange(6 * 6 * 25, at::kFloat).add(0.5).view({6, 6, 5, 5}).mul(0.7).sin().mul(1.3);
        at::Tensor quantized;
        std::optional<Grid> grid;
        if (part == Part::kWeights) {
          const auto quantizer = make_weight_quantizer(method.name, site);
          quantizer->quantize(real, {.training = true, .progress = 0.5, .seed = 1, .step = 0});
          quantized = quantizer->quantize(real, {});
          grid = quantizer->grid(real);
        } else {
          const auto quantizer = make_activation_quantizer(method.name, site);
          if (quantizer->takes_relu()) {
            real = real.relu();
          }
          quantizer->quantize(real, {.training = true, .progress = 0.5, .seed = 1, .step = 0});
          quantized = quantizer->quantize(real, {});
          grid = quantizer->grid();
        }
        ASSERT_TRUE(grid) << what;
        const TensorStatistics found = inspect_tensor(real, quantized, grid, bits, method.name);
        EXPECT_LE(found.levels.value(), std::int64_t{1} << bits) << what;
        EXPECT_GE(found.levels.value(), 1) << what;
        EXPECT_LE(found.entropy.value(), bits + 1e-9) << what;

        const at::Tensor r = real.to(at::kDouble).contiguous();
        const at::Tensor q = quantized.detach().to(at::kDouble).contiguous();
        const bool is_per_channel = grid->scale.numel() > 1;
        std::map<std::int64_t, std::set<double>> of_channel;
        double signal = 0.0;
        double noise = 0.0;
        for (std::int64_t i = 0; i < r.numel(); ++i) {
          const double x = r.data_ptr<double>()[i];
          const double y = q.data_ptr<double>()[i];
          const std::int64_t channel =
              !is_per_channel ? 0 : (part == Part::kWeights ? i / 150 : (i / 25) % 6);
          of_channel[channel].insert(y == 0.0 ? 0.0 : y);
          signal += x * x;
          noise += (x - y) * (x - y);
        }
        std::size_t most = 0;
        for (const auto& [channel, values] : of_channel) {
          most = std::max(most, values.size());
        }
        // The set knows no rounding.
        EXPECT_LE(found.levels.value(), static_cast<std::int64_t>(most)) << what;
        if (bits <= 4) {
          EXPECT_EQ(found.levels.value(), static_cast<std::int64_t>(most)) << what;
        }
        EXPECT_NEAR(found.sqnr_db.value(), 10.0 * std::log10(signal / noise), 1e-6) << what;
        // Every value lies on the grid.
        const at::Tensor scale = grid->scale.to(at::kDouble);
        if (grid->codebook.empty()) {
          const at::Tensor codes = q / scale + grid->zero_point.to(at::kDouble);
          EXPECT_LT((codes - codes.round()).abs().max().item<double>(), bits == 16 ? 0.05 : 1e-3)
              << what;
          EXPECT_GE(codes.round().min().item<double>(), 0.0) << what;
          EXPECT_LE(codes.round().max().item<double>(), std::pow(2.0, bits) - 1.0) << what;
        } else {
          EXPECT_LE(grid->codebook.size(), std::size_t{1} << bits) << what;
        }
      }
    }
  }
}

}  // namespace
}  // namespace bitrung::train
