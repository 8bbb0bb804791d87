#include "server/rpc/job_options.h"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/server/rpc/study.h"

namespace bitrung::rpc {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(JobNames, AreTakenApart) {
  const JobName plain = parse_job_name("teacher");
  EXPECT_EQ(plain.entry, "teacher");
  EXPECT_EQ(plain.rest, "");
  EXPECT_EQ(plain.seedless, "teacher");

  const JobName ladder = parse_job_name("assisted.bits=4.seed=20");
  EXPECT_EQ(ladder.entry, "assisted");
  EXPECT_EQ(ladder.rest, "bits=4.seed=20");
  EXPECT_EQ(ladder.seedless, "assisted.bits=4");

  EXPECT_EQ(parse_job_name("a.seed=20.bits=4").seedless, "a.bits=4");
  EXPECT_EQ(parse_job_name("a.seed=20").seedless, "a");
  EXPECT_EQ(parse_job_name("a.optimizer.learning_rate=0.1.seed=2").seedless,
            "a.optimizer.learning_rate=0.1");
  EXPECT_EQ(parse_job_name("a.synthetic_seed=3").seedless, "a.synthetic_seed=3");
  EXPECT_EQ(parse_job_name("paths.path=32-w4a8-4.seed=20").path, "32-w4a8-4");
  EXPECT_EQ(parse_job_name("paths.path=32-w4a8-4.seed=20").seedless, "paths.path=32-w4a8-4");
  EXPECT_EQ(parse_job_name("search.bits=4.from=16.seed=20").from, "16");
  EXPECT_EQ(parse_job_name("alone.bits=4").from, "");
}

TEST(JobOptions, AreDotted_WithWhatTheNameAndTheTeachersSay) {
  Study study;
  study.add("alone.bits=32.seed=1", 32, 1, 70).spec.aliases = {"paths.path=32.seed=1"};
  study.add("paths.path=32-4.seed=1", 4, 1, 60, distill(5) + R"(,"augment":["crop","flip"])")
      .spec.inputs = {taught_by(1)};
  study.rows[1].spec.weight_bits = 2;
  const std::vector<NamedJob> jobs = named_jobs(study.rows);
  ASSERT_EQ(jobs.size(), 3u);
  EXPECT_EQ(jobs[0].name.entry, "alone");
  EXPECT_EQ(jobs[0].option("path"), nullptr);
  EXPECT_EQ(jobs[0].option("teacher"), nullptr);
  EXPECT_EQ(*jobs[1].option("path"), "32");
  EXPECT_EQ(*jobs[2].option("teacher"), "alone.bits=32");
  EXPECT_EQ(*jobs[2].option("distill.temperature"), "5");
  EXPECT_EQ(*jobs[2].option("distill.kind"), "kd");
  EXPECT_EQ(*jobs[2].option("augment"), R"(["crop","flip"])");
  EXPECT_EQ(*jobs[2].option("bits.weights"), "4");
  EXPECT_EQ(*jobs[2].option("bits"), "w2a4");
  EXPECT_EQ(*jobs[2].option("method"), "dorefa");
}

TEST(JobOptions, Teachers_AreSeveralOrTheBestOfSeveral) {
  Study study;
  study.add("a.seed=1", 32, 1, 70);
  study.add("b.seed=1", 16, 1, 70);
  study.add("c.seed=1", 8, 1, 70);
  db::JobRow& several = study.add("several.seed=1", 4, 1, 60);
  several.spec.inputs = {taught_by(1), taught_by(2)};
  db::JobRow& best = study.add("best.seed=1", 4, 1, 60);
  best.spec.inputs = {taught_by(1), taught_by(2), taught_by(3)};
  best.spec.inputs[0].choice = best.spec.inputs[1].choice = 1;
  const std::vector<NamedJob> jobs = named_jobs(study.rows);
  EXPECT_EQ(*jobs[3].option("teacher"), "a+b");
  EXPECT_EQ(*jobs[4].option("teacher"), "best of a|b+c");
}

std::vector<std::string> differing(const std::vector<NamedJob>& jobs,
                                   std::vector<std::string> first = {}) {
  std::vector<const NamedJob*> group;
  for (const NamedJob& job : jobs) group.push_back(&job);
  return differing_options({group}, std::move(first));
}

TEST(DifferingOptions, LeaveOutSeedsAndWhatFollowsFromAnother) {
  Study study;
  study.add("a.seed=1", 4, 1, 60, distill(1));
  study.add("a.seed=2", 4, 2, 61, distill(1));
  EXPECT_THAT(differing(named_jobs(study.rows)), IsEmpty());
  study.add("a.temperature=5.seed=1", 4, 1, 62, distill(5));
  // temperature_end goes with temperature.
  EXPECT_THAT(differing(named_jobs(study.rows)), ElementsAre("distill.temperature"));
  study.add("b.seed=1", 4, 1, 62, R"(,"extra":true)");
  study.add("b.seed=1", 4, 1, 62);
  EXPECT_THAT(differing(named_jobs(study.rows)), ElementsAre("distill.temperature", "extra"));
  EXPECT_THAT(differing(named_jobs(study.rows), {"bits"}),
              ElementsAre("distill.temperature", "extra"));
  study.add("a.bits=2", 2, 1, 50, distill(1));
  EXPECT_THAT(differing(named_jobs(study.rows), {"bits"}),
              ElementsAre("bits", "distill.temperature", "extra"));
}

TEST(DifferingOptions, TheTeacherIsTheLastResort) {
  Study study;
  study.add("t1", 32, 1, 70);
  study.add("t2", 32, 1, 71, distill(3));
  study.add("a.bits=4", 4, 1, 60).spec.inputs = {taught_by(1)};
  study.add("a.bits=w4a4", 4, 1, 60).spec.inputs = {taught_by(2)};
  const std::vector<NamedJob> jobs = named_jobs(study.rows);
  EXPECT_THAT(differing_options({{&jobs[2], &jobs[3]}}), ElementsAre("teacher"));
  // A job of another group is not compared with.
  EXPECT_THAT(differing_options({{&jobs[2]}, {&jobs[3]}}), IsEmpty());
}

TEST(Values, NumbersBySize_BitsFromTheTop_TextsByLetters) {
  const auto sorted = [](std::string_view option, std::vector<std::string> values) {
    std::ranges::sort(values, [&](const std::string& left, const std::string& right) {
      return value_before(option, &left, &right);
    });
    return values;
  };
  EXPECT_THAT(sorted("distill.temperature", {"10", "2.5", "1e-3"}),
              ElementsAre("1e-3", "2.5", "10"));
  EXPECT_THAT(sorted("bits", {"1", "w2a32", "32", "4"}), ElementsAre("32", "4", "w2a32", "1"));
  EXPECT_THAT(sorted("x", {"9x", "1a", "10", "9"}), ElementsAre("9", "10", "1a", "9x"));
  const std::string value = "0";
  EXPECT_TRUE(value_before("x", nullptr, &value));
  EXPECT_FALSE(value_before("x", &value, nullptr));
  EXPECT_FALSE(value_before("x", nullptr, nullptr));
}

TEST(UnknownOption, NamesTheNearest) {
  Study study;
  study.add("a.seed=1", 4, 1, 60, distill(1));
  const std::vector<NamedJob> jobs = named_jobs(study.rows);
  EXPECT_EQ(unknown_option("distill.temperature", jobs), std::nullopt);
  EXPECT_EQ(unknown_option("seed", jobs), std::nullopt);
  EXPECT_EQ(unknown_option("temperature", jobs),
            "no job of the experiment has an option \"temperature\"; did you mean "
            "distill.temperature?");
  EXPECT_EQ(unknown_option("optimizer", jobs),
            "no job of the experiment has an option \"optimizer\"; did you mean optimizer.kind, "
            "optimizer.learning_rate?");
  EXPECT_THAT(*unknown_option("optimizer.learning_rat", jobs),
              HasSubstr("did you mean \"optimizer.learning_rate\"?"));
  EXPECT_THAT(*unknown_option("zzzzzzzz", jobs), HasSubstr("there are bits, bits.activations, "));
}

}  // namespace
}  // namespace bitrung::rpc
