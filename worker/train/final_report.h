// What is measured of a finished network: PROTOCOL.md, "Report".
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "worker/train/data/dataset.h"
#include "worker/train/data/host_batch.h"
#include "worker/train/job.h"
#include "worker/train/nn/network.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

struct FinalReport {
  std::string json;
  double test_accuracy = 0.0;  // Percent.
  double test_loss = 0.0;      // Mean cross entropy.
  std::optional<double> validation_accuracy;
  std::int64_t images = 0;  // That were evaluated.
};

// Evaluates the network on the test and validation images and looks into its layers, whose
// activations are those of the first training images. Nothing if a cancel was asked for; other
// requests wait, since little is left to do. `batch` has room for kEvaluationBatch;
// `backend_reason` says why the network does not go through the fused loops, if that was to be
// seen.
std::optional<FinalReport> final_report(Network& network, const std::string& backend_reason,
                                        const Dataset& dataset, const Split& split,
                                        const at::Device& device, HostBatch& batch,
                                        const std::function<StopRequest()>& stop_requested);

}  // namespace bitrung::train
