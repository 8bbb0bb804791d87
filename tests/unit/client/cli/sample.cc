#include "tests/unit/client/cli/sample.h"

#include <tuple>

namespace bitrung::cli {

v1::Job make_job(std::int64_t id, const std::string& name, std::uint32_t bits, v1::JobState state) {
  v1::Job job;
  job.set_job_id(id);
  job.set_experiment_id(3);
  job.set_name(name);
  job.set_state(state);
  job.set_model("resnet8");
  job.set_dataset("cifar10");
  job.set_method("dorefa");
  job.mutable_bits()->set_weights(bits);
  job.mutable_bits()->set_activations(bits);
  job.set_seed(20);
  job.set_epochs(5);
  return job;
}

std::vector<v1::Job> sample_jobs() {
  std::vector<v1::Job> jobs;
  v1::Job& teacher = jobs.emplace_back(make_job(11, "alone.bits=32", 32, v1::JOB_STATE_SUCCEEDED));
  teacher.add_aliases("assisted.bits=32");
  teacher.set_attempts(1);
  teacher.set_worker("a7");
  teacher.set_started_at_ms(kNowMs - 400'000);
  teacher.set_finished_at_ms(kNowMs - 300'000);
  v1::JobResult& result = *teacher.mutable_result();
  result.set_test_accuracy(70.875);
  result.set_test_loss(0.834);
  result.set_best_epoch(5);
  result.set_duration_seconds(98.5);
  result.set_images_per_second(2538.07);
  result.set_artifact_sha256(std::string(64, 'a'));
  teacher.set_backend("fused avx512-vnni");

  v1::Job& cached = jobs.emplace_back(make_job(12, "alone.bits=4", 4, v1::JOB_STATE_SUCCEEDED));
  cached.set_cached(true);
  *cached.mutable_result() = result;
  cached.mutable_result()->set_test_accuracy(66.9);
  cached.mutable_result()->set_validation_accuracy(67.25);
  cached.set_backend("eager");
  cached.set_backend_reason("activations are quantized by apot");

  v1::Job& running = jobs.emplace_back(make_job(13, "assisted.bits=4", 4, v1::JOB_STATE_RUNNING));
  running.set_attempts(2);
  running.set_worker("a7");
  running.set_teacher("alone.bits=32");
  running.add_parents("alone.bits=32");
  running.set_error("attempt 1: the trainer died with signal 9");
  running.set_failure_class(v1::FAILURE_CLASS_TRAINER_CRASHED);
  running.set_started_at_ms(kNowMs - 60'000);
  v1::Progress& progress = *running.mutable_progress();
  progress.set_epoch(3);
  progress.set_epochs(5);
  progress.set_step(977);
  progress.set_steps(1955);
  progress.set_images_per_second(1234.4);
  progress.set_accuracy(61.2);
  progress.set_eta_seconds(83);

  v1::Job& failed = jobs.emplace_back(make_job(14, "alone.bits=1", 1, v1::JOB_STATE_FAILED));
  failed.set_attempts(1);
  failed.set_worker("b1");
  failed.set_error("loss became nan at step 12; lower learning_rate (0.1)");
  failed.set_failure_class(v1::FAILURE_CLASS_DIVERGED);

  v1::Job& blocked = jobs.emplace_back(make_job(15, "assisted.bits=2", 2, v1::JOB_STATE_BLOCKED));
  blocked.mutable_bits()->set_activations(32);
  blocked.set_teacher("assisted.bits=4");
  blocked.add_parents("assisted.bits=4");
  return jobs;
}

v1::Experiment sample_experiment(v1::ExperimentState state) {
  v1::Experiment experiment;
  experiment.set_experiment_id(3);
  experiment.set_name("bit-ladder");
  experiment.set_state(state);
  experiment.set_submitted_at_ms(kNowMs - 405'000);
  experiment.set_job_count(5);
  experiment.set_cached_count(1);
  (*experiment.mutable_jobs_by_state())["succeeded"] = 2;
  (*experiment.mutable_jobs_by_state())["running"] = 1;
  (*experiment.mutable_jobs_by_state())["failed"] = 1;
  (*experiment.mutable_jobs_by_state())["blocked"] = 1;
  return experiment;
}

namespace {

v1::ResultsRow& add_row(v1::GetResultsResponse& results, std::uint32_t weights,
                        std::uint32_t activations) {
  v1::ResultsRow& row = *results.add_rows();
  row.set_model("resnet8");
  row.set_dataset("cifar10");
  row.set_method("dorefa");
  row.mutable_bits()->set_weights(weights);
  row.mutable_bits()->set_activations(activations);
  for (const std::string& entry : results.entries()) row.add_cells()->set_entry(entry);
  return row;
}

void fill(v1::Summary& summary, std::uint32_t count, double mean, double sd, double half) {
  summary.set_count(count);
  summary.set_mean(mean);
  if (count < 2) return;
  summary.set_sd(sd);
  summary.set_low(mean - half);
  summary.set_high(mean + half);
}

void fill(v1::ResultsCell& cell, const std::string& name, double mean, double sd, double half) {
  cell.set_job_count(2);
  cell.set_succeeded_count(2);
  cell.set_state("succeeded");
  fill(*cell.mutable_summary(), 2, mean, sd, half);
  for (const std::uint64_t seed : {20, 31}) {
    v1::SeedValue& value = *cell.add_values();
    value.set_job(name + ".seed=" + std::to_string(seed));
    value.set_seed(seed);
    value.set_value(seed == 20 ? mean - 0.5 : mean + 0.5);
    value.set_state(v1::JOB_STATE_SUCCEEDED);
  }
}

}  // namespace

v1::GetResultsResponse sample_results() {
  v1::GetResultsResponse results;
  *results.mutable_experiment() = sample_experiment();
  for (const v1::Job& job : sample_jobs()) *results.add_jobs() = job;
  results.set_metric("top1");
  results.add_entries("alone");
  results.add_entries("assisted");
  v1::ResultsRow* row = &add_row(results, 32, 32);
  fill(*row->mutable_cells(0), "alone.bits=32", 70.875, 0.894, 8.03);
  fill(*row->mutable_cells(1), "alone.bits=32", 70.875, 0.894, 8.03);
  v1::PairedTest* test = row->mutable_cells(1)->mutable_against_first();
  fill(*test->mutable_difference(), 2, 0, 0, 0);
  test->set_no_test("the pairs are equal");
  row = &add_row(results, 8, 8);
  fill(*row->mutable_cells(0), "alone.bits=8", 68.25, 0.5, 4.49);
  fill(*row->mutable_cells(1), "assisted.bits=8", 69.5, 0.25, 2.25);
  test = row->mutable_cells(1)->mutable_against_first();
  fill(*test->mutable_difference(), 2, 1.25, 0.0625, 0.56);
  test->set_t(28.28);
  test->set_p_value(0.0225);
  for (const std::uint64_t seed : {20, 31}) {
    v1::Pair& pair = *test->add_pairs();
    pair.set_seed(seed);
    pair.set_difference(1.25);
  }
  row = &add_row(results, 4, 4);
  fill(*row->mutable_cells(0), "alone.bits=4", 66.9, 0.7, 6.29);
  v1::ResultsCell& half = *row->mutable_cells(1);
  fill(half, "assisted.bits=4", 67.4125, 0, 0);
  half.set_succeeded_count(1);
  half.set_state("running");
  half.clear_summary();
  fill(*half.mutable_summary(), 1, 67.4125, 0, 0);
  half.mutable_values(1)->clear_value();
  half.mutable_values(1)->set_state(v1::JOB_STATE_RUNNING);
  fill(*half.mutable_against_first()->mutable_difference(), 1, 0.5125, 0, 0);
  half.mutable_against_first()->set_no_test("fewer than 2 pairs");
  row = &add_row(results, 2, 32);
  row->mutable_cells(1)->set_job_count(2);
  row->mutable_cells(1)->set_state("blocked");
  row = &add_row(results, 1, 1);
  row->mutable_cells(0)->set_job_count(2);
  row->mutable_cells(0)->set_state("failed");
  return results;
}

v1::GetResultsResponse sample_single_seed() {
  v1::GetResultsResponse results = sample_results();
  results.clear_rows();
  for (const auto& [bits, alone, assisted] :
       {std::tuple(32U, 70.88, 70.88), std::tuple(4U, 66.9, 67.41)}) {
    v1::ResultsRow& row = add_row(results, bits, bits);
    for (v1::ResultsCell& cell : *row.mutable_cells()) {
      cell.set_job_count(1);
      cell.set_succeeded_count(1);
      cell.set_state("succeeded");
    }
    fill(*row.mutable_cells(0)->mutable_summary(), 1, alone, 0, 0);
    fill(*row.mutable_cells(1)->mutable_summary(), 1, assisted, 0, 0);
    v1::PairedTest& test = *row.mutable_cells(1)->mutable_against_first();
    fill(*test.mutable_difference(), 1, assisted - alone, 0, 0);
    test.set_no_test(assisted == alone ? "the pairs are equal" : "fewer than 2 pairs");
  }
  return results;
}

v1::GetResultsResponse sample_methods() {
  // One entry per method: never beside each other.
  v1::GetResultsResponse results;
  *results.mutable_experiment() = sample_experiment(v1::EXPERIMENT_STATE_SUCCEEDED);
  results.set_metric("top1");
  results.add_options("distill.temperature");
  for (const char* method : {"dorefa", "lsq", "pact"}) results.add_entries(method);
  int entry = 0;
  for (const char* method : {"dorefa", "lsq", "pact"}) {
    for (const std::uint32_t bits : {4U, 2U}) {
      v1::ResultsRow& row = add_row(results, bits, bits);
      row.set_method(method);
      v1::OptionValue& option = *row.add_options();
      option.set_name("distill.temperature");
      if (bits == 2) option.set_value("5");
      fill(*row.mutable_cells(entry), method, 60.25 + entry + bits, 0.5, 4.49);
    }
    ++entry;
  }
  return results;
}

v1::GetResultsResponse sample_paths() {
  v1::GetResultsResponse results = sample_single_seed();
  v1::PathTable& table = *results.add_path_tables();
  table.set_entry("search");
  table.set_chosen_by("validation_accuracy");
  v1::BestPath* path = table.add_paths();
  path->mutable_bits()->set_weights(16);
  path->mutable_bits()->set_activations(16);
  path->set_path("32-16");
  path->set_candidate_count(1);
  path->set_succeeded_count(1);
  path->set_chain("assisted");
  fill(*path->mutable_test_accuracy(), 3, 70.5, 0.3, 0.75);
  fill(*path->mutable_chain_test_accuracy(), 3, 70.5, 0.3, 0.75);
  fill(*path->mutable_regret()->mutable_difference(), 3, 0, 0, 0);
  path->mutable_regret()->set_no_test("the pairs are equal");
  path = table.add_paths();
  path->mutable_bits()->set_weights(4);
  path->mutable_bits()->set_activations(4);
  path->set_path("32-4,32-16-4");
  path->set_candidate_count(2);
  path->set_succeeded_count(1);
  path->set_chain("assisted");
  fill(*path->mutable_test_accuracy(), 3, 67.875, 0.4, 0.99);
  fill(*path->mutable_chain_test_accuracy(), 3, 67.25, 0.5, 1.24);
  fill(*path->mutable_regret()->mutable_difference(), 3, 0.625, 0.25, 0.62);
  path->mutable_regret()->set_t(4.33);
  path->mutable_regret()->set_p_value(0.0494);
  path = table.add_paths();
  path->mutable_bits()->set_weights(1);
  path->mutable_bits()->set_activations(1);
  path->set_candidate_count(3);
  return results;
}

v1::GetReportResponse sample_report() {
  v1::GetReportResponse response;
  *response.mutable_job() = make_job(16, "assisted.bits=2.seed=20", 2, v1::JOB_STATE_SUCCEEDED);
  response.set_report_json(R"({
    "backend": "eager", "backend_reason": "activations are quantized by apot", "threads": 2,
    "evaluation": {"images": 10000, "top1": 62.41, "top5": 96.1, "nll": 1.06552, "brier": 0.5021,
                   "ece": 0.02714, "per_class": [90.5, 40, 75.25],
                   "confusion": [[905, 0, 95], [400, 400, 200], [40, 208, 752]]},
    "validation": null,
    "network": {"parameters": 77754, "macs": 12582912, "bit_operations": 453000000.0,
                "bytes_float": 311016, "bytes_packed": 23456, "compression": 13.259},
    "layers": [
      {"name": "conv1", "kind": "convolution", "role": "first", "shape": [16, 3, 3, 3],
       "macs": 442368,
       "weights": {"bits": 32, "method": "dorefa", "levels": null, "min": -0.71, "max": 0.69,
                   "scale": null, "scale_min": null, "scale_max": null, "zero_point": null,
                   "sqnr_db": null, "saturated": 0, "entropy": null,
                   "histogram": {"from": -0.71, "to": 0.69,
                                 "counts": [1, 2, 4, 9, 20, 41, 60, 75, 76, 62, 40, 22, 11, 5, 3, 1]}},
       "activations": null},
      {"name": "layer1.0.conv1", "kind": "convolution", "role": "inner", "shape": [16, 16, 3, 3],
       "macs": 2359296,
       "weights": {"bits": 2, "method": "dorefa", "levels": 4, "min": -1, "max": 1,
                   "scale": 0.666667, "scale_min": null, "scale_max": null, "zero_point": null,
                   "sqnr_db": 7.213, "saturated": 0.0153, "entropy": 1.8412,
                   "histogram": {"from": -1.4, "to": 1.4,
                                 "counts": [0, 3, 8, 20, 60, 150, 300, 420, 410, 310, 140, 62, 19, 7, 2, 0]}},
       "activations": {"bits": 2, "method": "pact", "levels": 5, "min": 0, "max": 1.93,
                       "scale": 0.6433, "scale_min": null, "scale_max": null, "zero_point": 0,
                       "sqnr_db": 9.5, "saturated": 0.0871, "entropy": 1.62,
                       "histogram": {"from": 0, "to": 4, "counts": [900, 300, 120, 60, 30, 12, 5, 1]}}},
      {"name": "layer1.0.conv2", "kind": "convolution", "role": "inner", "shape": [16, 16, 3, 3],
       "macs": 2359296,
       "weights": {"bits": 2, "method": "linear", "levels": 4, "min": -0.9, "max": 0.9,
                   "scale": null, "scale_min": 0.11, "scale_max": 0.345, "zero_point": null,
                   "sqnr_db": 8.01, "saturated": 0, "entropy": 1.9,
                   "histogram": {"from": -1, "to": 1, "counts": [5, 10, 5]}},
       "activations": {"bits": 2, "method": "pact", "levels": 4, "min": 0, "max": 1.5, "scale": 0.5,
                       "scale_min": null, "scale_max": null, "zero_point": 0, "sqnr_db": 10.25,
                       "saturated": 0.05, "entropy": 1.7,
                       "histogram": {"from": 0, "to": 2, "counts": []}}}
    ]})");
  return response;
}

v1::CompareResponse sample_comparison() {
  v1::CompareResponse comparison;
  comparison.mutable_a()->set_label("3/alone.bits=4");
  comparison.mutable_b()->set_label("3/assisted.bits=4");
  for (const char* seed : {"20", "31", "55"}) {
    comparison.mutable_a()->add_jobs(std::string("alone.bits=4.seed=") + seed);
    comparison.mutable_b()->add_jobs(std::string("assisted.bits=4.seed=") + seed);
  }
  const auto add_option = [&](const char* name, std::vector<const char*> a,
                              std::vector<const char*> b) {
    v1::OptionDifference& option = *comparison.add_options();
    option.set_name(name);
    for (const char* value : a) option.add_a(value);
    for (const char* value : b) option.add_b(value);
  };
  add_option("bits.first", {"32"}, {"8"});
  add_option("distill.temperature", {}, {"5"});
  add_option("optimizer.learning_rate", {"0.01", "0.1"}, {"0.1"});
  v1::ComparedGroup& group = *comparison.add_groups();
  const auto add_number = [&](const char* name, double a, double b, double sd, double p) {
    v1::NumberDifference& number = *group.add_numbers();
    number.set_name(name);
    fill(*number.mutable_a(), 3, a, sd, 3 * sd);
    fill(*number.mutable_b(), 3, b, sd, 3 * sd);
    v1::PairedTest& test = *number.mutable_difference();
    fill(*test.mutable_difference(), 3, b - a, sd / 2, sd);
    if (a == b) {
      test.set_no_test("the pairs are equal");
      return;
    }
    test.set_t(2.5);
    test.set_p_value(p);
  };
  add_number("test_accuracy", 66.9, 67.875, 0.5, 0.0121);
  add_number("nll", 1.0125, 0.9525, 0.0125, 0.0004);
  add_number("ece", 0.03125, 0.0625, 0.004, 0.25);
  add_number("bytes_packed", 45678, 42000, 0, 0.0001);
  add_number("parameters", 77754, 77754, 0, 0);
  for (const auto& [index, a, b] :
       {std::tuple(0U, 90.0, 90.5), std::tuple(1U, 70.0, 70.0), std::tuple(2U, 60.0, 55.25)}) {
    v1::ClassDifference& one = *group.add_classes();
    one.set_class_index(index);
    one.set_a(a);
    one.set_b(b);
  }
  const auto add_layer = [&](const char* name, const char* part, std::uint32_t bits_a,
                             std::uint32_t bits_b, double sqnr_a, double sqnr_b) {
    v1::LayerDifference& layer = *group.add_layers();
    layer.set_layer(name);
    layer.set_part(part);
    layer.mutable_a()->set_bits(bits_a);
    layer.mutable_b()->set_bits(bits_b);
    if (sqnr_a > 0) layer.mutable_a()->set_sqnr_db(sqnr_a);
    layer.mutable_b()->set_sqnr_db(sqnr_b);
    layer.mutable_b()->set_levels(1U << bits_b);
  };
  add_layer("conv1", "weights", 32, 8, 0, 41.5);
  add_layer("layer1.0.conv1", "weights", 4, 4, 18.25, 19.5);
  add_layer("layer1.0.conv2", "weights", 4, 4, 18.25, 18.26);
  add_layer("layer1.0.conv1", "activations", 4, 4, 16.5, 15.25);
  return comparison;
}

v1::CompareResponse sample_comparison_of_entries() {
  v1::CompareResponse comparison = sample_comparison();
  comparison.mutable_a()->set_label("3/alone");
  comparison.mutable_b()->set_label("3/assisted");
  comparison.mutable_groups(0)->set_label("bits=4");
  v1::ComparedGroup& group = *comparison.add_groups();
  group = comparison.groups(0);
  group.set_label("bits=2");
  v1::PairedTest& test = *group.mutable_numbers(0)->mutable_difference();
  test.clear_p_value();
  test.set_no_test("fewer than 2 pairs");
  fill(*test.mutable_difference(), 1, 3.5, 0, 0);
  test.mutable_difference()->clear_sd();
  return comparison;
}

std::vector<v1::Worker> sample_workers() {
  std::vector<v1::Worker> workers(3);
  workers[0].set_worker_id("00000000000000000000000000000001");
  workers[0].set_name("a7");
  workers[0].set_connected(true);
  workers[0].set_version("0.1.0");
  workers[0].set_last_seen_ms(kNowMs - 400);
  for (std::uint32_t i = 0; i < 2; ++i) {
    v1::Slot& slot = *workers[0].add_slots();
    slot.set_slot(i);
    slot.set_device("cpu");
    slot.set_device_name("AMD EPYC");
    slot.set_memory_bytes(25'000'000'000);
    slot.set_threads(1);
  }
  workers[0].set_shared_cores(2);
  workers[0].set_free_cores(1);
  v1::Dataset& dataset = *workers[0].add_datasets();
  dataset.set_name("cifar10");
  dataset.set_sha256(std::string(64, 'd'));
  workers[0].add_jobs("bit-ladder/assisted.bits=4");
  workers[1].set_worker_id("00000000000000000000000000000002");
  workers[1].set_name("b1");
  workers[1].set_connected(true);
  workers[1].set_draining(true);
  workers[1].set_version("0.1.0");
  v1::Slot& gpu = *workers[1].add_slots();
  gpu.set_device("cuda:0");
  gpu.set_device_name("NVIDIA H200");
  gpu.set_memory_bytes(150'000'000'000);
  workers[2].set_worker_id("00000000000000000000000000000003");
  workers[2].set_name("c3");
  workers[2].set_last_seen_ms(kNowMs - 3'720'000);
  workers[2].set_version("0.0.9");
  return workers;
}

}  // namespace bitrung::cli
