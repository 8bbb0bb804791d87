#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "tests/unit/worker/train/test_files.h"
#include "worker/train/failure.h"
#include "worker/train/fused/kernels.h"
#include "worker/train/fused/packing.h"
#include "worker/train/fused/residual.h"
#include "worker/train/nn/network.h"
#include "worker/train/sgd.h"

namespace bitrung::train::fused {
namespace {

constexpr Pass kTraining{true, 0.25, 20, 7, false};

// Numbers that look random and are the same everywhere.
at::Tensor numbers(at::IntArrayRef shape, double phase) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    count *= size;
  }
  const at::Tensor x = ((at::arange(count, at::kDouble) + phase) * 12.9898).sin() * 43758.5453;
  return ((x - x.floor()) * 2 - 1).reshape(shape);
}

// |a - b| / |b|
double difference(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor exact = b.to(at::kDouble);
  return ((a.to(at::kDouble) - exact).norm() / (exact.norm() + 1e-30)).item<double>();
}

// ---- one convolution

// (C,H,W) in blocks of 16 channels, with a frame of `margin` zeros.
std::vector<float> blocked(const at::Tensor& x, std::int64_t margin) {
  const std::int64_t blocks = x.size(0) / kBlock;
  const at::Tensor padded = at::constant_pad_nd(x, {margin, margin, margin, margin});
  const at::Tensor ordered = padded.reshape({blocks, kBlock, padded.size(1), padded.size(2)})
                                 .permute({0, 2, 3, 1})
                                 .contiguous()
                                 .to(at::kFloat);
  return {ordered.data_ptr<float>(), ordered.data_ptr<float>() + ordered.numel()};
}

std::vector<float> padded_image(const at::Tensor& x) {
  const at::Tensor ordered =
      at::constant_pad_nd(x, {1, 1, 1, 1}).permute({1, 2, 0}).contiguous().to(at::kFloat);
  return {ordered.data_ptr<float>(), ordered.data_ptr<float>() + ordered.numel()};
}

at::Tensor plain(const std::vector<float>& values, std::int64_t channels, std::int64_t side) {
  return at::from_blob(const_cast<float*>(values.data()), {channels / kBlock, side, side, kBlock},
                       at::kFloat)
      .permute({0, 3, 1, 2})
      .reshape({channels, side, side})
      .to(at::kDouble);
}

struct Case {
  int side;
  int stride;
  int taps;
  int in;
  int out;
};

std::vector<Case> cases() {
  return {{32, 1, 9, 3, 16},  {32, 1, 9, 3, 48},  {32, 1, 9, 16, 16}, {16, 2, 9, 16, 32},
          {16, 2, 1, 16, 32}, {16, 1, 9, 32, 32}, {8, 2, 9, 32, 64},  {8, 2, 1, 32, 64},
          {8, 1, 9, 64, 64},  {32, 1, 9, 48, 48}, {8, 2, 9, 48, 80},  {16, 1, 9, 80, 48}};
}

class KernelsTest : public testing::TestWithParam<const Kernels*> {};

std::vector<const Kernels*> tables() {
  const KernelList list = usable_kernels();
  return {list.tables, list.tables + list.count};
}

INSTANTIATE_TEST_SUITE_P(Tables, KernelsTest, testing::ValuesIn(tables()), [](const auto& table) {
  std::string name = table.param->name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(KernelsTest, Convolutions_AndTheirGradientsEqualLibTorchInDouble) {
  const Kernels& kernels = *GetParam();
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::Message()
                 << c.side << " " << c.stride << " " << c.taps << " " << c.in << " " << c.out);
    const bool is_image = c.in == kImageChannels;
    const Convolution shape{c.side, c.stride, c.taps, is_image ? 0 : c.in / kBlock, c.out / kBlock};
    const int k = c.taps == 9 ? 3 : 1;
    const int in_side = c.side * c.stride;
    at::Tensor x = numbers({1, c.in, in_side, in_side}, 1).set_requires_grad(true);
    at::Tensor w = numbers({c.out, c.in, k, k}, 2).set_requires_grad(true);
    const at::Tensor residual = numbers({c.out, c.side, c.side}, 3);
    const at::Tensor dy = numbers({c.out, c.side, c.side}, 4);
    const at::Tensor y = at::conv2d(x, w, {}, c.stride, k / 2)[0];
    (y * dy).sum().backward();

    PackedWeights packed;
    const at::Tensor w_float = w.detach().to(at::kFloat).contiguous();
    pack(w_float.data_ptr<float>(), shape, kernels, packed);
    const std::vector<float> in =
        is_image ? padded_image(x.detach()[0]) : blocked(x.detach()[0], 1);
    std::vector<float> out(static_cast<std::size_t>(residual.numel()));
    kernels.convolve(shape, in.data(), packed.forward.data(), nullptr, out.data());
    EXPECT_LT(difference(plain(out, c.out, c.side), y.detach()), 1e-6);
    std::vector<float> sum = blocked(residual, 0);
    kernels.convolve(shape, in.data(), packed.forward.data(), sum.data(), sum.data());
    EXPECT_LT(difference(plain(sum, c.out, c.side), y.detach() + residual), 1e-6);

    const std::vector<float> padded_dy = blocked(dy, 1);
    std::vector<float> dw(static_cast<std::size_t>(w.numel()), 0.0F);
    kernels.weight_gradients(shape, in.data(), padded_dy.data(), dw.data());
    at::Tensor dw_plain = at::empty(w.sizes(), at::kFloat);
    unpack_gradients(dw.data(), 1, shape, dw_plain.data_ptr<float>());
    EXPECT_LT(difference(dw_plain, w.grad()), 1e-6);
    if (is_image) continue;

    std::vector<float> dx(static_cast<std::size_t>(x.numel()), 0.0F);
    kernels.input_gradients(shape, padded_dy.data(), packed.backward.data(), false, dx.data());
    EXPECT_LT(difference(plain(dx, c.in, in_side), x.grad()[0]), 1e-6);
    kernels.input_gradients(shape, padded_dy.data(), packed.backward.data(), true, dx.data());
    EXPECT_LT(difference(plain(dx, c.in, in_side), x.grad()[0] * 2), 1e-6);
  }
}

// Behind a normalisation gradients sum to 0 over all images, and with codes of one bit most of what
// is summed up cancels.
TEST_P(KernelsTest, WeightGradientsOfManyImages_LoseNothingToTheTotal) {
  const Kernels& kernels = *GetParam();
  constexpr std::int64_t kImages = 48;
  const Convolution shape{32, 1, 9, 1, 1};
  at::Tensor x = numbers({kImages, 16, 32, 32}, 1).gt(-0.9).to(at::kDouble);
  at::Tensor dy = numbers({kImages, 16, 32, 32}, 2);
  dy -= dy.mean({0, 2, 3}, true);
  // Half of the images pull one way, half the other.
  dy.narrow(0, 0, kImages / 2) += 0.5;
  dy.narrow(0, kImages / 2, kImages / 2) -= 0.5;
  dy = dy.to(at::kFloat).to(at::kDouble);
  std::vector<float> dw(9 * kBlock * kBlock, 0.0F);
  for (std::int64_t n = 0; n < kImages; ++n) {
    const std::vector<float> in = blocked(x[n], 1);
    kernels.weight_gradients(shape, in.data(), blocked(dy[n], 1).data(), dw.data());
  }
  at::Tensor found = at::empty({16, 16, 3, 3}, at::kFloat);
  unpack_gradients(dw.data(), 1, shape, found.data_ptr<float>());
  const at::Tensor w = at::zeros({16, 16, 3, 3}, at::kDouble).set_requires_grad(true);
  (at::conv2d(x, w, {}, 1, 1) * dy).sum().backward();
  EXPECT_LT(difference(found, w.grad()), 5e-5);
}

TEST_P(KernelsTest, ConvolutionsOfCodes_AreExact) {
  const Kernels& kernels = *GetParam();
  if (kernels.convolve_codes == nullptr) GTEST_SKIP() << "this table has none";
  for (const Case& c : cases()) {
    if (c.in == kImageChannels) continue;
    const Convolution shape{c.side, c.stride, c.taps, c.in / kBlock, c.out / kBlock};
    const int k = c.taps == 9 ? 3 : 1;
    const int in_side = c.side * c.stride;
    // The largest codes there are.
    const at::Tensor x = (numbers({c.in, in_side, in_side}, 1) * 127.5 + 127.5).round();
    const at::Tensor w = (numbers({c.out, c.in, k, k}, 2) * 127).round();
    const at::Tensor scale = at::arange(1, c.out + 1, at::kDouble) / 64;  // Exact in floats.
    const at::Tensor y =
        at::conv2d(x.unsqueeze(0), w, {}, c.stride, k / 2)[0] * scale.view({-1, 1, 1});
    const at::Tensor w_float = (w * scale.view({-1, 1, 1, 1})).to(at::kFloat).contiguous();
    const at::Tensor scale_float = scale.to(at::kFloat);
    PackedWeights packed;
    ASSERT_TRUE(find_codes(w_float.data_ptr<float>(), shape,
                           {scale_float.data_ptr<float>(), static_cast<std::size_t>(c.out)},
                           packed));
    pack_codes(shape, kernels, packed);
    const std::vector<float> values = blocked(x, 1);
    const std::vector<std::uint8_t> codes(values.begin(), values.end());
    std::vector<float> out(static_cast<std::size_t>(y.numel()));
    kernels.convolve_codes(shape, codes.data(), packed.codes.data(), packed.code_values.data(),
                           nullptr, out.data());
    EXPECT_TRUE(at::equal(plain(out, c.out, c.side), y.to(at::kFloat).to(at::kDouble)));
  }
}

// Codes are exact, floats are the sums of two halves.
TEST_P(KernelsTest, ConvolutionsByTiles_AndTheirGradientsEqualLibTorchInDouble) {
  if (GetParam()->tiles == nullptr) GTEST_SKIP() << "this table has none";
  const Kernels& kernels = *GetParam();
  const TileKernels& tiles = *kernels.tiles;
  constexpr double kTolerance = 6e-6;
  for (const Case& c : cases()) {
    for (const bool is_coded : {true, false}) {
      const bool is_image = c.in == kImageChannels;
      if (is_image && is_coded) continue;
      SCOPED_TRACE(testing::Message() << c.side << " " << c.stride << " " << c.taps << " " << c.in
                                      << " " << c.out << " " << is_coded);
      const Convolution shape{c.side, c.stride, c.taps, is_image ? 0 : c.in / kBlock,
                              c.out / kBlock};
      const int k = c.taps == 9 ? 3 : 1;
      const int in_side = c.side * c.stride;
      // The largest codes there are.
      const at::Tensor x =
          (is_coded   ? (numbers({1, c.in, in_side, in_side}, 1) * 127.5 + 127.5).round()
           : is_image ? numbers({1, c.in, in_side, in_side}, 1)
                      : numbers({1, c.in, in_side, in_side}, 1).abs())
              .set_requires_grad(true);
      const at::Tensor scale = (at::arange(1, c.out + 1, at::kDouble) / 64).view({-1, 1, 1, 1});
      const at::Tensor w = (is_coded ? (numbers({c.out, c.in, k, k}, 2) * 127).round() * scale
                                     : numbers({c.out, c.in, k, k}, 2))
                               .set_requires_grad(true);
      const at::Tensor residual = numbers({c.out, c.side, c.side}, 3);
      const at::Tensor dy = numbers({c.out, c.side, c.side}, 4);
      const at::Tensor y = at::conv2d(x, w, {}, c.stride, k / 2)[0];
      (y * dy).sum().backward();

      PackedWeights packed;
      const at::Tensor w_float = w.detach().to(at::kFloat).contiguous();
      const at::Tensor scale_float = scale.to(at::kFloat).flatten().contiguous();
      if (is_coded) {
        ASSERT_TRUE(find_codes(w_float.data_ptr<float>(), shape,
                               {scale_float.data_ptr<float>(), static_cast<std::size_t>(c.out)},
                               packed));
      }
      pack_tiles(w_float.data_ptr<float>(), shape, packed);
      // What is left of another image must not matter.
      Line used{};
      std::fill(std::begin(used.halves), std::end(used.halves), std::uint16_t{0x4000});
      const TileSizes sizes = tile_sizes(shape);
      std::vector<Line> rows(sizes.rows, used);
      std::vector<Line> columns(sizes.columns, used);
      std::vector<Line> pairs(sizes.pairs, used);
      std::vector<Line> windows(sizes.windows, used);
      const std::vector<float> ones(static_cast<std::size_t>(std::max(c.in, c.out)), 1.0F);
      const std::vector<float> zeros(ones.size(), 0.0F);
      const NormForward norm{ones.data(), zeros.data(), zeros.data()};
      Activation rule;
      if (is_coded) {
        rule = {Activation::Kind::kNearest, 1.0F, 1.0F, 255.0F, 255.0F, true, false};
      }
      const std::vector<float> dy_blocked = blocked(dy, 0);

      Ahead ahead;
      tiles.begin();
      tiles.gradients(dy_blocked.data(), c.side, c.out / kBlock, packed.gradient_factors.data(),
                      packed.gradient_pieces == 1 ? 2 : 3, rows.data(), columns.data());
      std::vector<float> dw(tile_gradient_size(shape), 0.0F);
      if (is_image) {
        tiles.image(shape, padded_image(x.detach()[0]).data(), pairs.data());
        tiles.image_weight_gradients(shape, pairs.data(), columns.data(), dw.data(), ahead);
      } else {
        const int pieces = is_coded ? 1 : 2;
        tiles.activate(shape, blocked(x.detach()[0], 0).data(), norm, rule, pieces, pairs.data());
        tiles.weight_gradients(shape, pairs.data(), pieces, columns.data(), dw.data(), ahead);
      }
      at::Tensor dw_plain = at::empty(w.sizes(), at::kFloat);
      unpack_tile_gradients(dw.data(), 1, shape, packed, 1.0F, dw_plain.data_ptr<float>());
      EXPECT_LT(difference(dw_plain, w.grad()), kTolerance);

      if (!is_image) {
        std::vector<float> dx(static_cast<std::size_t>(x.numel()), 0.0F);
        for (const bool adds : {false, true}) {
          tiles.input_gradients(shape, rows.data(), packed.gradient_tiles.data(),
                                packed.gradient_pieces, adds, dx.data(), ahead);
          EXPECT_LT(difference(plain(dx, c.in, in_side), x.grad()[0] * (adds ? 2 : 1)),
                    is_coded ? kTolerance : 1e-6);
        }
      }
      if (is_coded && c.taps == 9) {
        tiles.activate_codes(shape, blocked(x.detach()[0], 0).data(), norm, rule, windows.data());
        std::vector<float> out(static_cast<std::size_t>(y.numel()));
        tiles.convolve_codes(shape, windows.data(), packed.code_tiles.data(),
                             packed.code_values.data(), nullptr, out.data(), nullptr, ahead);
        EXPECT_TRUE(
            at::equal(plain(out, c.out, c.side), y.detach().to(at::kFloat).to(at::kDouble)));
        std::vector<float> sum = blocked(residual, 0);
        const at::Tensor shift = numbers({c.out}, 5).to(at::kFloat).contiguous();
        std::vector<double> sums(static_cast<std::size_t>(c.out), 0.0);
        std::vector<double> squares(sums.size(), 0.0);
        const MomentSums moments{shift.data_ptr<float>(), sums.data(), squares.data()};
        tiles.convolve_codes(shape, windows.data(), packed.code_tiles.data(),
                             packed.code_values.data(), sum.data(), sum.data(), &moments, ahead);
        EXPECT_LT(difference(plain(sum, c.out, c.side), y.detach() + residual), 1e-6);
        const at::Tensor centered = y.detach() + residual - shift.to(at::kDouble).view({-1, 1, 1});
        EXPECT_LT(difference(at::tensor(sums), centered.sum({1, 2})), 1e-6);
        EXPECT_LT(difference(at::tensor(squares), centered.square().sum({1, 2})), 1e-6);
      }
      if (!is_coded && has_forward_tiles(shape)) {
        tiles.activate_rows(shape, blocked(x.detach()[0], 0).data(), norm, rule, rows.data());
        std::vector<float> out(static_cast<std::size_t>(y.numel()));
        tiles.convolve(shape, rows.data(), packed.forward_tiles.data(), nullptr, out.data(), ahead);
        EXPECT_LT(difference(plain(out, c.out, c.side), y.detach()), 1e-6);
        std::vector<float> sum = blocked(residual, 0);
        tiles.convolve(shape, rows.data(), packed.forward_tiles.data(), sum.data(), sum.data(),
                       ahead);
        EXPECT_LT(difference(plain(sum, c.out, c.side), y.detach() + residual), 1e-6);
      }
      tiles.end();
    }
  }
}

// ---- what lies between two convolutions

struct NamedRule {
  const char* name;
  Activation rule;
};

std::vector<NamedRule> rules() {
  const auto nearest = [](float step, float levels, bool is_closed, bool is_learned) {
    return Activation{Activation::Kind::kNearest,
                      1.0F / step,
                      step,
                      levels,
                      step * levels,
                      is_closed,
                      is_learned};
  };
  return {{"relu", {}},
          {"sign", {Activation::Kind::kSign, 1.0F, 1.0F, 1.0F, 1.0F, true, false}},
          {"2 levels", nearest(1.0F, 1.0F, true, false)},
          {"4 levels", nearest(0.4F, 3.0F, false, true)},
          {"16 levels", nearest(1.0F / 15.0F, 15.0F, true, false)},
          {"128 levels", nearest(0.013F, 127.0F, false, true)},
          {"256 levels", nearest(1.0F / 255.0F, 255.0F, true, false)},
          {"65536 levels", nearest(1.0F / 65535.0F, 65535.0F, true, false)}};
}

TEST_P(KernelsTest, WhatLiesBetweenConvolutions_EqualsTheFormulasInDouble) {
  const Kernels& kernels = *GetParam();
  constexpr int kSide = 8;
  constexpr int kChannels = 48;
  const at::Tensor x = numbers({kChannels, kSide, kSide}, 1).to(at::kFloat).to(at::kDouble) * 2;
  const at::Tensor other = numbers({kChannels, kSide, kSide}, 6);
  const auto of_channels = [](double phase) {
    return numbers({kChannels}, phase).to(at::kFloat).contiguous();
  };
  const at::Tensor scale = of_channels(2).abs().add(0.5);
  const at::Tensor offset = of_channels(3) * 0.5;
  const at::Tensor mean = of_channels(4) * 0.1;
  const NormForward norm{scale.data_ptr<float>(), offset.data_ptr<float>(), mean.data_ptr<float>()};
  const auto wide = [](const at::Tensor& values) {
    return values.to(at::kDouble).view({-1, 1, 1});
  };
  const at::Tensor z = x * wide(scale) + wide(offset);
  const std::vector<float> x_blocked = blocked(x, 0);
  for (const auto& [name, rule] : rules()) {
    SCOPED_TRACE(name);
    const bool is_real = rule.kind == Activation::Kind::kRelu;
    const bool is_sign = rule.kind == Activation::Kind::kSign;
    const double factor = static_cast<double>(rule.factor);
    const double high = static_cast<double>(rule.high);
    // In single precision a value at an edge may fall on the other side of it.
    at::Tensor is_clear = z.abs().gt(1e-5);
    if (!is_real) {
      is_clear = is_clear.logical_and((z - high).abs().gt(1e-5));
    }
    if (!is_real && !is_sign) {
      const at::Tensor v = z * factor;
      is_clear = is_clear.logical_and((v - v.floor() - 0.5).abs().gt(1e-6 * factor));
    }
    EXPECT_GT(is_clear.to(at::kDouble).mean().item<double>(), 0.85);
    const at::Tensor rectified = z.clamp_min(0);
    const at::Tensor code =
        is_sign ? z.gt(0).to(at::kDouble)
                : (rectified * factor).clamp_max(static_cast<double>(rule.code_high)).round();
    const at::Tensor y = is_real ? rectified : code * static_cast<double>(rule.step);

    std::vector<float> padded = blocked(at::zeros_like(x), 1);
    std::vector<std::uint8_t> codes(padded.size(), 0);
    const bool has_codes = !is_real && rule.code_high <= 255.0F;
    kernels.activate(x_blocked.data(), kSide, kChannels / kBlock, norm, rule, padded.data(),
                     has_codes ? codes.data() : nullptr);
    const auto inner = [](const std::vector<float>& values) {
      return plain(values, kChannels, kSide + 2).slice(1, 1, kSide + 1).slice(2, 1, kSide + 1);
    };
    EXPECT_LT(difference(inner(padded) * is_clear, y * is_clear), 1e-6);
    EXPECT_EQ(plain(padded, kChannels, kSide + 2).abs().sum().item<double>(),
              inner(padded).abs().sum().item<double>());  // The frame is left alone.
    if (has_codes) {
      const at::Tensor found = inner({codes.begin(), codes.end()});
      EXPECT_TRUE(at::equal(found * is_clear, code * is_clear));
    }

    const at::Tensor dy = numbers({kChannels, kSide, kSide}, 5) * is_clear;
    at::Tensor passes = z.gt(0);
    if (!is_real) {
      passes = passes.logical_and(rule.is_closed ? z.le(high) : z.lt(high));
    }
    std::vector<float> g = blocked(dy, 0);
    std::vector<double> sums(kChannels, 0.0);
    std::vector<double> sums_with_x(kChannels, 0.0);
    LearnedSums learned;
    kernels.pass_gradients(x_blocked.data(), g.data(), kSide, kChannels / kBlock, norm, rule,
                           g.data(), sums.data(), sums_with_x.data(), &learned);
    const at::Tensor passed = dy * passes;
    EXPECT_LT(difference(plain(g, kChannels, kSide), passed), 1e-6);
    EXPECT_LT(difference(at::tensor(sums), passed.sum({1, 2})), 1e-6);
    EXPECT_LT(difference(at::tensor(sums_with_x), (passed * (x - wide(mean))).sum({1, 2})), 1e-6);
    if (rule.is_learned) {
      EXPECT_NEAR(learned.inside, (passed * (code - z * factor)).sum().item<double>(), 1e-3);
      EXPECT_NEAR(learned.above, (dy * z.ge(high)).sum().item<double>(), 1e-4);
    }
  }

  std::vector<double> sums(kChannels, 0.0);
  std::vector<double> squares(kChannels, 0.0);
  std::vector<float> lows(kChannels);
  std::vector<float> highs(kChannels);
  kernels.add_moments(x_blocked.data(), kSide, kChannels / kBlock, mean.data_ptr<float>(),
                      sums.data(), squares.data(), lows.data(), highs.data());
  EXPECT_LT(difference(at::tensor(sums), (x - wide(mean)).sum({1, 2})), 1e-6);
  EXPECT_LT(difference(at::tensor(squares), (x - wide(mean)).square().sum({1, 2})), 1e-6);

  EXPECT_TRUE(at::equal(at::tensor(lows).to(at::kDouble), x.amin({1, 2})));
  EXPECT_TRUE(at::equal(at::tensor(highs).to(at::kDouble), x.amax({1, 2})));

  const at::Tensor slope = of_channels(7);
  const at::Tensor constant = of_channels(8);
  const NormBackward back{scale.data_ptr<float>(), mean.data_ptr<float>(), slope.data_ptr<float>(),
                          constant.data_ptr<float>()};
  const at::Tensor g = numbers({kChannels, kSide, kSide}, 9);
  const at::Tensor dx = g * wide(scale) + (x - wide(mean)) * wide(slope) + wide(constant);
  std::vector<float> sum = blocked(other, 0);
  std::vector<float> padded = blocked(at::zeros_like(x), 1);
  const std::vector<float> g_blocked = blocked(g, 0);
  kernels.norm_gradients(g_blocked.data(), x_blocked.data(), kSide, kChannels / kBlock, back,
                         sum.data(), sum.data(), padded.data());
  EXPECT_LT(difference(plain(sum, kChannels, kSide), dx + other), 1e-6);
  EXPECT_EQ(blocked(plain(sum, kChannels, kSide), 1), padded);
  if (kernels.tiles != nullptr) {
    // With and without another gradient and its sum; the factors are for the tiles alone.
    const at::Tensor factors = of_channels(10);
    const TileSizes sizes = tile_sizes({kSide, 1, 9, 0, kChannels / kBlock});
    for (const bool has_other : {true, false}) {
      const auto both_forms = [&](const auto& write) {
        std::vector<Line> lines(sizes.rows + sizes.columns);
        write(lines.data(), lines.data() + sizes.rows);
        return std::vector<std::uint16_t>(lines.front().halves, lines.back().halves + 32);
      };
      std::vector<float> tile_sum = blocked(other, 0);
      const auto found = both_forms([&](Line* rows, Line* columns) {
        kernels.tiles->norm_gradients(g_blocked.data(), x_blocked.data(), kSide, kChannels / kBlock,
                                      back, factors.data_ptr<float>(),
                                      has_other ? tile_sum.data() : nullptr, tile_sum.data(), 3,
                                      rows, columns);
      });
      EXPECT_LT(difference(plain(tile_sum, kChannels, kSide), has_other ? dx + other : dx), 1e-6);
      EXPECT_EQ(found, both_forms([&](Line* rows, Line* columns) {
                  kernels.tiles->gradients(tile_sum.data(), kSide, kChannels / kBlock,
                                           factors.data_ptr<float>(), 3, rows, columns);
                }));
    }
  }
  kernels.norm_gradients(g_blocked.data(), x_blocked.data(), kSide, kChannels / kBlock, back,
                         nullptr, nullptr, padded.data());
  EXPECT_LT(difference(plain(padded, kChannels, kSide + 2), at::constant_pad_nd(dx, {1, 1, 1, 1})),
            1e-6);

  std::vector<float> means(kChannels);
  kernels.pool(x_blocked.data(), kSide, kChannels / kBlock, norm, means.data());
  EXPECT_LT(difference(at::tensor(means), z.clamp_min(0).mean({1, 2})), 1e-6);
}

TEST(Packing, Codes_AreFoundOrRefused) {
  const Convolution shape{8, 1, 1, 1, 1};
  PackedWeights packed;
  std::vector<float> w(256, 0.0F);
  const std::vector<float> one = {0.25F};
  w[0] = 0.25F * 127;
  EXPECT_TRUE(find_codes(w.data(), shape, one, packed));
  EXPECT_EQ(packed.code_values[0], 0.25F);
  w[0] = 0.125F;  // Halves, as of an even number of levels about 0.
  EXPECT_TRUE(find_codes(w.data(), shape, one, packed));
  EXPECT_EQ(packed.code_values[0], 0.125F);
  for (const float wrong : {0.25F * 128, 0.1F, NAN, INFINITY}) {
    w[0] = wrong;
    EXPECT_FALSE(find_codes(w.data(), shape, one, packed)) << wrong;
    EXPECT_FALSE(packed.has_codes);
  }
  w[0] = 1.0F;
  EXPECT_FALSE(find_codes(w.data(), shape, std::vector<float>{0.0F}, packed));
}

// ---- two blocks, one with the identity and one that changes the shape, by every table

struct Parts {
  Parts(const std::string& method, int bits, at::ScalarType type, double phase) {
    const auto make = [&](Layer& layer, std::int64_t in, std::int64_t out, std::int64_t kernel,
                          std::int64_t stride, bool is_quantized) {
      layer.plan = {"layer", LayerRole::kInner, true, in, out, kernel, stride, 0};
      layer.weight = (numbers({out, in, kernel, kernel}, phase + static_cast<double>(count++)) *
                      (2.0 / std::sqrt(static_cast<double>(in * kernel * kernel))))
                         .to(type)
                         .set_requires_grad(true);
      learned["w" + std::to_string(count)] = layer.weight;
      if (is_quantized && bits < 32) {
        QuantizerSite site{"layer", bits, out, out, {}, at::TensorOptions().dtype(type)};
        site.options.clip_init = 2.0;
        layer.quantizer = make_weight_quantizer(method, site);
        site.channels = in;
        layer.input = make_activation_quantizer(method, site);
        for (const QuantizerState* const state :
             {static_cast<const QuantizerState*>(layer.quantizer.get()),
              static_cast<const QuantizerState*>(layer.input.get())}) {
          for (const LearnedTensor& tensor : state->parameters()) {
            learned["q" + std::to_string(learned.size())] = tensor.tensor;
          }
        }
      }
    };
    make(first, 3, 16, 3, 1, false);
    make(one_a, 16, 16, 3, 1, true);
    make(two_a, 16, 16, 3, 1, true);
    make(one_b, 16, 32, 3, 2, true);
    make(two_b, 32, 32, 3, 1, true);
    make(down, 16, 32, 1, 2, false);
    std::int64_t channels = 16;
    for (BatchNorm* const norm : {&norms[0], &norms[1], &norms[2], &norms[3], &norms[4]}) {
      norm->name = "bn";
      norm->weight = (numbers({channels}, phase + 50.0 + static_cast<double>(count)) * 0.3 + 1.0)
                         .to(type)
                         .set_requires_grad(true);
      norm->bias = (numbers({channels}, phase + 80.0 + static_cast<double>(count)) * 0.3 + 0.2)
                       .to(type)
                       .set_requires_grad(true);
      norm->running_mean = at::zeros({channels}, type);
      norm->running_var = at::ones({channels}, type);
      norm->num_batches_tracked = at::zeros({}, at::kLong);
      learned["g" + std::to_string(count)] = norm->weight;
      learned["b" + std::to_string(count)] = norm->bias;
      ++count;
      channels = norm == &norms[2] ? 32 : channels;
    }
  }

  ResidualSites sites() {
    return {&first,
            {{{&norms[0], &one_a}, {&norms[1], &two_a}, nullptr},
             {{&norms[2], &one_b}, {&norms[3], &two_b}, &down}},
            &norms[4]};
  }

  // The same by LibTorch's operations.
  at::Tensor features(const at::Tensor& images, const Pass& pass) {
    const auto normal = [&](const at::Tensor& x, BatchNorm& norm) {
      return at::batch_norm(x, norm.weight, norm.bias, norm.running_mean, norm.running_var,
                            pass.training, 0.1, 1e-5, false);
    };
    const auto input = [&](const at::Tensor& x, BatchNorm& norm, Layer& layer) {
      const at::Tensor z = at::relu(normal(x, norm));
      return layer.input == nullptr ? z : layer.input->quantize(z, pass);
    };
    at::Tensor x = first.apply(images, pass);
    x = two_a.apply(input(one_a.apply(input(x, norms[0], one_a), pass), norms[1], two_a), pass) + x;
    const at::Tensor y = input(x, norms[2], one_b);
    x = two_b.apply(input(one_b.apply(y, pass), norms[3], two_b), pass) + down.apply(y, pass);
    return at::relu(normal(x, norms[4])).mean({2, 3});
  }

  int count = 0;
  Layer first, one_a, two_a, one_b, two_b, down;
  BatchNorm norms[5];
  std::map<std::string, at::Tensor> learned;
};

struct Outcome {
  at::Tensor features;
  at::Tensor evaluated;
  std::map<std::string, at::Tensor> gradients;
  at::Tensor running_var;
};

// A first pass sets what quantizers take from a first batch.
template <typename Forward>
Outcome outcome(Parts& parts, at::ScalarType type, double phase, const Forward& forward) {
  const at::Tensor images =
      numbers({3, 3, 32, 32}, phase).to(type).contiguous(at::MemoryFormat::ChannelsLast);
  {
    // Other images, lest a range ends at the very largest value, where the last digit decides.
    const at::NoGradGuard no_grad;
    parts.features(images.flip({2}) * 1.2, kTraining);
  }
  Outcome result;
  const at::Tensor features = forward(images, kTraining);
  (features * numbers({3, 32}, phase + 9).to(type)).sum().backward();
  result.features = features.detach();
  for (const auto& [name, tensor] : parts.learned) {
    result.gradients[name] = tensor.grad();
  }
  result.running_var = parts.norms[3].running_var;
  const at::NoGradGuard no_grad;
  result.evaluated = forward(images, kEvaluationPass);
  return result;
}

double worst_difference(const Outcome& found, const Outcome& expected) {
  double worst = std::max({difference(found.features, expected.features),
                           difference(found.evaluated, expected.evaluated),
                           difference(found.running_var, expected.running_var)});
  for (const auto& [name, gradient] : expected.gradients) {
    worst = std::max(worst, difference(found.gradients.at(name), gradient));
  }
  return worst;
}

TEST(Residual, BlocksAndAllGradients_EqualLibTorchInDouble) {
  struct Setting {
    std::string method;
    std::vector<int> bits;
  };
  for (const Setting& setting :
       {Setting{"dorefa", {1, 2, 4, 8, 32}}, Setting{"dorefa-paper", {2}}, Setting{"pact", {1, 4}},
        Setting{"lsq", {2, 8}}, Setting{"linear", {2, 3}}, Setting{"wrpn", {2}}}) {
    for (const int bits : setting.bits) {
      // A value at the edge of a level may fall on the other side in double, and then all that
      // follows differs a little, and sums that nearly vanish differ much. That the loops are exact
      // is the other tests' to show, and that they are put together rightly is this one's.
      std::map<std::string, std::vector<double>> worst;
      for (const double phase : {1.0, 20.0, 31.0}) {
        Parts exact(setting.method, bits, at::kDouble, phase);
        const Outcome expected =
            outcome(exact, at::kDouble, phase,
                    [&](const at::Tensor& x, const Pass& pass) { return exact.features(x, pass); });
        for (const Kernels* const table : tables()) {
          Parts parts(setting.method, bits, at::kFloat, phase);
          ASSERT_EQ(why_not(parts.sites()), "");
          Residual residual(parts.sites(), *table);
          const Outcome found =
              outcome(parts, at::kFloat, phase, [&](const at::Tensor& x, const Pass& pass) {
                EXPECT_TRUE(residual.can_do(x, pass));
                return residual.features(x, pass);
              });
          worst[table->name].push_back(worst_difference(found, expected));
        }
      }
      for (auto& [table, differences] : worst) {
        std::sort(differences.begin(), differences.end());
        EXPECT_LT(differences[1], bits == 32 ? 1e-5 : 0.05)
            << setting.method << " " << bits << " " << table;
      }
    }
  }
}

// ---- whole networks

std::unique_ptr<Network> network(const NetworkChoice& choice, at::ScalarType type) {
  return make_network({choice, 10}, 20, type);
}

NetworkChoice choice_of(const std::string& model, const std::string& method, int bits) {
  NetworkChoice choice;
  choice.model = model;
  choice.method.weights = choice.method.activations = method;
  choice.bits = bits_of(bits, bits);
  return choice;
}

std::map<std::string, at::Tensor> gradients_of(Network& network, const at::Tensor& images) {
  network.forward(images, kTraining).square().sum().backward();
  std::map<std::string, at::Tensor> result;
  for (const LearnedTensor& parameter : network.parameters()) {
    result[parameter.name] = parameter.tensor.grad();
  }
  return result;
}

TEST(FusedNetwork, Gradients_EqualTheEagerOnesInDouble) {
  for (const std::string model : {"resnet8", "resnet8x3"}) {
    const auto eager = network(choice_of(model, "dorefa", 32), at::kDouble);
    const auto fused = network(choice_of(model, "dorefa", 32), at::kFloat);
    ASSERT_EQ(fused->fuse(), "");
    EXPECT_EQ(fused->backend(), std::string("fused ") + kernels().name);
    const at::Tensor images = numbers({6, 3, 32, 32}, 5);
    const auto expected = gradients_of(*eager, images);
    const auto found =
        gradients_of(*fused, images.to(at::kFloat).contiguous(at::MemoryFormat::ChannelsLast));
    for (const auto& [name, gradient] : expected) {
      // In the wider network a value near 0 falls on the other side of the ReLU.
      EXPECT_LT(difference(found.at(name), gradient), model == "resnet8" ? 1e-5 : 0.02)
          << model << " " << name;
    }
  }
}

// Nothing of a step stays for the next one: batches of two sizes and evaluations take turns, and
// before each step the fused network gets the eager one's state.
TEST(FusedNetwork, StepsOfATraining_EqualTheEagerOnes) {
  for (const int bits : {1, 2, 4}) {
    const auto eager = network(choice_of("resnet8", "dorefa", bits), at::kFloat);
    const auto fused = network(choice_of("resnet8", "dorefa", bits), at::kFloat);
    ASSERT_EQ(fused->fuse(), "");
    Sgd sgd(OptimizerOptions{}, eager->parameters());
    std::vector<double> gradients;
    std::vector<double> states;
    std::vector<double> evaluations;
    for (int step = 0; step < 15; ++step) {
      for (std::size_t i = 0; i < eager->state().size(); ++i) {
        at::Tensor(fused->state()[i].tensor.detach()).copy_(eager->state()[i].tensor);
      }
      const at::Tensor images = numbers({step % 3 == 2 ? 5 : 24, 3, 32, 32}, 100.0 * step)
                                    .to(at::kFloat)
                                    .contiguous(at::MemoryFormat::ChannelsLast);
      const auto expected = gradients_of(*eager, images);
      const auto found = gradients_of(*fused, images);
      double worst = 0;
      for (const auto& [name, gradient] : expected) {
        worst = std::max(worst, difference(found.at(name), gradient));
      }
      gradients.push_back(worst);
      worst = 0;
      for (std::size_t i = 0; i < eager->state().size(); ++i) {
        worst = std::max(worst, difference(fused->state()[i].tensor, eager->state()[i].tensor));
      }
      states.push_back(worst);
      const at::NoGradGuard no_grad;
      evaluations.push_back(difference(fused->forward(images, kEvaluationPass),
                                       eager->forward(images, kEvaluationPass)));
      for (const LearnedTensor& parameter : fused->parameters()) {
        at::Tensor(parameter.tensor).mutable_grad() = at::Tensor();
      }
      sgd.step(0.01);
    }
    // In some steps, with 4 bits in most, a value lies so near the edge of a level that it falls on
    // the other side.
    for (std::vector<double>* const all : {&gradients, &states, &evaluations}) {
      std::sort(all->begin(), all->end());
      EXPECT_LT((*all)[bits == 4 ? 0 : all->size() / 2], 2e-5) << bits;
    }
  }
}

TEST(FusedNetwork, Results_DoNotDependOnTheThreads) {
  const int threads = at::get_num_threads();
  std::vector<std::map<std::string, at::Tensor>> all;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    const auto fused = network(choice_of("resnet14", "dorefa", 2), at::kFloat);
    ASSERT_EQ(fused->fuse(), "");
    const at::Tensor images =
        numbers({7, 3, 32, 32}, 5).to(at::kFloat).contiguous(at::MemoryFormat::ChannelsLast);
    all.push_back(gradients_of(*fused, images));
  }
  at::set_num_threads(threads);
  for (const auto& [name, gradient] : all[0]) {
    EXPECT_TRUE(at::equal(gradient, all[1].at(name))) << name;
    EXPECT_TRUE(at::equal(gradient, all[2].at(name))) << name;
  }
}

TEST(FusedNetwork, WhatItCannotDo_IsSaid) {
  const auto reason = [](NetworkChoice choice) { return network(choice, at::kFloat)->fuse(); };
  EXPECT_EQ(reason(choice_of("resnet8", "dorefa", 4)), "");
  EXPECT_EQ(reason(choice_of("plane4", "dorefa", 4)), "plane4 is no residual network");
  EXPECT_EQ(reason(choice_of("resnet20-bottleneck", "dorefa", 4)), "blocks are bottlenecks");
  EXPECT_EQ(reason(choice_of("resnet8", "apot", 4)), "activations are quantized by apot");
  NetworkChoice choice = choice_of("resnet8", "recu", 1);
  choice.bits = bits_of(1, 32);
  EXPECT_EQ(reason(choice), "recu scales the output of layer1.0.conv1");
  choice.shortcut_per_convolution = true;
  EXPECT_EQ(reason(choice), "each convolution has a shortcut of its own");
  choice = choice_of("resnet8", "dorefa-paper", 4);
  choice.bits.gradients = 6;
  EXPECT_EQ(reason(choice), "gradients are quantized");
  EXPECT_EQ(network(choice_of("resnet8", "dorefa", 4), at::kDouble)->fuse(),
            "numbers are not 32-bit floats");
}

TEST(FusedNetwork, NaN_IsRefusedWithTheLayersName) {
  const auto fused = network(choice_of("resnet8", "dorefa", 4), at::kFloat);
  ASSERT_EQ(fused->fuse(), "");
  at::Tensor images = numbers({2, 3, 32, 32}, 5).to(at::kFloat);
  images[1][2][31][7] = NAN;
  try {
    fused->forward(images.contiguous(at::MemoryFormat::ChannelsLast), kTraining);
    FAIL();
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.failure_class(), FailureClass::kDiverged);
    EXPECT_STREQ(failure.what(), "the input of layer1.0.bn1 holds NaN or infinite values");
  }
}

}  // namespace
}  // namespace bitrung::train::fused
