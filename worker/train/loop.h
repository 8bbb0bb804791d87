// The training loop.
#pragma once

#include <memory>

#include "worker/train/job.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

// Trains, resumes, evaluates each epoch and keeps the best network. Throws Failure and LibTorch's
// exceptions.
Outcome run_training(const Job& job, const at::Device& device,
                     std::shared_ptr<const Dataset> dataset, Observer& observer);

}  // namespace bitrung::train
