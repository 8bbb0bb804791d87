#include "worker/train/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/unit/worker/train/test_files.h"
#include "worker/train/checkpoint.h"
#include "worker/train/failure.h"
#include "worker/train/nn/network.h"

namespace bitrung::train {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// An untrained network with seeded weights.
SafetensorsFile checkpoint_of(const Spec& spec) {
  const NetworkShape shape{spec.network, class_count(spec.dataset)};
  const auto network = make_network(shape, /*seed=*/5, at::TensorOptions().dtype(at::kFloat));
  return make_checkpoint(network->state(), spec, /*epoch=*/3);
}

Spec spec_with(const std::string& method, int bits) {
  Spec spec = tiny_spec();
  spec.network.method.weights = method;
  spec.network.method.activations = method;
  spec.network.bits.weights = bits;
  spec.network.bits.activations = bits;
  return spec;
}

std::string refusal(const SafetensorsFile& checkpoint) {
  try {
    pack_checkpoint(checkpoint, "checkpoint x");
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.failure_class(), FailureClass::kUserError);
    return failure.what();
  }
  return "accepted";
}

const json& layer_named(const json& description, const std::string& name) {
  for (const json& layer : description.at("layers")) {
    if (layer.at("name") == name) {
      return layer;
    }
  }
  throw std::runtime_error("no layer " + name);
}

std::int64_t code_at(const TensorBytes& packed, std::int64_t i, int bits) {
  std::int64_t code = 0;
  for (int bit = 0; bit < bits; ++bit) {
    const auto at = static_cast<std::size_t>(i * bits + bit);
    code |= std::int64_t{packed.bytes[at / 8] >> (at % 8) & 1} << bit;
  }
  return code;
}

class PackBits : public ::testing::TestWithParam<int> {};

// DoReFa's formula in double, beside the codes read bit by bit.
TEST_P(PackBits, Codes_AreThoseOfTheFormula) {
  const int bits = GetParam();
  const SafetensorsFile checkpoint = checkpoint_of(spec_with("dorefa", bits));
  const SafetensorsFile packed = pack_checkpoint(checkpoint, "checkpoint x");
  const at::Tensor w = from_bytes(checkpoint.tensors.at("layer2.0.conv1.weight")).to(at::kDouble);
  const TensorBytes& codes = packed.tensors.at("layer2.0.conv1.weight.codes");
  const double scale = from_bytes(packed.tensors.at("layer2.0.conv1.weight.scale")).item<double>();
  const double zero =
      from_bytes(packed.tensors.at("layer2.0.conv1.weight.zero_point")).item<double>();
  EXPECT_EQ(codes.bytes.size(), static_cast<std::size_t>(w.numel() * bits / 8));
  const double n = static_cast<double>((std::int64_t{1} << bits) - 1);
  // At 16 bits tanh in 32 bits may be a level off.
  const double level = bits == 16 ? 2 / n : 0;
  const double peak = w.tanh().abs().max().item<double>();
  const double mean = w.abs().mean().item<double>();
  const at::Tensor flat = w.view({-1});
  for (std::int64_t i = 0; i < w.numel(); ++i) {
    const double value = flat[i].item<double>();
    const double expected =
        bits == 1 ? (value > 0 ? mean : -mean)
                  : peak * (2 * std::nearbyint(n * (std::tanh(value) / (2 * peak) + 0.5)) / n - 1);
    const double decoded = scale * (static_cast<double>(code_at(codes, i, bits)) - zero);
    ASSERT_NEAR(decoded, expected, (2e-6 + level) * peak) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(AllBits, PackBits, ::testing::Values(1, 2, 3, 4, 5, 6, 7, 8, 16));

TEST(Pack, Thresholds_AreWhereTheActivationsRoundUp) {
  const SafetensorsFile packed =
      pack_checkpoint(checkpoint_of(spec_with("dorefa", 2)), "checkpoint x");
  const at::Tensor thresholds = from_bytes(packed.tensors.at("layer1.0.conv1.input.thresholds"));
  // rint(3 x): 0.5 goes to the even 0, so the first is the next float; 1.5 and 2.5 go to 2.
  ASSERT_EQ(thresholds.numel(), 3);
  EXPECT_GT(thresholds[0].item<double>() * 3, 0.5);
  EXPECT_NEAR(thresholds[0].item<double>(), 1.0 / 6, 1e-7);
  EXPECT_NEAR(thresholds[1].item<double>(), 3.0 / 6, 1e-7);
  EXPECT_NEAR(thresholds[2].item<double>(), 5.0 / 6, 1e-7);

  const SafetensorsFile signs =
      pack_checkpoint(checkpoint_of(spec_with("dorefa", 1)), "checkpoint x");
  const at::Tensor positive = from_bytes(signs.tensors.at("layer1.0.conv1.input.thresholds"));
  EXPECT_GT(positive[0].item<float>(), 0.0F);
  EXPECT_LT(positive[0].item<float>(), 1e-37F);
}

TEST(Pack, EqualCheckpoints_GiveEqualFiles_WithoutTheWeightsThemselves) {
  const SafetensorsFile checkpoint = checkpoint_of(spec_with("dorefa", 2));
  const SafetensorsFile packed = pack_checkpoint(checkpoint, "checkpoint x");
  EXPECT_EQ(encode_safetensors(packed),
            encode_safetensors(pack_checkpoint(checkpoint, "checkpoint y")));
  const json description = json::parse(packed.metadata.at("bitrung.packed"));
  EXPECT_EQ(description.at("model"), "resnet8");
  EXPECT_EQ(description.at("classes"), 10);
  EXPECT_EQ(description.at("layers").size(), 10U);
  EXPECT_FALSE(packed.tensors.contains("layer1.0.conv1.weight"));
  // What is not quantized stays as it is.
  for (const char* name : {"conv1.weight", "layer2.0.downsample.0.weight", "fc.bias", "bn.weight",
                           "bn.num_batches_tracked"}) {
    EXPECT_EQ(packed.tensors.at(name).bytes, checkpoint.tensors.at(name).bytes) << name;
  }
  EXPECT_TRUE(layer_named(description, "conv1").at("weights").is_null());
  const json& inner = layer_named(description, "layer2.0.conv1");
  EXPECT_EQ(inner.at("stride"), 2);
  EXPECT_EQ(inner.at("shape"), json({32, 16, 3, 3}));
  EXPECT_EQ(inner.at("weights").at("bits"), 2);
  EXPECT_EQ(inner.at("input").at("relu"), true);
}

TEST(Pack, ZeroTensor_IsPackedAsZeros) {
  SafetensorsFile checkpoint = checkpoint_of(spec_with("dorefa", 2));
  TensorBytes& weights = checkpoint.tensors.at("layer1.0.conv1.weight");
  std::fill(weights.bytes.begin(), weights.bytes.end(), std::uint8_t{0});
  const SafetensorsFile packed = pack_checkpoint(checkpoint, "checkpoint x");
  EXPECT_EQ(from_bytes(packed.tensors.at("layer1.0.conv1.weight.scale")).item<float>(), 0.0F);
}

TEST(Pack, AWeightBetweenTheLevels_IsRefusedByItsLayer) {
  // The study's sign(0) is 0, which one bit cannot hold.
  SafetensorsFile checkpoint = checkpoint_of(spec_with("dorefa", 1));
  std::fill_n(checkpoint.tensors.at("layer3.0.conv2.weight").bytes.begin(), 8, std::uint8_t{0});
  EXPECT_THAT(
      refusal(checkpoint),
      HasSubstr("checkpoint x: 2 weights of layer layer3.0.conv2, for instance 0.000000, are "
                "none of the 2 levels of method dorefa at 1 bit, so"));
}

TEST(Pack, ForeignFiles_AreRefused) {
  SafetensorsFile checkpoint = checkpoint_of(spec_with("dorefa", 2));
  checkpoint.metadata.erase("bitrung.spec");
  EXPECT_THAT(refusal(checkpoint), HasSubstr("its metadata has no bitrung.spec"));
  checkpoint = checkpoint_of(spec_with("dorefa", 2));
  checkpoint.metadata["bitrung.spec"] = "{}";
  EXPECT_THAT(refusal(checkpoint), HasSubstr("bitrung.spec is not understood"));
  checkpoint = checkpoint_of(spec_with("dorefa", 2));
  checkpoint.tensors.erase("fc.bias");
  EXPECT_THAT(refusal(checkpoint), HasSubstr("tensor fc.bias is missing"));
}

}  // namespace
}  // namespace bitrung::train
