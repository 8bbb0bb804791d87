#include "tests/unit/client/experiment/testing.h"

namespace bitrung::client {
namespace {

Graph example(const std::string& name) {
  absl::StatusOr<Graph> graph = load_experiment(std::filesystem::path(BITRUNG_EXAMPLES) / name, {});
  EXPECT_TRUE(graph.ok()) << message(graph.status());
  return graph.ok() ? *std::move(graph) : Graph();
}

TEST(Examples, EveryFile_LoadsUnderItsOwnName) {
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(BITRUNG_EXAMPLES)) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    EXPECT_EQ(example(entry.path().filename().string()).name, entry.path().stem().string());
  }
  EXPECT_GE(files, 4U);
}

TEST(Examples, BitLadder_HasElevenJobsInAChainOfSix) {
  const Graph graph = example("bit-ladder.yaml");
  EXPECT_EQ(graph.jobs.size(), 11U);
  EXPECT_EQ(critical_path_length(graph), 6U);
  EXPECT_EQ(job_named(graph, "assisted.bits=32").name, "alone.bits=32");
}

TEST(Examples, Cifar10Ladder_HasThreeSeeds) {
  const Graph graph = example("cifar10-ladder.yaml");
  EXPECT_EQ(graph.jobs.size(), 33U);
  EXPECT_EQ(critical_path_length(graph), 6U);
}

TEST(Examples, BitsGrid_IsAProduct) {
  EXPECT_EQ(example("bits-grid.yaml").jobs.size(), 28U);
}

TEST(Examples, Temperature_HasOneTeacherPerSeed) {
  const Graph graph = example("temperature.yaml");
  EXPECT_EQ(graph.jobs.size(), 54U);
  const Job& student = job_named(graph, "student.temperature=4.weight=0.7.seed=31");
  EXPECT_EQ(graph.jobs.at(student.inputs.at(0).jobs.at(0)).name, "teacher.seed=31");
}

TEST(LoadExperiment, FilesThatCannotBeRead_AreNamed) {
  const absl::Status missing = load_experiment("/nowhere/ladder.yaml", {}).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(message(missing), "/nowhere/ladder.yaml: there is no such file");

  const absl::Status directory = load_experiment(BITRUNG_EXAMPLES, {}).status();
  EXPECT_EQ(directory.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(message(directory),
            std::string(BITRUNG_EXAMPLES) + " is a directory; expected an experiment file");

  const absl::Status device = load_experiment("/dev/zero", {}).status();
  EXPECT_EQ(message(device), "/dev/zero is not a regular file; expected an experiment file");
}

}  // namespace
}  // namespace bitrung::client
