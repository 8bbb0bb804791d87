#include "worker/train/nn/resnet.h"

#include <gtest/gtest.h>

#include <cmath>

namespace bitrung::train {
namespace {

ResNet make(const std::string& model, int weights = 4, int activations = 4,
            std::uint64_t seed = 20) {
  return ResNet({model, 10, {weights, activations}, {}}, seed, at::kCPU);
}

std::int64_t parameter_count(const ResNet& network) {
  std::int64_t count = 0;
  for (const NamedTensor& parameter : network.parameters()) {
    count += parameter.tensor.numel();
  }
  return count;
}

at::Tensor images(std::int64_t count) {
  return (at::arange(count * 3 * 32 * 32, at::kFloat) * 12.9898F).sin().reshape({count, 3, 32, 32});
}

TEST(ResNet, ParameterCounts_AreTheReferenceNetworks) {
  EXPECT_EQ(parameter_count(make("resnet8")), 77'850);
  EXPECT_EQ(parameter_count(make("resnet14")), 175'066);
  EXPECT_EQ(parameter_count(make("resnet20")), 272'282);
  EXPECT_EQ(parameter_count(make("resnet26")), 369'498);
}

TEST(ResNet, EachDepth_CanBeMade) {
  for (const char* const model : {"resnet32", "resnet44", "resnet56", "resnet110"}) {
    EXPECT_GT(parameter_count(make(model)), 400'000) << model;
  }
}

TEST(ResNet, TensorNames_AreTheStateDictOfPyTorch) {
  std::vector<std::string> names;
  const ResNet network = make("resnet8");
  for (const NamedTensor& tensor : network.state()) {
    names.push_back(tensor.name);
  }
  std::vector<std::string> expected = {"conv1.weight"};
  const auto norm = [&expected](const std::string& name) {
    for (const char* const part :
         {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}) {
      expected.push_back(name + "." + part);
    }
  };
  for (const std::string layer : {"layer1.0", "layer2.0", "layer3.0"}) {
    norm(layer + ".bn1");
    expected.push_back(layer + ".conv1.weight");
    norm(layer + ".bn2");
    expected.push_back(layer + ".conv2.weight");
    if (layer != "layer1.0") {
      expected.push_back(layer + ".downsample.0.weight");
    }
  }
  norm("bn");
  expected.insert(expected.end(), {"fc.weight", "fc.bias"});
  EXPECT_EQ(names, expected);
}

TEST(ResNet, InitialWeights_HaveTheirDeviationsAndComeFromTheSeed) {
  const ResNet network = make("resnet20");
  const ResNet same = make("resnet20");
  const ResNet other = make("resnet20", 4, 4, 21);
  for (std::size_t i = 0; i < network.parameters().size(); ++i) {
    const auto& [name, tensor] = network.parameters()[i];
    EXPECT_TRUE(at::equal(tensor, same.parameters()[i].tensor)) << name;
    if (tensor.dim() == 4) {
      const double expected =
          std::sqrt(2.0 / static_cast<double>(tensor.size(0) * tensor.size(2) * tensor.size(3)));
      const double error_bars =
          4.0 * expected / std::sqrt(2.0 * static_cast<double>(tensor.numel()));
      EXPECT_NEAR(tensor.std().item<double>(), expected, error_bars) << name;
      EXPECT_FALSE(at::equal(tensor, other.parameters()[i].tensor)) << name;
    } else if (name == "fc.weight") {
      EXPECT_LE(tensor.abs().max().item<double>(), 0.125);
      EXPECT_GT(tensor.abs().max().item<double>(), 0.12);
    }
  }
}

TEST(ResNet, Gradients_AreTheSameByTheFastAndTheSlowPath) {
  // The images' layout chooses the path; full precision, since one flipped level would change
  // everything behind it.
  std::vector<std::vector<at::Tensor>> gradients;
  std::vector<at::Tensor> logits;
  for (const auto format : {at::MemoryFormat::ChannelsLast, at::MemoryFormat::Contiguous}) {
    ResNet network = make("resnet8", 32, 32);
    logits.push_back(network.forward(images(8).contiguous(format), true));
    logits.back().pow(2).sum().backward();
    gradients.emplace_back();
    for (const NamedTensor& parameter : network.parameters()) {
      gradients.back().push_back(parameter.tensor.grad());
    }
  }
  EXPECT_TRUE(at::allclose(logits[0], logits[1], 1e-4, 1e-5));
  for (std::size_t i = 0; i < gradients[0].size(); ++i) {
    const double error =
        ((gradients[0][i] - gradients[1][i]).norm() / gradients[1][i].norm()).item<double>();
    EXPECT_LT(error, 1e-3) << i;
  }
}

TEST(ResNet, Evaluation_IsRepeatableAndLeavesTheStateAlone) {
  for (const int bits : {1, 2, 16, 32}) {
    ResNet network = make("resnet14", bits, bits);
    const at::NoGradGuard no_grad;
    const at::Tensor first = network.forward(images(3), false);
    EXPECT_EQ(first.sizes().vec(), (std::vector<std::int64_t>{3, 10}));
    EXPECT_TRUE(at::equal(network.forward(images(3), false), first)) << bits;
  }
}

TEST(ResNet, BitsOfWeightsAndActivations_AreIndependent) {
  const at::NoGradGuard no_grad;
  ResNet w1a32 = make("resnet8", 1, 32);
  ResNet w32a1 = make("resnet8", 32, 1);
  const at::Tensor a = w1a32.forward(images(2), true);
  const at::Tensor b = w32a1.forward(images(2), true);
  EXPECT_TRUE(at::isfinite(a).all().item<bool>());
  EXPECT_TRUE(at::isfinite(b).all().item<bool>());
  EXPECT_FALSE(at::allclose(a, b));
}

}  // namespace
}  // namespace bitrung::train
