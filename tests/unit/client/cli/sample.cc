#include "tests/unit/client/cli/sample.h"

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

  v1::Job& cached = jobs.emplace_back(make_job(12, "alone.bits=4", 4, v1::JOB_STATE_SUCCEEDED));
  cached.set_cached(true);
  *cached.mutable_result() = result;
  cached.mutable_result()->set_test_accuracy(66.9);
  cached.mutable_result()->set_validation_accuracy(67.25);

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

v1::GetResultsResponse sample_results() {
  v1::GetResultsResponse results;
  *results.mutable_experiment() = sample_experiment();
  for (const v1::Job& job : sample_jobs()) *results.add_jobs() = job;
  results.add_entries("alone");
  results.add_entries("assisted");
  const auto add_row = [&](std::uint32_t weights, std::uint32_t activations) {
    v1::ResultsRow& row = *results.add_rows();
    row.set_model("resnet8");
    row.set_dataset("cifar10");
    row.set_method("dorefa");
    row.mutable_bits()->set_weights(weights);
    row.mutable_bits()->set_activations(activations);
    row.add_cells()->set_entry("alone");
    row.add_cells()->set_entry("assisted");
    return &row;
  };
  const auto fill = [](v1::ResultsCell& cell, double mean, double sd) {
    cell.set_job_count(2);
    cell.set_succeeded_count(2);
    cell.set_test_accuracy_mean(mean);
    cell.set_test_accuracy_sd(sd);
    cell.set_state("succeeded");
  };
  v1::ResultsRow* row = add_row(32, 32);
  fill(*row->mutable_cells(0), 70.875, 0.894);
  fill(*row->mutable_cells(1), 70.875, 0.894);
  row->mutable_cells(1)->set_difference(0);
  row = add_row(4, 4);
  fill(*row->mutable_cells(0), 66.9, 0.7);
  fill(*row->mutable_cells(1), 67.4125, 0.25);
  row->mutable_cells(1)->set_succeeded_count(1);
  row->mutable_cells(1)->clear_test_accuracy_sd();
  row->mutable_cells(1)->set_difference(0.5125);
  row->mutable_cells(1)->set_state("running");
  row = add_row(2, 32);
  row->mutable_cells(1)->set_job_count(2);
  row->mutable_cells(1)->set_state("blocked");
  row = add_row(1, 1);
  row->mutable_cells(0)->set_job_count(2);
  row->mutable_cells(0)->set_state("failed");
  return results;
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
