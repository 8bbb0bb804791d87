#include "client/experiment/outside_file.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/unit/client/experiment/testing.h"
#include "worker/train/nn/architecture.h"

namespace bitrung::client {
namespace {

// A directory of its own for each test, and files that look like checkpoints.
class OutsideFileTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::path(testing::TempDir()) /
                 fmt::format("outside_file_{}",
                             testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path path(const std::string& name) const { return directory_ / name; }

  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
  }

  static std::string container(const std::string& header, std::size_t data_bytes) {
    std::string bytes;
    for (std::size_t i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 0xFF);
    return bytes + header + std::string(data_bytes, 'x');
  }

  static std::string checkpoint(int classes, const std::string& metadata = "") {
    const int bytes = classes * 64 * 4;
    return container(
        fmt::format(R"({{{}"fc.weight":{{"dtype":"F32","shape":[{},64],"data_offsets":[0,{}]}}}})",
                    metadata, classes, bytes),
        static_cast<std::size_t>(bytes));
  }

  // What a bitrung trainer adds.
  static std::string metadata(const std::string& model) {
    return fmt::format(
        R"("__metadata__":{{"format":"pt","bitrung.spec":"{{\"bits\":{{\"activations\":8,\"weights\":4}},)"
        R"(\"method\":{{\"activations\":\"dorefa\",\"weights\":\"dorefa\"}},\"model\":\"{}\"}}"}},)",
        model);
  }

  std::string error(const std::string& job) const {
    return error_of("experiment: e\njobs:\n  a: {" + job + "}\n", {}, directory_);
  }
  Graph graph(const std::string& job) const {
    return graph_of("experiment: e\njobs:\n  a: {" + job + "}\n", {}, directory_);
  }

  std::filesystem::path directory_;
};

TEST_F(OutsideFileTest, Teacher_IsAnInputWithItsDigest) {
  const std::string bytes = checkpoint(10);
  write("t.safetensors", bytes);

  const Graph result =
      graph("bits: 4, teacher: {artifact: t.safetensors, model: resnet110, bits: w4a32}");

  ASSERT_EQ(drawn(result), "a <- teacher t.safetensors\n");
  const Input& input = result.jobs[0].inputs[0];
  EXPECT_EQ(input.file, path("t.safetensors"));
  EXPECT_EQ(input.file_sha256, sha256(bytes));
  EXPECT_THAT(result.jobs[0].spec_json,
              testing::HasSubstr(R"("teachers":[{"artifact":")" + sha256(bytes).hex() +
                                 R"(","bits":{"activations":32,"first":32,"gradients":32,)"
                                 R"("last":32,"layers":[],"shortcut":32,"weights":4},)"
                                 R"("method":{"activations":"dorefa","weights":"dorefa"},)"
                                 R"("model":"resnet110","shortcut":"block"}],"train_images":0)"));
  EXPECT_THAT(result.jobs[0].spec_json, testing::HasSubstr(R"("distill":{)"));
}

TEST_F(OutsideFileTest, TeacherOfOurTrainer_NeedsNoModel) {
  write("t.safetensors", checkpoint(10, metadata("resnet56")));

  EXPECT_THAT(graph("teacher: {artifact: t.safetensors}").jobs[0].spec_json,
              testing::HasSubstr(R"("bits":{"activations":8,"first":32,"gradients":32,)"
                                 R"("last":32,"layers":[],"shortcut":32,"weights":4},)"
                                 R"("method":{"activations":"dorefa","weights":"dorefa"},)"
                                 R"("model":"resnet56","shortcut":"block"}])"));
  EXPECT_EQ(
      error("teacher: {artifact: t.safetensors, model: resnet110}"),
      "ladder.yaml:3: teacher artifact t.safetensors was trained as resnet56 with w4a8 bits by "
      "dorefa/dorefa, the options say resnet110 with w4a8 bits by dorefa/dorefa; remove the "
      "options "
      "that differ, or name another file");
}

TEST_F(OutsideFileTest, TeacherWithoutModel_IsRefused) {
  write("t.safetensors", checkpoint(10));
  EXPECT_EQ(error("teacher: {artifact: t.safetensors}"),
            "ladder.yaml:3: teacher artifact t.safetensors does not say what network it is; add "
            "its model, "
            "such as {artifact: t.safetensors, model: resnet110}");
  EXPECT_EQ(error("teacher: {model: resnet110}"),
            "ladder.yaml:3: teacher is a mapping without \"artifact\"; expected the name of a job, "
            "{artifact: FILE.safetensors, model: NAME}, a list of these, or none");
  EXPECT_EQ(error("teacher: {artifact: t.safetensors, model: resnet111}"),
            "ladder.yaml:3: teacher.model is \"resnet111\"; expected " +
                std::string(train::model_names()) + "; did you mean \"resnet110\"?");
}

TEST_F(OutsideFileTest, OtherClasses_AreRefused) {
  write("t.safetensors", checkpoint(100));
  EXPECT_EQ(
      error("teacher: {artifact: t.safetensors, model: resnet110}"),
      "ladder.yaml:3: teacher artifact t.safetensors does not fit a: its tensor fc.weight has 100 "
      "rows, one per class, but cifar10 has 10 classes");
  EXPECT_EQ(
      graph("dataset: cifar100, teacher: {artifact: t.safetensors, model: resnet110}").jobs.size(),
      1U);
}

TEST_F(OutsideFileTest, Init_IsAnInputToo) {
  const std::string bytes = checkpoint(10, metadata("resnet20"));
  write("t.safetensors", bytes);

  const Graph result = graph("init: {artifact: t.safetensors}");

  EXPECT_EQ(drawn(result), "a <- init t.safetensors\n");
  EXPECT_THAT(
      result.jobs[0].spec_json,
      testing::HasSubstr(R"("init":"artifact","init_artifact":")" + sha256(bytes).hex() + "\""));
  EXPECT_EQ(
      error("model: resnet56, init: {artifact: t.safetensors}"),
      "ladder.yaml:3: a starts from t.safetensors, which is a resnet20, but its model is resnet56; "
      "both must be the same network");
  EXPECT_EQ(
      error("init: teacher, teacher: {artifact: t.safetensors}, model: resnet56"),
      "ladder.yaml:3: a starts from t.safetensors, which is a resnet20, but its model is resnet56; "
      "both must be the same network");
}

TEST_F(OutsideFileTest, EqualFilesUnderTwoNames_AreEqualWork) {
  write("one.safetensors", checkpoint(10));
  write("two.safetensors", checkpoint(10));
  const Graph result = graph_of(R"(
experiment: e
jobs:
  a: {teacher: {artifact: one.safetensors, model: resnet110}}
  b: {teacher: {artifact: two.safetensors, model: resnet110}}
)",
                                {}, directory_);
  EXPECT_EQ(drawn(result), "a = b <- teacher one.safetensors\n");
}

TEST_F(OutsideFileTest, SeveralTeachers_MixJobsAndFiles) {
  write("one.safetensors", checkpoint(10));
  write("two.safetensors", checkpoint(10, metadata("resnet56")));
  const Graph result = graph_of(R"(
experiment: e
jobs:
  big: {model: resnet26}
  a: {teacher: [{artifact: one.safetensors, model: plane4, shortcut: block}, big,
                {artifact: two.safetensors}]}
)",
                                {}, directory_);
  EXPECT_EQ(drawn(result),
            "big\na <- teacher one.safetensors, teacher big, teacher two.safetensors\n");
  const auto spec = nlohmann::json::parse(result.jobs.at(1).spec_json);
  EXPECT_EQ(spec.at("teachers").size(), 2U);
  EXPECT_EQ(spec.at("teachers")[0].at("model"), "plane4");
  EXPECT_EQ(spec.at("teachers")[1].at("model"), "resnet56");
  EXPECT_EQ(spec.dump(), result.jobs[1].spec_json);
  EXPECT_GT(training_flops(result, 1), training_flops(result, 0));
}

TEST_F(OutsideFileTest, Source_IsQuantizedOrEvaluated) {
  write("one.safetensors", checkpoint(10));
  write("two.safetensors", checkpoint(10, metadata("resnet56")));

  const Graph quantized = graph(
      "bits: 8, quantize: {artifact: one.safetensors, model: resnet14, shortcut: convolution}");
  EXPECT_EQ(drawn(quantized), "a <- source one.safetensors\n");
  EXPECT_EQ(quantized.jobs[0].model, "resnet14");
  EXPECT_THAT(quantized.jobs[0].spec_json, testing::HasSubstr(R"("shortcut":"convolution")"));

  const Graph evaluated = graph("evaluate: {artifact: two.safetensors}");
  EXPECT_EQ(drawn(evaluated), "a <- source two.safetensors\n");
  EXPECT_EQ(evaluated.jobs[0].weight_bits, 4);
  EXPECT_EQ(evaluated.jobs[0].activation_bits, 8);
  EXPECT_EQ(evaluated.jobs[0].model, "resnet56");

  EXPECT_EQ(error("evaluate: {artifact: one.safetensors}"),
            "ladder.yaml:3: source artifact one.safetensors does not say what network it is; add "
            "its model, such as {artifact: one.safetensors, model: resnet110}");
  EXPECT_EQ(error("dataset: cifar100, evaluate: {artifact: two.safetensors}"),
            "ladder.yaml:3: source artifact two.safetensors does not fit a: its tensor fc.weight "
            "has 10 rows, one per class, but cifar100 has 100 classes");
}

TEST_F(OutsideFileTest, PathsStartAtTheDirectoryOfTheExperiment) {
  write("t.safetensors", checkpoint(10));
  write("e.yaml", "experiment: e\njobs: {a: {init: {artifact: t.safetensors}}}\n");
  const absl::StatusOr<Graph> result = load_experiment(path("e.yaml"), {});
  ASSERT_TRUE(result.ok()) << message(result.status());
  EXPECT_EQ(result->jobs[0].inputs[0].file, path("t.safetensors"));
}

TEST_F(OutsideFileTest, FilesOfOtherKinds_AreRefused) {
  const std::string teacher = "teacher: {artifact: t.safetensors, model: resnet110}";
  const std::string start = "ladder.yaml:3: teacher artifact " + path("t.safetensors").string();
  EXPECT_EQ(error(teacher), start + " cannot be read: No such file or directory");

  std::filesystem::create_directory(path("t.safetensors"));
  EXPECT_EQ(error(teacher), start + " is not a regular file");
  std::filesystem::remove(path("t.safetensors"));

  ASSERT_EQ(::mkfifo(path("t.safetensors").c_str(), 0600), 0);
  EXPECT_EQ(error(teacher), start + " is not a regular file");
  std::filesystem::remove(path("t.safetensors"));

  write("t.safetensors", "PK\x03");
  EXPECT_EQ(error(teacher), start + " has 3 bytes, too few for a safetensors file");
  write("t.safetensors", "not a checkpoint at all");
  EXPECT_EQ(error(teacher),
            start +
                " is not a safetensors file: its first 8 bytes announce a header of "
                "7521891404167278446 bytes, the file has 23 and the limit is 16777216");
  write("t.safetensors", container("[1, 2]", 0));
  EXPECT_EQ(error(teacher), start + " is not a safetensors file: its header is not a JSON object");
  write("t.safetensors", container("{\"a\":", 0));
  EXPECT_EQ(error(teacher), start + " is not a safetensors file: its header is not a JSON object");
  write("t.safetensors", container(R"({"a":{"dtype":"F32"}})", 0));
  EXPECT_EQ(error(teacher),
            start + " is not a safetensors file: tensor \"a\" has no shape or no data_offsets");
  write("t.safetensors", checkpoint(10).substr(0, 1000));
  EXPECT_THAT(error(teacher),
              testing::StartsWith(start + " is cut short: its header lists 2560 bytes of "
                                          "tensors, "));
  write("t.safetensors", container(R"({"fc.weight":{"shape":[10],"data_offsets":[0,0]}})", 0));
  EXPECT_EQ(error(teacher),
            start + " does not fit: the shape of tensor fc.weight is not [classes, features]");
}

TEST_F(OutsideFileTest, HostileHeaders_EndInAMessage) {
  const std::string deep(2'000'000, '[');
  write("t.safetensors", container(deep, 0));
  EXPECT_FALSE(inspect_outside_file(path("t.safetensors")).ok());
  const std::string closed = deep + std::string(deep.size(), ']');
  write("t.safetensors",
        container(R"({"fc.weight":{"data_offsets":[0,0],"shape":)" + closed + "}}", 0));
  EXPECT_FALSE(inspect_outside_file(path("t.safetensors")).ok());
  // Metadata of a form that we do not write counts as none.
  for (const std::string text :
       {R"("__metadata__":[],)", R"("__metadata__":{"bitrung.spec":7},)",
        R"("__metadata__":{"bitrung.spec":"{"},)",
        R"("__metadata__":{"bitrung.spec":"{\"bits\":1,\"method\":2}"},)"}) {
    write("t.safetensors", checkpoint(10, text));
    const absl::StatusOr<OutsideFile> file = inspect_outside_file(path("t.safetensors"));
    ASSERT_TRUE(file.ok()) << message(file.status());
    EXPECT_FALSE(file->trained_as.has_value()) << text;
  }
}

}  // namespace
}  // namespace bitrung::client
