// The state of an unfinished training, written so that it continues bit for bit.
//
// Shuffling and augmentation are functions of (seed, epoch, position), so no generator is kept:
// tensors and a few counters are everything.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "worker/train/safetensors.h"
#include "worker/train/spec.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

// Of an epoch.
struct Score {
  double accuracy = 0.0;  // Percent.
  double loss = 0.0;      // Mean cross entropy.
};

struct Best {
  std::int64_t epoch = 0;  // From 1.
  std::optional<Score> validation;
  Score test;
};

// Where a training stands, and the sums of values that are not reported yet.
struct Counters {
  std::int64_t threads = 0;        // That it began with; 0 in a state of an older version.
  std::int64_t epoch = 0;          // Epochs done.
  std::int64_t step_in_epoch = 0;  // Steps done in the epoch that runs.
  std::int64_t correct = 0;        // Right training answers in the epoch that runs.
  std::int64_t seen = 0;           // Images behind `correct`.
  double window_loss = 0.0;        // Since the last point.
  double window_distillation = 0.0;
  std::int64_t window_steps = 0;
  double window_seconds = 0.0;
  std::int64_t trained_images = 0;
  double step_seconds = 0.0;      // Time in training steps.
  double duration_seconds = 0.0;  // Whole time.
  std::optional<Best> best;
};

struct TensorGroups {
  std::vector<NamedTensor> model;     // Parameters and buffers.
  std::vector<NamedTensor> momentum;  // Empty without momentum.
  std::vector<NamedTensor> extra;     // Learned, but no part of the network.
  std::vector<NamedTensor> best;      // Copy of `model` at the best epoch; empty when none is kept.
};

SafetensorsFile make_resume(const Counters& counters, const TensorGroups& tensors,
                            const Spec& spec);

// Overwrites the tensors of `tensors.model`, `.momentum` and `.extra`; fills `.best` if the file
// has it. Throws Failure(kUserError) if the file is damaged or no resume state of this very spec;
// of a damaged one no tensor is used, of another spec's some may be overwritten.
Counters restore(const SafetensorsFile& file, const Spec& spec, TensorGroups& tensors);

}  // namespace bitrung::train
