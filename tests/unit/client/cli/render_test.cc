// Every renderer against its golden text.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "client/cli/render_compare.h"
#include "client/cli/render_download.h"
#include "client/cli/render_inspect.h"
#include "client/cli/render_lists.h"
#include "client/cli/render_plan.h"
#include "client/cli/render_results.h"
#include "client/cli/render_series.h"
#include "db/base/status.h"
#include "tests/unit/client/cli/golden.h"
#include "tests/unit/client/cli/sample.h"

namespace bitrung::cli {
namespace {

TEST(Render, Results) {
  const v1::GetResultsResponse results = sample_results();
  EXPECT_TRUE(matches_golden("results.ansi", render_results_text(results, kFullStyle)));
  EXPECT_TRUE(matches_golden("results.txt", render_results_text(results, kPlainStyle)));
  EXPECT_TRUE(matches_golden("results.tsv", render_results_tsv(results)));
  EXPECT_TRUE(matches_golden("results.json", render_results_json(results)));
}

TEST(Render, ResultsOfOneSeed_HaveNoSpread) {
  EXPECT_TRUE(matches_golden("results_one_seed.txt",
                             render_results_text(sample_single_seed(), kPlainStyle)));
}

TEST(Render, ResultsOfSeveralModels_MakeGroups) {
  v1::GetResultsResponse results = sample_results();
  const v1::ResultsRow row = results.rows(2);
  *results.add_rows() = row;
  results.mutable_rows(5)->set_model("resnet20");
  results.mutable_rows(5)->mutable_cells(1)->clear_against_first();
  results.mutable_rows(5)->mutable_cells(1)->set_job_count(0);
  EXPECT_TRUE(matches_golden("results_groups.txt", render_results_text(results, kPlainStyle)));
}

TEST(Render, ResultsOfOneEntryPerMethod_MakeAList) {
  EXPECT_TRUE(
      matches_golden("results_methods.txt", render_results_text(sample_methods(), kPlainStyle)));
}

TEST(Render, ResultsOnRequest_SayWhatTheyJoin) {
  v1::GetResultsResponse results = sample_results();
  results.set_metric("nll");
  results.set_grouped_on_request(true);
  results.add_options("distill.temperature");
  results.add_joined_options("bits");
  results.add_joined_options("epochs");
  results.mutable_rows()->DeleteSubrange(2, 3);
  for (v1::ResultsRow& row : *results.mutable_rows()) {
    row.clear_bits();
    row.clear_model();
    v1::OptionValue& option = *row.add_options();
    option.set_name("distill.temperature");
  }
  results.mutable_rows(1)->mutable_options(0)->set_value("5");
  results.mutable_rows(0)->mutable_cells(0)->clear_summary();  // No report.
  // More of a loss is worse, so the difference is red.
  EXPECT_TRUE(matches_golden("results_grouped.ansi", render_results_text(results, kFullStyle)));
  EXPECT_TRUE(matches_golden("results_grouped.tsv", render_results_tsv(results)));
}

TEST(Render, ResultsOfPaths_ShowTheBestAndTheRegret) {
  const v1::GetResultsResponse results = sample_paths();
  EXPECT_TRUE(matches_golden("results_paths.txt", render_results_text(results, kPlainStyle)));
  EXPECT_TRUE(matches_golden("results_paths.json", render_results_json(results)));
}

TEST(Render, ResultsJson_HasThePromisedKeysAndNoOther) {
  const auto json = nlohmann::json::parse(render_results_json(sample_results()));
  const std::set<std::string> promised{"name",
                                       "aliases",
                                       "state",
                                       "model",
                                       "dataset",
                                       "method",
                                       "bits",
                                       "teacher",
                                       "seed",
                                       "epochs",
                                       "attempts",
                                       "cached",
                                       "test_accuracy",
                                       "test_loss",
                                       "validation_accuracy",
                                       "error",
                                       "duration_seconds",
                                       "images_per_second",
                                       "artifact_sha256",
                                       "backend",
                                       "backend_reason"};
  std::set<std::string> whole;
  for (const auto& [key, value] : json.items()) whole.insert(key);
  EXPECT_EQ(whole, (std::set<std::string>{"experiment", "state", "jobs", "metric", "entries",
                                          "options", "joined_options", "rows", "best_paths"}));
  for (const auto& job : json.at("jobs")) {
    std::set<std::string> keys;
    for (const auto& [key, value] : job.items()) keys.insert(key);
    EXPECT_EQ(keys, promised);
  }
  EXPECT_TRUE(json.at("jobs").at(4).at("test_accuracy").is_null());
  EXPECT_TRUE(json.at("jobs").at(0).at("error").is_null());
}

TEST(Render, ResultsOfNothing) {
  v1::GetResultsResponse results;
  *results.mutable_experiment() = sample_experiment(v1::EXPERIMENT_STATE_CANCELLED);
  EXPECT_TRUE(matches_golden("results_empty.txt", render_results_text(results, kPlainStyle)));
}

TEST(Render, Comparison) {
  const v1::CompareResponse comparison = sample_comparison();
  EXPECT_TRUE(
      matches_golden("compare.ansi", render_comparison(comparison, OutputMode::kText, kFullStyle)));
  EXPECT_TRUE(
      matches_golden("compare.txt", render_comparison(comparison, OutputMode::kText, kPlainStyle)));
  EXPECT_TRUE(
      matches_golden("compare.tsv", render_comparison(comparison, OutputMode::kTsv, kPlainStyle)));
  EXPECT_TRUE(matches_golden("compare.json",
                             render_comparison(comparison, OutputMode::kJson, kPlainStyle)));
}

TEST(Render, ComparisonOfEntries_HasALineForEachBitwidth) {
  EXPECT_TRUE(matches_golden(
      "compare_entries.txt",
      render_comparison(sample_comparison_of_entries(), OutputMode::kText, kPlainStyle)));
}

TEST(Render, ComparisonOfEqualJobs_SaysSo) {
  v1::CompareResponse comparison;
  comparison.mutable_a()->set_label("3/a");
  comparison.mutable_b()->set_label("3/b");
  comparison.add_groups();
  EXPECT_TRUE(matches_golden("compare_equal.txt",
                             render_comparison(comparison, OutputMode::kText, kPlainStyle)));
}

std::string inspection(const InspectOptions& options, OutputMode mode, const Style& style) {
  return render_inspection(sample_report(), "3", options, mode, style).value();
}

TEST(Render, Inspection) {
  EXPECT_TRUE(matches_golden("inspect.ansi", inspection({}, OutputMode::kText, kFullStyle)));
  const InspectOptions all{.layer_pattern = "", .activations = true, .confusion = true};
  // Five different values at two bits are marked.
  EXPECT_TRUE(matches_golden("inspect_all.txt", inspection(all, OutputMode::kText, kPlainStyle)));
  const InspectOptions some{.layer_pattern = "layer1.*2", .activations = true, .confusion = false};
  EXPECT_TRUE(matches_golden("inspect.tsv", inspection(some, OutputMode::kTsv, kPlainStyle)));
  EXPECT_TRUE(
      matches_golden("inspect_confusion.tsv", inspection(all, OutputMode::kTsv, kPlainStyle)));
}

TEST(Render, InspectionJson_PassesTheReportThrough) {
  const auto json = nlohmann::json::parse(inspection({}, OutputMode::kJson, kPlainStyle));
  EXPECT_EQ(json.at("job"), "assisted.bits=2.seed=20");
  EXPECT_EQ(json.at("report"), nlohmann::json::parse(sample_report().report_json()));
  const auto one = nlohmann::json::parse(
      inspection({.layer_pattern = "conv1", .activations = false, .confusion = false},
                 OutputMode::kJson, kPlainStyle));
  EXPECT_EQ(one.at("report").at("layers").size(), 1U);
}

TEST(Render, InspectionOfALayerThatIsNotThere_NamesThose) {
  const auto none = render_inspection(
      sample_report(), "3", {.layer_pattern = "layer9.*", .activations = false, .confusion = false},
      OutputMode::kText, kPlainStyle);
  EXPECT_TRUE(absl::IsNotFound(none.status()));
  EXPECT_EQ(message(none.status()),
            "no layer is named like \"layer9.*\"; * stands for any text, and there are conv1, "
            "layer1.0.conv1, layer1.0.conv2");
}

TEST(Render, InspectionOfAStrangeReport_ShowsWhatIsThere) {
  v1::GetReportResponse response = sample_report();
  const InspectOptions all{.layer_pattern = "", .activations = true, .confusion = true};
  response.set_report_json(
      R"({"evaluation":{"top1":"high","per_class":[1,2]},"layers":[7,{"name":"\u001b[31mx","weights":{"bits":"two","histogram":{"counts":[-1,"x",0]}}}]})");
  EXPECT_TRUE(matches_golden(
      "inspect_strange.txt",
      render_inspection(response, "3", all, OutputMode::kText, kPlainStyle).value()));
  response.set_report_json("[]");
  EXPECT_TRUE(absl::IsDataLoss(
      render_inspection(response, "3", all, OutputMode::kText, kPlainStyle).status()));
}

TEST(Render, Experiments) {
  const std::vector<v1::Experiment> experiments{sample_experiment(),
                                                sample_experiment(v1::EXPERIMENT_STATE_SUCCEEDED)};
  EXPECT_TRUE(matches_golden(
      "list.ansi", render_experiments(experiments, OutputMode::kText, kFullStyle, kNowMs)));
  EXPECT_TRUE(matches_golden(
      "list.txt", render_experiments(experiments, OutputMode::kText, kPlainStyle, kNowMs)));
  EXPECT_TRUE(matches_golden(
      "list.tsv", render_experiments(experiments, OutputMode::kTsv, kPlainStyle, kNowMs)));
  EXPECT_TRUE(matches_golden(
      "list.json", render_experiments(experiments, OutputMode::kJson, kPlainStyle, kNowMs)));
  EXPECT_EQ(render_experiments({}, OutputMode::kText, kPlainStyle, kNowMs),
            "no experiment yet; next: bitrung run FILE\n");
}

TEST(Render, Status) {
  const v1::Experiment experiment = sample_experiment();
  const std::vector<v1::Job> jobs = sample_jobs();
  EXPECT_TRUE(matches_golden("status.ansi",
                             render_status(experiment, jobs, OutputMode::kText, kFullStyle)));
  EXPECT_TRUE(matches_golden("status.txt",
                             render_status(experiment, jobs, OutputMode::kText, kPlainStyle)));
  EXPECT_TRUE(
      matches_golden("status.tsv", render_status(experiment, jobs, OutputMode::kTsv, kPlainStyle)));
  EXPECT_TRUE(matches_golden("status.json",
                             render_status(experiment, jobs, OutputMode::kJson, kPlainStyle)));
}

TEST(Render, Workers) {
  const std::vector<v1::Worker> workers = sample_workers();
  EXPECT_TRUE(matches_golden("workers.ansi",
                             render_workers(workers, OutputMode::kText, kFullStyle, kNowMs)));
  EXPECT_TRUE(matches_golden("workers.txt",
                             render_workers(workers, OutputMode::kText, kPlainStyle, kNowMs)));
  EXPECT_TRUE(matches_golden("workers.tsv",
                             render_workers(workers, OutputMode::kTsv, kPlainStyle, kNowMs)));
  EXPECT_TRUE(matches_golden("workers.json",
                             render_workers(workers, OutputMode::kJson, kPlainStyle, kNowMs)));
}

TEST(Render, Explanation) {
  v1::JobReference job;
  job.set_experiment("3");
  job.set_job("assisted.bits=2");
  v1::ExplainJobResponse explanation;
  explanation.set_state(v1::JOB_STATE_BLOCKED);
  explanation.add_lines("waits for assisted.bits=4, which is running on worker a7, epoch 3 of 5");
  explanation.add_lines("then it needs \x1b[31mone slot\x1b[0m");
  EXPECT_TRUE(matches_golden("explain.txt",
                             render_explanation(job, explanation, OutputMode::kText, kPlainStyle)));
  EXPECT_TRUE(matches_golden("explain.tsv",
                             render_explanation(job, explanation, OutputMode::kTsv, kPlainStyle)));
  EXPECT_TRUE(matches_golden("explain.json",
                             render_explanation(job, explanation, OutputMode::kJson, kPlainStyle)));
}

TEST(Render, Series) {
  v1::GetSeriesResponse response;
  for (const char* name : {"test_accuracy", "train_loss"}) {
    v1::Series& series = *response.add_series();
    series.set_job("alone.bits=4");
    series.set_name(name);
    series.set_point_count(1955);
    for (int i = 1; i <= 8; ++i) {
      v1::Bucket& bucket = *series.add_buckets();
      bucket.set_step(i * 245);
      bucket.set_last(2.0 / i);
      bucket.set_min(1.9 / i);
      bucket.set_max(2.25 / i);
      bucket.set_count(245);
    }
  }
  v1::Series& empty = *response.add_series();
  empty.set_job("alone.bits=2");
  empty.set_name("train_loss");
  EXPECT_TRUE(
      matches_golden("series.ansi", render_series(response, OutputMode::kText, kFullStyle)));
  EXPECT_TRUE(
      matches_golden("series.txt", render_series(response, OutputMode::kText, kPlainStyle)));
  EXPECT_TRUE(matches_golden("series.tsv", render_series(response, OutputMode::kTsv, kPlainStyle)));
  EXPECT_TRUE(
      matches_golden("series.json", render_series(response, OutputMode::kJson, kPlainStyle)));
  EXPECT_EQ(render_series({}, OutputMode::kText, kPlainStyle), "no series yet\n");
}

Plan sample_plan() {
  Plan plan;
  plan.experiment = "bit-ladder";
  plan.edges = 1;
  plan.critical_path = {"alone.bits=32", "assisted.bits=4"};
  PlanJob& teacher = plan.jobs.emplace_back();
  teacher.name = "alone.bits=32";
  teacher.aliases = {"assisted.bits=32"};
  teacher.model = "resnet8";
  teacher.dataset = "cifar10";
  teacher.method = "dorefa";
  teacher.seed = 20;
  teacher.epochs = 5;
  teacher.flops = 1.25e13;
  teacher.cached = true;
  teacher.cached_from = "first-try/alone.bits=32";
  PlanJob& student = plan.jobs.emplace_back(teacher);
  student.name = "assisted.bits=4";
  student.aliases.clear();
  student.parents = {"alone.bits=32"};
  student.weight_bits = 4;
  student.activation_bits = 4;
  student.flops = 1.7e13;
  student.cached = false;
  student.cached_from.clear();
  student.reason = "nearest is first-try/assisted.bits=4: epochs is 10 there and 5 here";
  student.estimated_seconds = 131;
  return plan;
}

TEST(Render, Plan) {
  Plan plan = sample_plan();
  plan.cache_known = true;
  EXPECT_TRUE(matches_golden("plan.ansi", render_plan(plan, OutputMode::kText, kFullStyle)));
  EXPECT_TRUE(matches_golden("plan.txt", render_plan(plan, OutputMode::kText, kPlainStyle)));
  EXPECT_TRUE(matches_golden("plan.tsv", render_plan(plan, OutputMode::kTsv, kPlainStyle)));
  EXPECT_TRUE(matches_golden("plan.json", render_plan(plan, OutputMode::kJson, kPlainStyle)));
}

TEST(Render, PlanWithoutAServer_SaysThatTheCacheIsUnknown) {
  Plan plan = sample_plan();
  for (PlanJob& job : plan.jobs) {
    job.cached = false;
    job.cached_from.clear();
    job.reason.clear();
    job.estimated_seconds.reset();
  }
  EXPECT_TRUE(
      matches_golden("plan_no_server.txt", render_plan(plan, OutputMode::kText, kPlainStyle)));
}

TEST(Render, DownloadLine_FitsTheTerminal) {
  const Download download{.name = "cifar10",
                          .done_bytes = 76'000'000,
                          .total_bytes = 170'052'171,
                          .bytes_per_second = 3.4e6};
  Terminal terminal{.interactive = true, .width = 90, .height = 24, .style = kFullStyle};
  EXPECT_EQ(download_line(download, terminal),
            "cifar10  ▕██████████░░░░░░░░░░░░▏  45 %  72 MiB of 162 MiB  3.2 MiB/s  28s left");
  terminal.style = kPlainStyle;
  terminal.width = 50;
  EXPECT_EQ(download_line(download, terminal), "cifar10  72 MiB of 162 MiB  3.2 MiB/s  28s left");
  terminal.width = 20;
  EXPECT_EQ(download_line(download, terminal), "cifar10  72 MiB of ~");
  EXPECT_EQ(download_line({.name = "x", .done_bytes = 5, .total_bytes = {}}, terminal), "x  5 B");
}

}  // namespace
}  // namespace bitrung::cli
