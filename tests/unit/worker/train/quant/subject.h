// One quantizer of any method, run on plain numbers: what the tests of the methods share.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

using Numbers = std::vector<double>;

inline constexpr int kAllBits[] = {1, 2, 3, 4, 5, 6, 7, 8, 16, 32};

struct SubjectOptions {
  std::string method;
  Part part = Part::kWeights;
  int bits = 4;
  MethodOptions options = {};
  at::ScalarType type = at::kDouble;
  std::int64_t channels = 4;
};

// "lsq weights at 4 bits (Float)", for messages.
std::string name_of(const SubjectOptions& options);

class Subject {
 public:
  explicit Subject(const SubjectOptions& options);

  at::Tensor quantize(const at::Tensor& x, const Pass& pass);
  // Of what quantize() gives for x outside training.
  std::optional<Grid> grid(const at::Tensor& x);
  QuantizerState& state();
  bool takes_relu() const { return !activations_ || activations_->takes_relu(); }
  at::ScalarType type() const { return options_.type; }
  bool has_learned(const std::string& name);
  at::Tensor learned(const std::string& name);

 private:
  SubjectOptions options_;
  std::unique_ptr<WeightQuantizer> weights_;
  std::unique_ptr<ActivationQuantizer> activations_;
};

inline constexpr Pass kTrainingPass{true, 0.5, 7, 3};

Numbers numbers_of(const at::Tensor& tensor);
at::Tensor tensor_of(const Numbers& numbers, at::IntArrayRef shape, at::ScalarType type);

struct Outcome {
  Numbers y;
  Numbers dx;
  std::map<std::string, Numbers> learned;  // Gradients.
};

// Forwards and, with g from above, backwards.
Outcome run(Subject& subject, const at::Tensor& x, const at::Tensor& g, const Pass& pass);

// Whether the network would ever ask for it: the makers refuse the rest.
bool is_allowed(const MethodInfo& method, Part part, int bits, const MethodOptions& options);

}  // namespace bitrung::train
