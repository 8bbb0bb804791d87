#include "worker/train/nn/architecture.h"

#include <gtest/gtest.h>

namespace bitrung::train {
namespace {

NetworkPlan plan_of(std::string_view model, int classes = 10) {
  return network_plan(parse_architecture(model).value(), classes);
}

TEST(Architecture, Names_AreReadWholeOrNotAtAll) {
  EXPECT_EQ(parse_architecture("resnet20"), (Architecture{Family::kResNet, 20, 1, false}));
  EXPECT_EQ(parse_architecture("resnet20x2"), (Architecture{Family::kResNet, 20, 2, false}));
  EXPECT_EQ(parse_architecture("resnet56x3-bottleneck"),
            (Architecture{Family::kResNet, 56, 3, true}));
  EXPECT_EQ(parse_architecture("plane10"), (Architecture{Family::kPlane, 10, 1, false}));
  for (const std::string& name : plain_model_names()) {
    EXPECT_TRUE(parse_architecture(name).has_value()) << name;
  }
  for (const char* const wrong :
       {"", "resnet", "resnet9", "resnet08", "resnet-8", "resnet20x", "resnet20x1", "resnet20x9",
        "resnet20x02", "resnet8-bottleneck", "resnet20 ", "plane3", "plane4-bottleneck",
        "resnet20-bottleneckx2", "resnet99999999999999999999"}) {
    EXPECT_FALSE(parse_architecture(wrong).has_value()) << wrong;
  }
}

// quantization literature's figures for these networks on 10 classes.
TEST(Architecture, Counts_AreTheReferenceNetworks) {
  const auto check = [](std::string_view model, std::int64_t parameters, double million_macs) {
    const NetworkPlan plan = plan_of(model);
    EXPECT_EQ(plan.parameter_count(), parameters) << model;
    EXPECT_NEAR(static_cast<double>(plan.macs()) / 1e6, million_macs, 0.006) << model;
  };
  check("resnet8", 77'850, 12.50);
  check("resnet14", 175'066, 26.66);
  check("resnet20", 272'282, 40.81);
  check("resnet26", 369'498, 54.97);
}

TEST(Architecture, Bottleneck_HalvesTheImageOncePerStage) {
  const NetworkPlan plan = plan_of("resnet20-bottleneck");
  std::int64_t inner = 0;
  for (const LayerPlan& layer : plan.layers) {
    inner += layer.role == LayerRole::kInner ? 1 : 0;
    if (layer.name.starts_with("layer3.1")) {
      EXPECT_EQ(layer.out_side, 8) << layer.name;
    }
  }
  EXPECT_EQ(inner, 18);
  EXPECT_EQ(plan.layers.back().in, 256);
  EXPECT_EQ(plan.norms.back().channels, 256);
}

TEST(Architecture, Plane_HasTheLayersOfThePaper) {
  const auto shapes = [](std::string_view model, int classes) {
    std::string text;
    for (const LayerPlan& layer : plan_of(model, classes).layers) {
      text += layer.name + ":" + std::to_string(layer.in) + ">" + std::to_string(layer.out) + " ";
    }
    return text;
  };
  EXPECT_EQ(shapes("plane2", 10), "conv1:3>16 conv2:16>16 fc1:1024>10 ");
  EXPECT_EQ(shapes("plane8", 10),
            "conv1:3>16 conv2:16>16 conv3:16>32 conv4:32>32 conv5:32>64 conv6:64>64 conv7:64>128 "
            "conv8:128>128 fc1:512>64 fc2:64>10 ");
  EXPECT_EQ(shapes("plane6", 100),
            "conv1:3>32 conv2:32>32 conv3:32>64 conv4:64>64 conv5:64>128 conv6:128>128 "
            "fc1:8192>100 ");
}

TEST(Architecture, Patterns_MatchWholeNames) {
  EXPECT_TRUE(matches("layer3.*", "layer3.0.conv1"));
  EXPECT_TRUE(matches("*", ""));
  EXPECT_TRUE(matches("*.conv2", "layer1.0.conv2"));
  EXPECT_TRUE(matches("l*1*2", "layer1.0.conv2"));
  EXPECT_FALSE(matches("layer3", "layer3.0.conv1"));
  EXPECT_FALSE(matches("*conv2", "layer1.0.conv21"));
  EXPECT_FALSE(matches("", "conv1"));
}

}  // namespace
}  // namespace bitrung::train
