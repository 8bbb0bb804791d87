// Operations on a CUDA device that are recorded once and launched again as one CUDA graph.
//
// A step of a small network is hundreds of kernels, each of which takes less time than its launch;
// a graph launches all of them at once. Needs a build with BITRUNG_CUDA; in any other
// is_available() is false.
#pragma once

#include <functional>
#include <memory>

#include "worker/train/torch_compat.h"

namespace bitrung::train {

class StepGraph {
 public:
  static bool is_available(const at::Device& device);

  // is_available(device) must be true. While this lives, the operations of its thread go to a
  // stream of their own, as recording wants it.
  explicit StepGraph(const at::Device& device);
  ~StepGraph();
  StepGraph(const StepGraph&) = delete;
  StepGraph& operator=(const StepGraph&) = delete;

  // Records what `work` launches, in place of what was recorded before; computes nothing. The
  // tensors that work makes keep their places in memory from launch to launch. Throws c10::Error
  // if something in it cannot be recorded, such as reading a value back; nothing is recorded then.
  void record(const std::function<void()>& work);
  bool is_recorded() const;
  void forget();
  // is_recorded() must be true.
  void launch();

 private:
  struct Recording;
  std::unique_ptr<Recording> recording_;
};

}  // namespace bitrung::train
