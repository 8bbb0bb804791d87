// For builds without CUDA.
#include "db/base/check.h"
#include "worker/train/cuda/step_graph.h"

namespace bitrung::train {

struct StepGraph::Recording {};

bool StepGraph::is_available(const at::Device&) {
  return false;
}

StepGraph::StepGraph(const at::Device& device) {
  BITRUNG_CHECK(is_available(device));
}
StepGraph::~StepGraph() = default;

void StepGraph::record(const std::function<void()>&) {}
bool StepGraph::is_recorded() const {
  return false;
}
void StepGraph::forget() {}
void StepGraph::launch() {}

}  // namespace bitrung::train
