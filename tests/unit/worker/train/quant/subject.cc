#include "tests/unit/worker/train/quant/subject.h"

#include <stdexcept>

namespace bitrung::train {

std::string name_of(const SubjectOptions& options) {
  return options.method + (options.part == Part::kWeights ? " weights at " : " activations at ") +
         std::to_string(options.bits) + " bits (" + at::toString(options.type) + ", " +
         options.options.range + ", " + options.options.granularity + ", " + options.options.scale +
         ")";
}

Subject::Subject(const SubjectOptions& options) : options_(options) {
  QuantizerSite site;
  site.layer = "layer1.0.conv1";
  site.bits = options.bits;
  site.channels = options.channels;
  site.options = options.options;
  site.tensors = at::TensorOptions().dtype(options.type);
  if (options.part == Part::kWeights) {
    weights_ = make_weight_quantizer(options.method, site);
  } else {
    activations_ = make_activation_quantizer(options.method, site);
  }
}

at::Tensor Subject::quantize(const at::Tensor& x, const Pass& pass) {
  return weights_ ? weights_->quantize(x, pass) : activations_->quantize(x, pass);
}

std::optional<Grid> Subject::grid(const at::Tensor& x) {
  return weights_ ? weights_->grid(x) : activations_->grid();
}

QuantizerState& Subject::state() {
  return weights_ ? static_cast<QuantizerState&>(*weights_) : *activations_;
}

bool Subject::has_learned(const std::string& name) {
  for (const LearnedTensor& learned : state().parameters()) {
    if (learned.name == name) {
      return true;
    }
  }
  return false;
}

at::Tensor Subject::learned(const std::string& name) {
  for (const LearnedTensor& learned : state().parameters()) {
    if (learned.name == name) {
      return learned.tensor;
    }
  }
  throw std::out_of_range(name_of(options_) + " learns no " + name);
}

Numbers numbers_of(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

at::Tensor tensor_of(const Numbers& numbers, at::IntArrayRef shape, at::ScalarType type) {
  return at::tensor(numbers, at::kDouble).reshape(shape).to(type);
}

Outcome run(Subject& subject, const at::Tensor& x, const at::Tensor& g, const Pass& pass) {
  const std::vector<LearnedTensor> parameters = subject.state().parameters();
  for (const LearnedTensor& learned : parameters) {
    at::Tensor(learned.tensor).mutable_grad() = at::Tensor();
  }
  const at::Tensor input = x.detach().clone().set_requires_grad(true);
  const at::Tensor y = subject.quantize(input, pass);
  (y * g).sum().backward();
  Outcome outcome;
  outcome.y = numbers_of(y);
  outcome.dx = numbers_of(input.grad());
  for (const LearnedTensor& learned : parameters) {
    outcome.learned[learned.name] = learned.tensor.grad().defined()
                                        ? numbers_of(learned.tensor.grad())
                                        : Numbers(static_cast<std::size_t>(learned.tensor.numel()));
  }
  return outcome;
}

bool is_allowed(const MethodInfo& method, Part part, int bits, const MethodOptions& options) {
  return !refusal(method, part, bits, options).has_value();
}

}  // namespace bitrung::train
