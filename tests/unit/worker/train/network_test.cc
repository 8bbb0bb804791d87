#include "worker/train/nn/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/unit/worker/train/test_files.h"
#include "worker/train/failure.h"

namespace bitrung::train {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Network> make(const NetworkChoice& choice, std::uint64_t seed = 20,
                              at::ScalarType type = at::kFloat, int classes = 10) {
  return make_network({choice, classes}, seed, type);
}

NetworkChoice choice_of(const std::string& model, int weights = 4, int activations = 4) {
  NetworkChoice choice;
  choice.model = model;
  choice.bits = bits_of(weights, activations);
  return choice;
}

at::Tensor images(std::int64_t count, at::ScalarType type = at::kFloat) {
  return (at::arange(count * 3 * 32 * 32, at::kDouble) * 12.9898)
      .sin()
      .reshape({count, 3, 32, 32})
      .to(type);
}

constexpr Pass kTraining{true, 0.25, 20, 7, false};

std::int64_t parameter_count(const Network& network) {
  std::int64_t count = 0;
  for (const LearnedTensor& parameter : network.parameters()) {
    count += parameter.tensor.numel();
  }
  return count;
}

TEST(Network, ParametersAndLayers_AreThoseOfThePlan) {
  for (const std::string& model : plain_model_names()) {
    if (model == "resnet110" || model == "resnet164-bottleneck") continue;  // Slow to draw.
    for (const int classes : {10, 100}) {
      const auto network = make(choice_of(model), 20, at::kFloat, classes);
      const NetworkPlan plan = network_plan(parse_architecture(model).value(), classes);
      EXPECT_EQ(parameter_count(*network), plan.parameter_count()) << model;
      EXPECT_EQ(network->layers().size(), plan.layers.size()) << model;
      EXPECT_EQ(network->norms().size(), plan.norms.size()) << model;
    }
  }
}

TEST(ResNet, TensorNames_AreTheStateDictOfPyTorch) {
  std::vector<std::string> names;
  const auto network = make(choice_of("resnet8"));
  for (const NamedTensor& tensor : network->state()) {
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

TEST(ResNet, ShortcutPerConvolution_HasTheNormalisationsOfItsPlan) {
  NetworkChoice choice = choice_of("resnet14");
  choice.shortcut_per_convolution = true;
  const auto network = make(choice);
  const NetworkPlan plan = network_plan(network->shape().architecture(), 10);
  EXPECT_EQ(parameter_count(*network), plan.parameter_count());
  std::map<std::string, std::int64_t> found;
  for (const BatchNorm* const norm : network->norms()) {
    found[norm->name] = norm->weight.numel();
  }
  std::map<std::string, std::int64_t> expected;
  for (const NormPlan& norm : plan.norms) {
    expected[norm.name] = norm.channels;
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(found.at("bn1"), 16);
  EXPECT_EQ(found.at("layer2.0.bn1"), 32);
  EXPECT_EQ(found.at("layer2.0.downsample.1"), 32);
}

TEST(ResNet, InitialWeights_HaveTheirDeviationsAndComeFromTheSeed) {
  const auto network = make(choice_of("resnet20"));
  const auto same = make(choice_of("resnet20"));
  const auto other = make(choice_of("resnet20"), 21);
  for (std::size_t i = 0; i < network->parameters().size(); ++i) {
    const LearnedTensor& parameter = network->parameters()[i];
    const at::Tensor& tensor = parameter.tensor;
    EXPECT_TRUE(at::equal(tensor, same->parameters()[i].tensor)) << parameter.name;
    if (tensor.dim() == 4) {
      const double expected =
          std::sqrt(2.0 / static_cast<double>(tensor.size(0) * tensor.size(2) * tensor.size(3)));
      const double error_bars =
          4.0 * expected / std::sqrt(2.0 * static_cast<double>(tensor.numel()));
      EXPECT_NEAR(tensor.std().item<double>(), expected, error_bars) << parameter.name;
      EXPECT_FALSE(at::equal(tensor, other->parameters()[i].tensor)) << parameter.name;
    } else if (parameter.name == "fc.weight") {
      EXPECT_LE(tensor.abs().max().item<double>(), 0.125);
      EXPECT_GT(tensor.abs().max().item<double>(), 0.12);
    }
  }
}

TEST(Network, Gradients_AreTheSameByTheFastAndTheSlowPath) {
  // The images' layout chooses the path; full precision, since one flipped level would change
  // everything behind it.
  for (const char* const model : {"resnet8", "resnet8x2", "plane4"}) {
    std::vector<std::vector<at::Tensor>> gradients;
    std::vector<at::Tensor> logits;
    for (const auto format : {at::MemoryFormat::ChannelsLast, at::MemoryFormat::Contiguous}) {
      const auto network = make(choice_of(model, 32, 32));
      logits.push_back(network->forward(images(8).contiguous(format), kTraining));
      logits.back().pow(2).sum().backward();
      gradients.emplace_back();
      for (const LearnedTensor& parameter : network->parameters()) {
        gradients.back().push_back(parameter.tensor.grad());
      }
    }
    EXPECT_TRUE(at::allclose(logits[0], logits[1], 1e-4, 1e-5)) << model;
    for (std::size_t i = 0; i < gradients[0].size(); ++i) {
      const double error =
          ((gradients[0][i] - gradients[1][i]).norm() / gradients[1][i].norm()).item<double>();
      EXPECT_LT(error, 1e-2) << model << " " << i;
    }
  }
}

// Every method in a whole network in double precision. Written once more, layer by layer, with
// nothing but LibTorch's operations and the quantizers, which have tests of their own.
class ByHand {
 public:
  ByHand(Network& network, const Pass& pass) : pass_(pass) {
    for (const NamedTensor& tensor : network.state()) {
      tensors_[tensor.name] = tensor.tensor;
    }
    for (const std::unique_ptr<Layer>& layer : network.layers()) {
      layers_[layer->plan.name] = layer.get();
    }
  }

  at::Tensor norm(const at::Tensor& x, const std::string& name) {
    const at::Tensor mean = x.mean({0, 2, 3}, /*keepdim=*/true);
    const at::Tensor variance = (x - mean).square().mean({0, 2, 3}, /*keepdim=*/true);
    return (x - mean) / (variance + 1e-5).sqrt() *
               tensors_.at(name + ".weight").reshape({1, -1, 1, 1}) +
           tensors_.at(name + ".bias").reshape({1, -1, 1, 1});
  }

  at::Tensor input(const at::Tensor& x, const std::string& layer) {
    ActivationQuantizer* const quantizer = layers_.at(layer)->input.get();
    if (quantizer == nullptr) return x.clamp_min(0);
    return quantizer->quantize(quantizer->takes_relu() ? x.clamp_min(0) : x, pass_);
  }

  at::Tensor convolve(const at::Tensor& x, const std::string& name, std::int64_t stride) {
    const at::Tensor& w = tensors_.at(name + ".weight");
    WeightQuantizer* const quantizer = layers_.at(name)->quantizer.get();
    const std::int64_t padding = w.size(2) / 2;
    const at::Tensor y = at::conv2d(x, quantizer == nullptr ? w : quantizer->quantize(w, pass_), {},
                                    {stride, stride}, {padding, padding});
    return quantizer == nullptr ? y : quantizer->scale_output(y);
  }

  at::Tensor behind(const at::Tensor& y, const std::string& layer) {
    ActivationQuantizer* const quantizer = layers_.at(layer)->input.get();
    return quantizer == nullptr ? y : quantizer->after_sum(y);
  }

  at::Tensor resnet(const at::Tensor& images, int blocks, int units, bool convolutionwise) {
    at::Tensor x = convolve(images, "conv1", 1);
    if (convolutionwise) {
      x = norm(x, "bn1");
    }
    for (int stage = 1; stage <= 3; ++stage) {
      for (int i = 0; i < blocks; ++i) {
        const std::string name = "layer" + std::to_string(stage) + "." + std::to_string(i) + ".";
        const std::int64_t stride = stage > 1 && i == 0 ? 2 : 1;
        const std::string down = name + "downsample.0";
        at::Tensor y = x;
        at::Tensor residual = x;
        if (convolutionwise && tensors_.contains(down + ".weight")) {
          residual = norm(convolve(stride == 2 ? at::avg_pool2d(x, {2, 2}) : x, down, 1),
                          name + "downsample.1");
        }
        for (int unit = 1; unit <= units; ++unit) {
          const std::string conv = name + "conv" + std::to_string(unit);
          const std::string bn = name + "bn" + std::to_string(unit);
          const at::Tensor a = input(convolutionwise ? y : norm(y, bn), conv);
          if (!convolutionwise && unit == 1 && tensors_.contains(down + ".weight")) {
            residual = convolve(a, down, stride);
          }
          // The stride is the 3 x 3 convolution's.
          const std::int64_t own_stride = (units == 3 ? unit == 2 : unit == 1) ? stride : 1;
          y = convolve(a, conv, own_stride);
          if (convolutionwise) {
            y = residual = behind(norm(y, bn) + residual, conv);
          } else {
            y = behind(unit == units ? y + residual : y, conv);
          }
        }
        x = y;
      }
    }
    x = norm(x, "bn").clamp_min(0).mean({2, 3});
    return x.mm(tensors_.at("fc.weight").t()) + tensors_.at("fc.bias");
  }

 private:
  const Pass pass_;
  std::map<std::string, at::Tensor> tensors_;
  std::map<std::string, Layer*> layers_;
};

struct Result {
  at::Tensor logits;
  std::map<std::string, at::Tensor> gradients;
};

// Ranges that are a batch's own extremes, and biases of 0 behind sums of few levels, would put
// values on the very edges, where the last digit decides.
void leave_the_edges(Network& network) {
  const at::NoGradGuard no_grad;
  std::int64_t count = 0;
  for (BatchNorm* const norm : network.norms()) {
    for (const at::Tensor& tensor : {norm->weight, norm->bias}) {
      at::Tensor(tensor).add_(
          (at::arange(tensor.numel(), at::kDouble) + 0.7 * static_cast<double>(++count)).sin() *
          0.2);
    }
  }
  for (int i = 0; i < 2; ++i) {
    network.forward(images(5, at::kDouble).narrow(0, i, 4).flip({2}), kTraining);
  }
}

template <typename Forward>
Result run(const NetworkChoice& choice, const Forward& forward) {
  const auto network = make(choice, 20, at::kDouble);
  leave_the_edges(*network);
  Result result;
  result.logits = forward(*network);
  (result.logits * images(1, at::kDouble).flatten().narrow(0, 0, 40).reshape({4, 10}))
      .sum()
      .backward();
  for (const LearnedTensor& parameter : network->parameters()) {
    result.gradients[parameter.name] = parameter.tensor.grad();
  }
  return result;
}

void expect_equal(const Result& found, const Result& expected, const std::string& what) {
  EXPECT_LT((found.logits - expected.logits).abs().max().item<double>(), 1e-9) << what;
  for (const auto& [name, gradient] : expected.gradients) {
    ASSERT_EQ(gradient.defined(), found.gradients.at(name).defined()) << what << " " << name;
    if (!gradient.defined()) continue;
    const double scale = 1.0 + gradient.abs().max().item<double>();
    EXPECT_LT((found.gradients.at(name) - gradient).abs().max().item<double>(), 1e-9 * scale)
        << what << " " << name;
  }
}

TEST(Network, EveryMethod_EqualsTheNetworkWrittenByHandInDouble) {
  for (const MethodInfo& method : methods()) {
    for (const int bits : {1, 2, 8}) {
      const std::string name(method.name);
      NetworkChoice choice = choice_of("resnet8", bits, bits);
      choice.method.weights = name;
      choice.method.activations = method.has_activations ? name : "pact";
      // With one level at zero whole layers die, and a normalisation divides by nearly nothing.
      if (bits == 1 && (name == "linear" || name == "affine")) continue;
      if (refusal(method, Part::kWeights, bits, choice.method.options)) {
        choice.bits.weights = 32;
      }
      choice.shortcut_per_convolution = method.wants_shortcut_per_convolution;
      const Result expected = run(choice, [&](Network& network) {
        return ByHand(network, kTraining)
            .resnet(images(4, at::kDouble), 1, 2, choice.shortcut_per_convolution);
      });
      for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
        const Result found = run(choice, [&](Network& network) {
          return network.forward(images(4, at::kDouble).contiguous(format), kTraining);
        });
        expect_equal(found, expected, name + " " + std::to_string(bits));
      }
    }
  }
}

TEST(Network, BottleneckAndDeeperNetworks_EqualTheNetworkWrittenByHandInDouble) {
  const auto check = [](const NetworkChoice& choice, int blocks, int units) {
    const Result expected = run(choice, [&](Network& network) {
      return ByHand(network, kTraining)
          .resnet(images(4, at::kDouble), blocks, units, choice.shortcut_per_convolution);
    });
    const Result found = run(choice, [&](Network& network) {
      return network.forward(images(4, at::kDouble), kTraining);
    });
    expect_equal(found, expected, choice.model);
  };
  check(choice_of("resnet20-bottleneck", 4, 4), 2, 3);
  check(choice_of("resnet14", 2, 2), 2, 2);
  NetworkChoice convolutionwise = choice_of("resnet14", 2, 2);
  convolutionwise.shortcut_per_convolution = true;
  check(convolutionwise, 2, 2);
  NetworkChoice mixed = choice_of("resnet14", 4, 4);
  mixed.bits.first = mixed.bits.shortcut = 8;
  mixed.bits.layers = {{"layer3.*", {2, 2}}, {"layer2.0.conv1", {1, 8}}};
  check(mixed, 2, 2);
}

TEST(Network, Evaluation_IsRepeatableAndLeavesTheStateAlone) {
  for (const char* const model : {"resnet14", "resnet20-bottleneck", "plane8"}) {
    for (const int bits : {1, 2, 16, 32}) {
      const auto network = make(choice_of(model, bits, bits));
      const at::NoGradGuard no_grad;
      const at::Tensor first = network->forward(images(3), kEvaluationPass);
      EXPECT_EQ(first.sizes().vec(), (std::vector<std::int64_t>{3, 10}));
      EXPECT_TRUE(at::equal(network->forward(images(3), kEvaluationPass), first)) << bits;
    }
  }
}

TEST(Network, BitsOfLayers_AreThoseOfTheSpec) {
  NetworkChoice choice = choice_of("resnet8", 1, 32);
  choice.bits.last = 8;
  choice.bits.layers = {{"layer3.*conv*", {32, 2}}};
  const auto network = make(choice);
  const at::NoGradGuard no_grad;
  for (const std::unique_ptr<Layer>& layer : network->layers()) {
    const at::Tensor levels = std::get<0>(at::_unique(layer->effective_weight(kEvaluationPass)));
    if (layer->plan.name == "fc") {
      EXPECT_LE(levels.numel(), 256);
      EXPECT_NE(layer->input, nullptr);
    } else if (layer->plan.role == LayerRole::kInner && !layer->plan.name.starts_with("layer3")) {
      EXPECT_EQ(levels.numel(), 2) << layer->plan.name;
      EXPECT_EQ(layer->input, nullptr);
    } else {
      EXPECT_GT(levels.numel(), 256) << layer->plan.name;
    }
  }
}

TEST(Network, WeightsThatAreNotFinite_AreRefusedWithTheLayersName) {
  const auto network = make(choice_of("resnet8"));
  for (const NamedTensor& tensor : network->state()) {
    if (tensor.name == "layer2.0.conv2.weight") {
      const at::NoGradGuard no_grad;
      at::Tensor(tensor.tensor)[3][2][1][1] = std::nan("");
    }
  }
  try {
    network->forward(images(2), kTraining);
    FAIL();
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.failure_class(), FailureClass::kDiverged);
    EXPECT_STREQ(failure.what(), "layer2.0.conv2.weight holds NaN or infinite values");
  }
}

TEST(Network, MethodsThatCannotDoIt_AreRefusedWithTheReason) {
  NetworkChoice choice = choice_of("resnet8", 1, 1);
  choice.method.weights = "wrpn";
  try {
    make(choice);
    FAIL();
  } catch (const Failure& failure) {
    EXPECT_THAT(failure.what(), HasSubstr("layer1.0.conv1: wrpn cannot quantize weights to 1 bit"));
  }
}

}  // namespace
}  // namespace bitrung::train
