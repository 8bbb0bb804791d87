#include "worker/train/sgd.h"

#include <utility>

namespace bitrung::train {

Sgd::Sgd(const OptimizerOptions& options, std::vector<LearnedTensor> parameters)
    : options_(options), parameters_(std::move(parameters)) {
  if (options_.momentum != 0.0) {
    for (const LearnedTensor& parameter : parameters_) {
      momentum_.push_back({parameter.name, at::zeros_like(parameter.tensor.detach())});
    }
  }
}

void Sgd::step(double rate) {
  step_by([rate](at::Tensor& w, const at::Tensor& g, double factor) { w.sub_(g, rate * factor); });
}

void Sgd::step(const at::Tensor& rate) {
  step_by(
      [&rate](at::Tensor& w, const at::Tensor& g, double factor) { w.sub_(g * (rate * factor)); });
}

template <typename Move>
void Sgd::step_by(const Move& move) {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& w = parameters_[i].tensor;
    at::Tensor& gradient = w.mutable_grad();
    if (!gradient.defined()) {
      continue;
    }
    at::Tensor g = gradient;
    gradient = at::Tensor();  // The next backward pass then stores its gradient without adding.
    if (const double decay = parameters_[i].weight_decay.value_or(options_.weight_decay);
        decay != 0.0) {
      g = g.add(w, decay);
    }
    if (options_.momentum != 0.0) {
      at::Tensor& m = momentum_[i].tensor;
      m.mul_(options_.momentum).add_(g);
      g = options_.nesterov ? g.add(m, options_.momentum) : m;
    }
    move(w, g, parameters_[i].rate_factor);
  }
}

}  // namespace bitrung::train
