#include "worker/train/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/train/failure.h"

namespace bitrung::train {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kFullSpec =
    R"({"augment":["crop","flip"],"batch_size":128,"bits":{"activations":2,"weights":1},"dataset":"synthetic",)"
    R"("distill":{"kind":"kd","temperature":1.0,"weight":0.5},"epochs":160,"init":"artifact",)"
    R"("init_artifact":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","kind":"train",)"
    R"("method":{"activations":"dorefa","weights":"dorefa"},"model":"resnet20","numerics":1,)"
    R"("optimizer":{"kind":"sgd","learning_rate":0.1,"momentum":0.9,"nesterov":false,"weight_decay":0.0001},)"
    R"("schedule":{"at":[0.5,0.75],"factor":0.1,"kind":"step","warmup_epochs":2},"seed":18446744073709551615,)"
    R"("synthetic":{"seed":1,"test_images":2000,"train_images":8000},)"
    R"("teacher":{"artifact":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",)"
    R"("bits":{"activations":32,"weights":32},"method":{"activations":"dorefa","weights":"dorefa"},)"
    R"("model":"resnet110"},"train_images":0,"validation":500})";

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
  EXPECT_THAT(refusal(with("resnet20", "resnet21")),
              HasSubstr("expected one of resnet8, resnet14"));
  EXPECT_THAT(refusal(with(R"("numerics":1)", R"("numerics":2)")),
              HasSubstr("numerics is 2, this trainer's is 1"));
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

TEST(Spec, ModelNames_GiveTheirBlocks) {
  EXPECT_EQ(blocks_per_stage("resnet8"), 1);
  EXPECT_EQ(blocks_per_stage("resnet110"), 18);
  EXPECT_EQ(blocks_per_stage("resnet9"), 0);
}

}  // namespace
}  // namespace bitrung::train
