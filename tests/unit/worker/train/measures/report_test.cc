#include "worker/train/measures/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace bitrung::train {
namespace {

using Json = nlohmann::json;

Evaluation evaluation_of(int classes) {
  Evaluation evaluation;
  evaluation.images = 10000;
  evaluation.top1 = 91.31999999999999;
  evaluation.top5 = 99.7;
  evaluation.nll = 0.30000000000000004;
  evaluation.brier = 0.1;
  evaluation.ece = 0.025;
  evaluation.per_class.assign(static_cast<std::size_t>(classes), 91.31999999999999);
  evaluation.confusion.assign(static_cast<std::size_t>(classes),
                              std::vector<std::int64_t>(static_cast<std::size_t>(classes), 1000));
  return evaluation;
}

TensorStatistics tensor_of(int bits, std::int64_t scales) {
  TensorStatistics tensor;
  tensor.bits = bits;
  tensor.method = "lsq-plus";
  tensor.min = -1.0000000000000002;
  tensor.max = 1.0000000000000002;
  tensor.saturated = 0.0033333333333333335;
  tensor.histogram_from = -1.2345678901234567;
  tensor.histogram_to = 1.2345678901234567;
  tensor.histogram.fill(1234567);
  tensor.scales = scales;
  if (bits < 32) {
    tensor.levels = std::int64_t{1} << bits;
    tensor.sqnr_db = 12.345678901234567;
    tensor.entropy = 1.9876543210987654;
    tensor.zero_point = 1.5;
    if (scales == 1) {
      tensor.scale = 0.012345678901234567;
    } else {
      tensor.scale_min = 0.012345678901234567;
      tensor.scale_max = 0.12345678901234567;
    }
  }
  return tensor;
}

// Inner layers at the given bits, everything else at 32.
std::vector<LayerReport> layers_of(const std::string& model, int classes, int bits,
                                   std::int64_t scales_per_channel) {
  std::vector<LayerReport> layers;
  for (const LayerPlan& plan : layer_plans(parse_architecture(model).value(), classes)) {
    const int of_layer = plan.role == LayerRole::kInner ? bits : 32;
    layers.push_back({plan, tensor_of(of_layer, scales_per_channel == 0 ? 1 : plan.out), of_layer,
                      tensor_of(of_layer, 1)});
  }
  return layers;
}

std::vector<std::string> keys_of(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) {
    keys.push_back(key);
  }
  return keys;
}

using Keys = std::vector<std::string>;

TEST(Report, Json_HasTheAgreedKeys) {
  std::vector<LayerReport> layers = layers_of("resnet8", 10, 2, 0);
  layers.back().activations.reset();
  const Json report = Json::parse(
      report_json({"fused avx2", "", 2}, evaluation_of(10), std::nullopt, layers, 77850));
  EXPECT_EQ(report.at("backend"), "fused avx2");
  EXPECT_TRUE(report.at("backend_reason").is_null());
  EXPECT_EQ(report.at("threads"), 2);
  EXPECT_EQ(keys_of(report), (Keys{"backend", "backend_reason", "evaluation", "layers", "network",
                                   "threads", "validation"}));
  EXPECT_TRUE(report["validation"].is_null());
  EXPECT_EQ(keys_of(report["evaluation"]),
            (Keys{"brier", "confusion", "ece", "images", "nll", "per_class", "top1", "top5"}));
  EXPECT_EQ(report["evaluation"]["top1"], 91.31999999999999);
  EXPECT_EQ(report["evaluation"]["confusion"][3][4], 1000);
  EXPECT_EQ(keys_of(report["network"]), (Keys{"bit_operations", "bytes_float", "bytes_packed",
                                              "compression", "macs", "parameters"}));
  EXPECT_EQ(report["layers"].size(), layers.size());
  const Json& first = report["layers"][0];
  EXPECT_EQ(keys_of(first),
            (Keys{"activations", "kind", "macs", "name", "role", "shape", "weights"}));
  EXPECT_EQ(first["name"], "conv1");
  EXPECT_EQ(first["role"], "first");
  EXPECT_EQ(first["kind"], "convolution");
  EXPECT_EQ(first["shape"], (Json{16, 3, 3, 3}));
  EXPECT_EQ(first["macs"], 16 * 3 * 9 * 32 * 32);
  EXPECT_TRUE(first["weights"]["levels"].is_null() && first["weights"]["scale"].is_null());
  const Json& inner = report["layers"][1];
  EXPECT_EQ(inner["role"], "inner");
  EXPECT_EQ(keys_of(inner["weights"]),
            (Keys{"bits", "entropy", "histogram", "levels", "max", "method", "min", "saturated",
                  "scale", "scale_max", "scale_min", "sqnr_db", "zero_point"}));
  EXPECT_EQ(inner["weights"]["levels"], 4);
  EXPECT_EQ(inner["weights"]["scale"], 0.012345678901234567);
  EXPECT_TRUE(inner["weights"]["scale_min"].is_null());
  EXPECT_EQ(keys_of(inner["weights"]["histogram"]), (Keys{"counts", "from", "to"}));
  EXPECT_EQ(inner["weights"]["histogram"]["counts"].size(), 16U);
  const Json& last = report["layers"].back();
  EXPECT_EQ(last["kind"], "linear");
  EXPECT_EQ(last["shape"], (Json{10, 64}));
  EXPECT_TRUE(last["activations"].is_null());
}

TEST(Report, NumbersThatAreNotFinite_BecomeNull) {
  Evaluation test = evaluation_of(10);
  test.nll = std::nan("");
  test.per_class[3] = std::nan("");
  std::vector<LayerReport> layers = layers_of("resnet8", 10, 2, 0);
  layers[1].weights.max = std::numeric_limits<double>::infinity();
  const Json report = Json::parse(report_json({"eager", "because", 1}, test, test, layers, 77850));
  EXPECT_TRUE(report["evaluation"]["nll"].is_null());
  EXPECT_TRUE(report["validation"]["per_class"][3].is_null());
  EXPECT_TRUE(report["layers"][1]["weights"]["max"].is_null());
}

// Known sizes of the networks whose blocks alone are quantized.
TEST(Report, Cost_IsThatOfTheKnownNetworks) {
  struct Known {
    const char* model;
    int bits;
    std::int64_t parameters;
    double millions_of_macs;
    double compression;
  };
  for (const Known& known :
       {Known{"resnet8", 32, 77850, 12.50, 1.0}, Known{"resnet8", 8, 77850, 12.50, 3.45},
        Known{"resnet8", 4, 77850, 12.50, 5.84}, Known{"resnet8", 2, 77850, 12.50, 8.92},
        Known{"resnet8", 1, 77850, 12.50, 12.1}, Known{"resnet20", 1, 272282, 40.81, 20.4}}) {
    const std::vector<LayerReport> layers = layers_of(known.model, 10, known.bits, 0);
    const NetworkCost cost = network_cost(layers, known.parameters);
    EXPECT_EQ(network_plan(*parse_architecture(known.model), 10).parameter_count(),
              known.parameters);
    EXPECT_NEAR(static_cast<double>(cost.macs) / 1e6, known.millions_of_macs, 0.02) << known.model;
    EXPECT_NEAR(cost.compression, known.compression, 0.006 * known.compression) << known.bits;
    EXPECT_EQ(cost.bytes_float, 4 * known.parameters);
  }
  // 12.8 billion bit operations become 0.73 at 1 bit.
  EXPECT_NEAR(
      static_cast<double>(network_cost(layers_of("resnet8", 10, 32, 0), 77850).bit_operations),
      12.8e9, 0.1e9);
  EXPECT_NEAR(
      static_cast<double>(network_cost(layers_of("resnet8", 10, 1, 0), 77850).bit_operations),
      0.73e9, 0.01e9);
}

TEST(Report, BytesPacked_CountAScaleForEachGrid) {
  const std::int64_t parameters = 77850;
  const NetworkCost one = network_cost(layers_of("resnet8", 10, 2, 0), parameters);
  const NetworkCost each = network_cost(layers_of("resnet8", 10, 2, 1), parameters);
  std::int64_t more = 0;
  std::int64_t packed = 4 * parameters;
  for (const LayerPlan& plan : layer_plans(*parse_architecture("resnet8"), 10)) {
    if (plan.role == LayerRole::kInner) {
      more += 4 * (plan.out - 1);
      packed += plan.weight_count() / 4 + 4 - 4 * plan.weight_count();
    }
  }
  EXPECT_EQ(one.bytes_packed, packed);
  EXPECT_EQ(each.bytes_packed, packed + more);
}

TEST(Report, LargestNetwork_FitsTheLimit) {
  for (const char* const model : {"resnet110", "resnet110-bottleneck"}) {
    const std::string text =
        report_json({"eager", "because", 1}, evaluation_of(100), evaluation_of(100),
                    layers_of(model, 100, 2, 1), 1'700'000);
    EXPECT_LT(text.size(), kReportBytesMax) << model;
  }
}

}  // namespace
}  // namespace bitrung::train
