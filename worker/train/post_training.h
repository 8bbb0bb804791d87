// Jobs without training: post-training quantization, and the evaluation of a checkpoint.
#pragma once

#include <memory>

#include "worker/train/job.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

// Quantizes the network of job.source to the spec's bits: weights by their range, activations by
// the range that the calibration batches (the first training images in the order of the seed,
// without augmentation) and the clipping rule give. With norm_batches the statistics of the
// normalisations are then estimated again by the quantized network. Throws Failure and LibTorch's
// exceptions.
Outcome run_quantization(const Job& job, const at::Device& device,
                         std::shared_ptr<const Dataset> dataset, Observer& observer);

// Measures the network of job.source, as it is, on the spec's data set. The checkpoint of the
// outcome is a copy of the source.
Outcome run_evaluation(const Job& job, const at::Device& device,
                       std::shared_ptr<const Dataset> dataset, Observer& observer);

}  // namespace bitrung::train
