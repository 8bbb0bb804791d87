// One job from spec to checkpoint: a training, a post-training quantization or an evaluation.
//
// No LibTorch type appears here, so that the program around it compiles without. run_job() works in
// the calling thread and speaks to its caller through an Observer only; stop requests are asked for
// after each step and between the batches of an evaluation. On one machine, build and number of
// threads equal jobs give bit-identical checkpoints, also when a training is resumed, from the end
// of an epoch or from its middle.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "worker/train/data/dataset.h"
#include "worker/train/spec.h"

namespace bitrung::train {

struct Job {
  Spec spec;
  std::filesystem::path work_dir;  // Exists; everything written goes here.
  std::filesystem::path data_dir;  // May be empty.
  std::vector<std::filesystem::path> teachers;
  std::optional<std::filesystem::path> init;
  std::optional<std::filesystem::path> source;  // What is quantized or evaluated.
  std::optional<std::filesystem::path> resume;
};

enum class StopRequest { kNone, kCancel, kPreempt };

// One value of one series; `step` is the number of optimizer steps done.
struct Point {
  std::string_view series;
  std::int64_t step;
  double value;
};

struct Progress {
  std::int64_t epoch;  // From 1.
  std::int64_t epochs;
  std::int64_t step;
  std::int64_t steps;
  double images_per_second;
  std::optional<double> accuracy;  // Percent, of the last evaluation.
  std::optional<double> eta_seconds;
};

// Of a quantization and an evaluation best_epoch is 0.
struct TrainingResult {
  double test_accuracy;  // Percent; of the best epoch.
  std::optional<double> validation_accuracy;
  double test_loss;
  std::int64_t
      best_epoch;  // From 1. Best by validation accuracy (of equals the later), else the last.
  double duration_seconds;   // Whole training, resumed attempts included.
  double images_per_second;  // Of the training steps, evaluations left out.
};

// Hears of a job. Called from the working thread only.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual StopRequest stop_requested() = 0;
  virtual void started(std::int64_t resumed_epoch, std::int64_t epochs, std::int64_t steps) = 0;
  virtual void points(std::span<const Point> points) = 0;
  virtual void progress(const Progress& progress) = 0;
  virtual void checkpoint(std::int64_t epochs_done, const std::filesystem::path& path) = 0;
  virtual void log(const std::string& text) = 0;
};

enum class Ending { kSucceeded, kCancelled, kPreempted };

struct Outcome {
  Ending ending = Ending::kCancelled;
  std::filesystem::path path;            // Checkpoint, or the resume state of a preempted training.
  std::int64_t epochs_done = 0;          // Of a preempted training.
  std::optional<TrainingResult> result;  // Set exactly for kSucceeded.
  std::string report;                    // JSON (PROTOCOL.md, "Report"); of kSucceeded only.
};

// device is "cpu" or "cuda:N". Throws Failure; LibTorch's exceptions are turned into it.
Outcome run_job(const Job& job, const std::string& device, DatasetCache& datasets,
                Observer& observer);

}  // namespace bitrung::train
