// The training loop.
#pragma once

#include <filesystem>
#include <memory>

#include "worker/train/job.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

// Trains, resumes, evaluates each epoch and keeps the best network. cache_dir: for files that
// trainings of the host share; empty for none. Throws Failure and LibTorch's exceptions.
Outcome run_training(const Job& job, const at::Device& device,
                     std::shared_ptr<const Dataset> dataset, const std::filesystem::path& cache_dir,
                     Observer& observer);

}  // namespace bitrung::train
