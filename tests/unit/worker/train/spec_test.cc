#include "worker/train/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/train/failure.h"

namespace bitrung::train {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kFullSpec =
    R"({"augment":["crop","flip"],"backend":"auto","batch_size":128,)"
    R"("bits":{"activations":2,"first":8,"gradients":6,"last":8,"layers":[["layer3.*",1,2],["fc",4,4]],)"
    R"("shortcut":32,"weights":1},"dataset":"synthetic",)"
    R"("distill":{"alpha":1.0,"attention":0.5,"beta":8.0,"hint":0.0,"kind":"dkd","schedule":"linear",)"
    R"("self_study":0.25,"similarity":0.0,"temperature":4.0,"temperature_end":1.0,"weight":0.5,)"
    R"("weight_end":0.5},"epochs":160,"init":"artifact",)"
    R"("init_artifact":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","kind":"train",)"
    R"("method":{"activations":"pact","clip_decay":0.001,"clip_init":8.0,"weights":"dorefa-paper"},)"
    R"("model":"resnet20","numerics":5,)"
    R"("optimizer":{"kind":"sgd","learning_rate":0.1,"momentum":0.9,"nesterov":false,"weight_decay":0.0001},)"
    R"("schedule":{"at":[0.5,0.75],"factor":0.1,"kind":"step","warmup_epochs":2},"seed":18446744073709551615,)"
    R"("shortcut":"convolution","synthetic":{"seed":1,"test_images":2000,"train_images":8000},)"
    R"("teachers":[{"artifact":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",)"
    R"("bits":{"activations":32,"first":32,"gradients":32,"last":32,"layers":[],"shortcut":32,"weights":32},)"
    R"("method":{"activations":"dorefa","weights":"dorefa"},"model":"resnet110","shortcut":"block"}],)"
    R"("train_images":0,"validation":500})";

constexpr std::string_view kQuantizeSpec =
    R"({"bits":{"activations":4,"first":32,"gradients":32,"last":32,"layers":[],"shortcut":32,"weights":4},)"
    R"("calibration":{"batch_norm":5,"batch_size":128,"batches":10,"clip":"percentile","percentile":99.9},)"
    R"("dataset":"cifar10","kind":"quantize",)"
    R"("method":{"activations":"linear","ema_decay":0.999,"granularity":"channel","range":"symmetric",)"
    R"("weights":"linear"},"model":"resnet8","numerics":5,"seed":20,"shortcut":"block","train_images":0,)"
    R"("validation":0})";

// The full spec with one piece of its text replaced.
std::string with(std::string_view from, std::string_view to) {
  std::string text(kFullSpec);
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

std::string refusal(const std::string& text) {
  try {
    parse_spec(text);
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.failure_class(), FailureClass::kUserError);
    return failure.what();
  }
  return "accepted";
}

TEST(Spec, CanonicalText_ReturnsUnchanged) {
  EXPECT_EQ(canonical_spec(parse_spec(kFullSpec)), kFullSpec);
  EXPECT_EQ(canonical_spec(parse_spec(kQuantizeSpec)), kQuantizeSpec);
}

TEST(Spec, OtherOrderAndSpace_HasTheSameCanonicalText) {
  const std::string text =
      with(R"({"augment":["crop","flip"],)", R"({ "seed" : 18446744073709551615, )");
  std::string reordered = text;
  reordered.replace(reordered.find(R"("seed":18446744073709551615)"), 27,
                    R"("augment":["crop","flip"])");
  EXPECT_EQ(canonical_spec(parse_spec(reordered)), kFullSpec);
}

TEST(Spec, WrongValues_AreRefusedByName) {
  EXPECT_THAT(refusal("{"), HasSubstr("not JSON"));
  EXPECT_THAT(refusal("[]"), HasSubstr("expected an object"));
  EXPECT_THAT(refusal(with(R"("epochs":160)", R"("epochs":0)")),
              HasSubstr("epochs is 0, expected an integer from 1"));
  EXPECT_THAT(refusal(with(R"("epochs":160,)", "")), HasSubstr("epochs is missing"));
  EXPECT_THAT(refusal(with(R"("epochs":160)", R"("epochs":160,"epoch":1)")),
              HasSubstr(R"(unknown key "epoch")"));
  EXPECT_THAT(refusal(with(R"("weights":1)", R"("weights":9)")),
              HasSubstr("bits.weights is 9, expected 1 to 8, 16 or 32 bits"));
  EXPECT_THAT(refusal(with(R"("weights":1)", R"("weights":"1")")), HasSubstr("bits.weights"));
  EXPECT_THAT(refusal(with(R"(["fc",4,4])", R"(["fc",4,9])")), HasSubstr("bits.layers"));
  EXPECT_THAT(refusal(with("resnet20", "resnet21")), HasSubstr("expected resnet8, 14, 20"));
  EXPECT_THAT(refusal(with("resnet20", "plane4")),
              HasSubstr("shortcut is \"convolution\", expected block, since plane4"));
  EXPECT_THAT(refusal(with(R"("clip_init":8.0,)", "")), HasSubstr("method.clip_init is missing"));
  EXPECT_THAT(refusal(with(R"("activations":"pact")", R"("activations":"dorefa")")),
              HasSubstr("unknown key \"method.clip_decay\""));
  EXPECT_THAT(refusal(with(R"("kind":"dkd")", R"("kind":"kd")")),
              HasSubstr("unknown key \"distill.alpha\""));
  EXPECT_THAT(refusal(with(R"("numerics":5)", R"("numerics":6)")),
              HasSubstr("numerics is 6, this trainer's is 5"));
  EXPECT_THAT(refusal(with("[0.5,0.75]", "[0.75,0.5]")), HasSubstr("schedule.at"));
  EXPECT_THAT(refusal(with(R"(["crop","flip"])", R"(["flip","crop"])")), HasSubstr("augment"));
  EXPECT_THAT(refusal(with(R"("learning_rate":0.1)", R"("learning_rate":-1)")),
              HasSubstr("optimizer.learning_rate"));
  EXPECT_THAT(refusal(with(R"("seed":18446744073709551615)", R"("seed":-1)")),
              HasSubstr("seed is -1"));
  EXPECT_THAT(refusal(with(R"("epochs":160)", R"("epochs":18446744073709551615)")),
              HasSubstr("epochs"));
  EXPECT_THAT(refusal(with(R"("init":"artifact")", R"("init":"scratch")")),
              HasSubstr("unknown key \"init_artifact\""));
}

TEST(Bits, OfALayer_AreThoseOfTheLastRuleThatMatches) {
  const Bits bits = parse_spec(kFullSpec).network.bits;
  EXPECT_EQ(bits.of("conv1", LayerRole::kFirst), (LayerBits{8, 32}));
  EXPECT_EQ(bits.of("layer1.0.conv1", LayerRole::kInner), (LayerBits{1, 2}));
  EXPECT_EQ(bits.of("layer2.0.downsample.0", LayerRole::kShortcut), (LayerBits{32, 32}));
  EXPECT_EQ(bits.of("layer3.0.downsample.0", LayerRole::kShortcut), (LayerBits{1, 2}));
  EXPECT_EQ(bits.of("fc", LayerRole::kLast), (LayerBits{4, 4}));
}

}  // namespace
}  // namespace bitrung::train
