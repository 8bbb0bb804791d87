#include "client/interop/model_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "db/base/status.h"
#include "tests/unit/client/interop/testing.h"

namespace bitrung::interop {
namespace {

using ::testing::HasSubstr;
using train::Dtype;
using Tensors = std::map<std::string, train::TensorBytes>;

train::Architecture architecture_of(const std::string& model) {
  return train::parse_architecture(model).value();
}

// A network's tensors, all weights 0.5.
Tensors tensors_of(const std::string& model, int classes) {
  Tensors tensors;
  for (const ExpectedTensor& expected : expected_tensors(architecture_of(model), classes)) {
    std::size_t elements = 1;
    for (const std::int64_t side : expected.shape) elements *= static_cast<std::size_t>(side);
    tensors[expected.name] =
        expected.is_counter
            ? tensor_of(Dtype::kI64, {}, std::vector<std::int64_t>{5})
            : tensor_of(Dtype::kF32, expected.shape, std::vector<float>(elements, 0.5F));
  }
  return tensors;
}

StateDict dict_of(const Tensors& tensors) {
  auto dict = read_state_dict(encode_torch_file(tensors));
  EXPECT_TRUE(dict.ok()) << dict.status();
  return *std::move(dict);
}

TEST(ModelFit, NamesAndShapes_AreThoseOfTheReferenceNetwork) {
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const ExpectedTensor& tensor : expected_tensors(architecture_of("resnet8"), 10)) {
    shapes[tensor.name] = tensor.shape;
  }
  // 9 convolutions, 7 normalisations of 5 tensors, the linear layer's 2.
  EXPECT_EQ(shapes.size(), 9U + 7 * 5 + 2);
  using Shape = std::vector<std::int64_t>;
  EXPECT_EQ(shapes.at("conv1.weight"), (Shape{16, 3, 3, 3}));
  EXPECT_EQ(shapes.at("layer2.0.conv1.weight"), (Shape{32, 16, 3, 3}));
  EXPECT_EQ(shapes.at("layer2.0.downsample.0.weight"), (Shape{32, 16, 1, 1}));
  EXPECT_EQ(shapes.at("layer3.0.bn1.running_var"), (Shape{32}));
  EXPECT_EQ(shapes.at("layer3.0.bn2.num_batches_tracked"), (Shape{}));
  EXPECT_EQ(shapes.at("bn.bias"), (Shape{64}));
  EXPECT_EQ(shapes.at("fc.weight"), (Shape{10, 64}));
  EXPECT_EQ(shapes.at("fc.bias"), (Shape{10}));
}

TEST(ModelFit, EveryNetwork_IsFoundByItsTensorsAlone) {
  for (const std::string model : {"resnet8", "resnet20", "resnet8x2", "resnet20-bottleneck",
                                  "plane2", "plane10", "plane4x2"}) {
    for (const int classes : {10, 100}) {
      const ModelSearch search = search_models(dict_of(tensors_of(model, classes)));
      ASSERT_EQ(search.fitting.size(), 1U) << model << " " << classes;
      EXPECT_EQ(search.fitting.front().model, model);
      EXPECT_EQ(search.fitting.front().classes, classes);
    }
  }
}

TEST(ModelFit, CountersMayBeMissing) {
  Tensors tensors = tensors_of("resnet8", 10);
  std::erase_if(tensors, [](const auto& t) { return t.first.ends_with("num_batches_tracked"); });
  EXPECT_TRUE(
      fit_model(dict_of(tensors), "resnet8", architecture_of("resnet8")).differences.empty());
}

TEST(ModelFit, EveryDifference_IsSaidWithBothSides) {
  Tensors tensors = tensors_of("resnet8", 10);
  tensors["conv1.weight"] = tensor_of(Dtype::kF32, {1}, std::vector<float>{1});
  tensors["fc.weights"] = tensors["fc.weight"];
  tensors.erase("fc.weight");
  tensors["bn.bias"] = tensor_of(Dtype::kI64, {64}, std::vector<std::int64_t>(64));
  tensors["optimizer"] = tensor_of(Dtype::kF32, {2}, std::vector<float>{1, 2});
  const ModelFit fit = fit_model(dict_of(tensors), "resnet8", architecture_of("resnet8"));
  std::map<std::string, Difference> by_name;
  for (const Difference& difference : fit.differences) by_name[difference.tensor] = difference;
  ASSERT_EQ(by_name.size(), 5U);
  EXPECT_EQ(by_name["conv1.weight"].kind, DifferenceKind::kShape);
  EXPECT_EQ(by_name["conv1.weight"].found, "(1)");
  EXPECT_EQ(by_name["conv1.weight"].expected, "(16,3,3,3)");
  EXPECT_EQ(by_name["bn.bias"].kind, DifferenceKind::kDtype);
  EXPECT_EQ(by_name["bn.bias"].found, "I64");
  EXPECT_EQ(by_name["fc.weight"].kind, DifferenceKind::kMissing);
  EXPECT_EQ(by_name["fc.weight"].nearest, "fc.weights");
  EXPECT_EQ(by_name["fc.weights"].kind, DifferenceKind::kUnexpected);
  EXPECT_EQ(by_name["fc.weights"].nearest, "fc.weight");
  EXPECT_EQ(by_name["optimizer"].nearest, "");
}

TEST(ModelFit, UnknownNetwork_IsComparedWithTheNearest) {
  Tensors tensors = tensors_of("resnet20", 100);
  tensors["fc.bias"] = tensor_of(Dtype::kF32, {7}, std::vector<float>(7));
  const ModelSearch search = search_models(dict_of(tensors));
  EXPECT_TRUE(search.fitting.empty());
  EXPECT_EQ(search.closest.model, "resnet20");
  EXPECT_EQ(search.closest.classes, 100);
  ASSERT_EQ(search.closest.differences.size(), 1U);
  EXPECT_EQ(search.closest.differences.front().found, "(7)");
}

TEST(MakeCheckpoint, EveryFloat_BecomesAFloatOf32Bits) {
  Tensors tensors = tensors_of("plane2", 10);
  tensors["bn1.weight"] =
      tensor_of(Dtype::kF16, {16},
                std::vector<std::uint16_t>{0, 0x8000, 0x3C00, 0xC000, 1, 0x8001, 0x03FF, 0x0400,
                                           0x7BFF, 0x3555, 0, 0, 0, 0, 0, 0});
  tensors["bn1.bias"] = tensor_of(Dtype::kBF16, {16}, std::vector<std::uint16_t>(16, 0xC060));
  tensors["bn1.running_mean"] = tensor_of(Dtype::kF64, {16}, std::vector<double>(16, 0.1));
  tensors["bn1.num_batches_tracked"] = tensor_of(Dtype::kI32, {}, std::vector<std::int32_t>{-4});
  const StateDict dict = dict_of(tensors);
  const ModelFit fit = fit_model(dict, "plane2", architecture_of("plane2"));
  ASSERT_TRUE(fit.differences.empty());
  const auto file = make_checkpoint(dict, fit);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto floats = [&](const char* name) { return values_of<float>(file->tensors.at(name)); };
  const std::vector<float> halves = floats("bn1.weight");
  const std::vector<float> expected = {0.0F,      -0.0F,           1.0F,     -2.0F,    0x1p-24F,
                                       -0x1p-24F, 1023 * 0x1p-24F, 0x1p-14F, 65504.0F, 0x1.554p-2F};
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(halves[i], expected[i]) << i;
  EXPECT_TRUE(std::signbit(halves[1]));
  EXPECT_EQ(floats("bn1.bias").back(), -3.5F);
  EXPECT_EQ(floats("bn1.running_mean").back(), 0.1F);
  EXPECT_EQ(values_of<std::int64_t>(file->tensors.at("bn1.num_batches_tracked")),
            std::vector<std::int64_t>{-4});
  EXPECT_EQ(file->tensors.at("fc1.weight").dtype, Dtype::kF32);
  EXPECT_EQ(file->metadata.at("bitrung.model"), "plane2");
}

TEST(MakeCheckpoint, ValuesThatNoTrainingHas_AreRefusedByName) {
  const auto refusal = [](const train::TensorBytes& means) {
    Tensors tensors = tensors_of("plane2", 10);
    tensors["bn2.running_mean"] = means;
    const StateDict dict = dict_of(tensors);
    const auto file = make_checkpoint(dict, fit_model(dict, "plane2", architecture_of("plane2")));
    return file.ok() ? "accepted" : std::string(message(file.status()));
  };
  std::vector<float> floats(16);
  floats[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(refusal(tensor_of(Dtype::kF32, {16}, floats)),
              HasSubstr("tensor bn2.running_mean holds NaN or an infinity"));
  EXPECT_THAT(refusal(tensor_of(Dtype::kF64, {16}, std::vector<double>(16, 1e300))),
              HasSubstr("beyond 32-bit floats"));
  EXPECT_THAT(refusal(tensor_of(Dtype::kF16, {16}, std::vector<std::uint16_t>(16, 0x7C00))),
              HasSubstr("infinity"));
}

}  // namespace
}  // namespace bitrung::interop
