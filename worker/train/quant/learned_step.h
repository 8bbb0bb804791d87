// The step size that LSQ and LSQ+ learn, and the weights of both.
#pragma once

#include "worker/train/quant/state.h"
#include "worker/train/quant/uniform.h"

namespace bitrung::train {

// A learned step: () or, for weights by channel, (C). It is taken to be at least 1e-8, so that it
// never turns negative; from there its gradient leads it back.
class LearnedStep {
 public:
  LearnedStep(const QuantizerSite& site, std::int64_t channels);

  bool is_ready() const { return ready_.value() > 0; }
  // first: () or (C); what is not above the smallest step becomes 1.
  void begin(const at::Tensor& first);
  const at::Tensor& learned() const { return step_; }
  at::Tensor current() const;  // () or (C), double, without gradient.

  std::vector<LearnedTensor> parameters() const { return {{"step", step_, 1.0, std::nullopt}}; }
  std::vector<NamedTensor> buffers() const { return {{"ready", ready_.tensor()}}; }

 private:
  at::Tensor step_;
  Counter ready_;
};

// first as begin() would take it.
at::Tensor usable_step(const at::Tensor& first);

// Levels 0 to 2^bits - 1 times the step above the offset, the gradient of lsq.h for the step;
// features: N.
UniformRule learned_step_rule(const LearnedStep& step, int bits, double features);

// Weights on a learned step. `first` gives the step's first value, () or (C), in double, from the
// weights w: first(w, bits, by_channel).
using FirstStep = at::Tensor (*)(const at::Tensor& w, int bits, bool by_channel);
std::unique_ptr<WeightQuantizer> make_learned_step_weights(const QuantizerSite& site,
                                                           FirstStep first);

}  // namespace bitrung::train
