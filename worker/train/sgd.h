// Stochastic gradient descent with momentum, as torch.optim.SGD does it (dampening 0).
#pragma once

#include <vector>

#include "worker/train/quant/quantizer.h"
#include "worker/train/spec.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

// g = gradient + weight_decay * w;  m = momentum * m + g;  w -= rate * (nesterov ? g + momentum * m
// : m). Weight decay acts on every parameter, unless one has its own; a rate factor of a parameter
// multiplies the rate. m begins at zero, which equals PyTorch's first step. Belongs to the thread
// that trains.
class Sgd {
 public:
  Sgd(const OptimizerOptions& options, std::vector<LearnedTensor> parameters);

  // Applies and then drops the gradients. A parameter without a gradient is left alone.
  void step(double rate);
  // The same with a rate that the device knows, (): a recorded step reads it anew each time.
  void step(const at::Tensor& rate);

  // One buffer for each parameter, under the parameter's name; empty without momentum.
  const std::vector<NamedTensor>& momentum() const { return momentum_; }

 private:
  // move(w, g, factor) subtracts `factor` times the rate times g from w.
  template <typename Move>
  void step_by(const Move& move);

  OptimizerOptions options_;
  std::vector<LearnedTensor> parameters_;
  std::vector<NamedTensor> momentum_;
};

}  // namespace bitrung::train
