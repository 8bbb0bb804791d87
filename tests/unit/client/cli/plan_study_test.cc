// The plan of a study with every way of making jobs, from the file to the table.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "client/cli/cli.h"
#include "tests/unit/client/cli/golden.h"
#include "tests/unit/client/cli/temporary.h"

namespace bitrung::cli {
namespace {

constexpr std::string_view kStudy = R"(
experiment: study
defaults: {model: resnet8, epochs: 5, bits: {first: 8, last: 8}}
jobs:
  ways: {paths: {bits: [32, 4, 2]}, init: teacher}
  best: {paths: {bits: [32, 8, 4, 2]}, search: best-path, init: teacher}
  binary: {method: react, bits: 1, teacher: [best.bits=32, best.bits=8.from=32]}
  small: {quantize: best.bits=32, bits: w4a8, calibration: {clip: aciq-laplace}}
  look: {evaluate: small, train_images: 10000}
)";

std::string planned(const std::string& file, const std::string& nothing, bool text) {
  std::ostringstream out;
  std::ostringstream err;
  Terminal terminal;
  terminal.interactive = text;
  Streams streams{out, err, terminal, {}};
  EXPECT_EQ(run_cli({"plan", file, "--state-dir", nothing}, streams), 0) << err.str();
  return out.str();
}

TEST(PlanStudy, ShowsKindsTeachersAndChoices) {
  const EnvironmentVariable no_server("BITRUNG_SERVER", "");
  const TemporaryFolder folder;
  const std::string file = folder.path() / "study.yaml";
  std::ofstream(file) << kStudy;
  const std::string nothing = folder.path() / "nothing";
  EXPECT_TRUE(matches_golden("plan_study.txt", planned(file, nothing, true)));
  EXPECT_TRUE(matches_golden("plan_study.tsv", planned(file, nothing, false)));
}

}  // namespace
}  // namespace bitrung::cli
