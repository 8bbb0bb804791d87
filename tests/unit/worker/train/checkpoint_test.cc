#include "worker/train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/worker/train/test_files.h"
#include "worker/train/failure.h"

namespace bitrung::train {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Network> make(const std::string& model, std::uint64_t seed = 1, int classes = 10,
                              const std::string& method = "dorefa") {
  NetworkChoice choice;
  choice.model = model;
  choice.bits = bits_of(4);
  choice.method.weights = choice.method.activations = method;
  return make_network({choice, classes}, seed, at::kFloat);
}

std::string refusal(const SafetensorsFile& file, const std::string& model) {
  const std::unique_ptr<Network> network = make(model);
  try {
    load_network(file, "teacher x.safetensors", LoadRule::kExact, *network);
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.failure_class(), FailureClass::kUserError);
    return failure.what();
  }
  return "accepted";
}

TEST(Checkpoint, RoundTrip_GivesEveryTensorBack) {
  for (const char* const method : {"dorefa", "lsq", "pact"}) {
    const auto written = make("resnet8", 1, 10, method);
    const auto read = make("resnet8", 2, 10, method);
    load_network(make_checkpoint(written->state(), tiny_spec(), 3), "x", LoadRule::kExact, *read);
    for (std::size_t i = 0; i < written->state().size(); ++i) {
      EXPECT_TRUE(at::equal(written->state()[i].tensor, read->state()[i].tensor))
          << written->state()[i].name;
    }
  }
}

TEST(Checkpoint, Metadata_SaysWhatItHolds) {
  Spec spec = tiny_spec();
  const SafetensorsFile file = make_checkpoint(make("resnet8")->state(), spec, 3);
  EXPECT_EQ(file.metadata.at("bitrung.kind"), "checkpoint");
  EXPECT_EQ(file.metadata.at("bitrung.epoch"), "3");
  EXPECT_EQ(file.metadata.at("bitrung.spec"), canonical_spec(spec));
  EXPECT_EQ(checkpoint_network(file, "x", 10), spec.network);
  try {
    checkpoint_network(file, "teacher x", 100);
    FAIL();
  } catch (const Failure& failure) {
    EXPECT_THAT(failure.what(),
                HasSubstr("trained on synthetic with 10 classes, this job's data set has 100"));
  }
}

TEST(Checkpoint, OutsideFile_MayLackCountersAndHoldHalves) {
  const auto written = make("resnet8", 1);
  SafetensorsFile file;
  for (const NamedTensor& tensor : written->state()) {
    if (!tensor.name.ends_with("num_batches_tracked")) {
      file.tensors[tensor.name] = to_bytes(tensor.tensor.to(at::kHalf));
    }
  }
  EXPECT_EQ(refusal(file, "resnet8"), "accepted");
  EXPECT_EQ(checkpoint_network(file, "teacher x", 10), std::nullopt);
}

TEST(Checkpoint, StartOfATraining_MayComeFromAnotherMethod) {
  const auto pact = make("resnet8", 1, 10, "pact");
  const SafetensorsFile file = make_checkpoint(pact->state(), tiny_spec(), 1);
  EXPECT_THAT(refusal(file, "resnet8"), HasSubstr("is none of resnet8's"));
  const auto student = make("resnet8", 2, 10, "lsq");
  load_network(file, "x", LoadRule::kWeightsOnly, *student);
  for (const NamedTensor& tensor : student->state()) {
    if (tensor.name == "layer2.0.conv1.weight") {
      EXPECT_EQ(to_bytes(tensor.tensor).bytes, file.tensors.at(tensor.name).bytes);
    }
  }
  EXPECT_THROW(load_network(file, "x", LoadRule::kWeightsOnly, *make("resnet14")), Failure);
}

TEST(Checkpoint, OtherNetworks_AreRefusedByTheFirstTensorThatDiffers) {
  const SafetensorsFile deeper = make_checkpoint(make("resnet14")->state(), tiny_spec(), 1);
  EXPECT_THAT(refusal(deeper, "resnet8"),
              AllOf(HasSubstr("teacher x.safetensors: tensor layer1.1."),
                    HasSubstr("is none of resnet8's"), HasSubstr("it was written for resnet14")));
  const SafetensorsFile shallower = make_checkpoint(make("resnet8")->state(), tiny_spec(), 1);
  EXPECT_THAT(refusal(shallower, "resnet14"),
              AllOf(HasSubstr("tensor layer1.1.bn1.weight is missing, resnet14 expects (16) there"),
                    HasSubstr("it was written for resnet8")));
  const SafetensorsFile more_classes =
      make_checkpoint(make("resnet8", 1, 100)->state(), tiny_spec(), 1);
  EXPECT_THAT(
      refusal(more_classes, "resnet8"),
      AllOf(HasSubstr("tensor fc.weight has 6400 elements (100,64), resnet8 expects 640 (10,64)"),
            HasSubstr("it was written for 100 classes, this data set has 10")));
}

TEST(Checkpoint, DamagedTensors_AreRefused) {
  SafetensorsFile file = make_checkpoint(make("resnet8")->state(), tiny_spec(), 1);
  file.tensors["fc.bias"] = to_bytes(at::full({10}, std::numeric_limits<float>::infinity()));
  EXPECT_THAT(refusal(file, "resnet8"), HasSubstr("tensor fc.bias holds NaN or infinite values"));
  file.tensors["fc.bias"] = to_bytes(at::zeros({10}, at::kLong));
  EXPECT_THAT(refusal(file, "resnet8"), HasSubstr("tensor fc.bias is I64, resnet8 expects F32"));
  file = make_checkpoint(make("resnet8")->state(), tiny_spec(), 1);
  file.tensors["module.extra"] = to_bytes(at::zeros({1}));
  EXPECT_THAT(refusal(file, "resnet8"), HasSubstr("tensor module.extra (1) is none of resnet8's"));
}

TEST(Checkpoint, UnreadableFile_IsAUserError) {
  const TemporaryFolder folder;
  write_bytes(folder.path() / "x", "no safetensors file at all");
  EXPECT_THROW(read_checkpoint(folder.path() / "x", "teacher"), Failure);
  EXPECT_THROW(read_checkpoint(folder.path() / "missing", "teacher"), Failure);
}

}  // namespace
}  // namespace bitrung::train
