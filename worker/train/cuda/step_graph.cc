#include "worker/train/cuda/step_graph.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <optional>

#include "db/base/check.h"

namespace bitrung::train {

// The stream outlives the graph: members are destroyed in reverse.
struct StepGraph::Recording {
  explicit Recording(const at::Device& device)
      : stream(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())) {
    // What was launched so far is done before anything on this stream.
    c10::cuda::getCurrentCUDAStream(device.index()).synchronize();
    guard.emplace(stream);
  }
  ~Recording() { stream.synchronize(); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  c10::cuda::CUDAStream stream;
  std::optional<c10::cuda::CUDAStreamGuard> guard;
  std::unique_ptr<at::cuda::CUDAGraph> graph;
};

bool StepGraph::is_available(const at::Device& device) {
  return device.is_cuda();
}

StepGraph::StepGraph(const at::Device& device) : recording_(std::make_unique<Recording>(device)) {}
StepGraph::~StepGraph() = default;

void StepGraph::record(const std::function<void()>& work) {
  forget();
  auto graph = std::make_unique<at::cuda::CUDAGraph>();
  graph->capture_begin();
  try {
    work();
  } catch (...) {
    // The stream has to leave the recording, whatever that says of it.
    try {
      graph->capture_end();
    } catch (const c10::Error&) {
    }
    throw;
  }
  graph->capture_end();
  recording_->graph = std::move(graph);
}

bool StepGraph::is_recorded() const {
  return recording_->graph != nullptr;
}

void StepGraph::forget() {
  if (!is_recorded()) {
    return;
  }
  recording_->stream.synchronize();  // It may still run.
  recording_->graph.reset();
}

void StepGraph::launch() {
  BITRUNG_CHECK(is_recorded());
  recording_->graph->replay();
}

}  // namespace bitrung::train
