// Quantizers: how real weights and activations become few-bit ones, and which gradient passes
// through.
//
// One file per method gives a MethodEntry to the table in registry.cc; nothing else knows the
// methods. A quantizer belongs to one place of one network and to the thread that trains it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/train/quant/unit_grid.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

// Learned tensors (for instance PACT's clip) and tracked ones (ranges) of a quantizer, by local
// name; both go into checkpoints under the name of the layer. A method without any overrides
// nothing.
class QuantizerState {
 public:
  virtual ~QuantizerState() = default;
  virtual std::vector<NamedTensor> parameters() const { return {}; }
  virtual std::vector<NamedTensor> buffers() const { return {}; }
};

class WeightQuantizer : public QuantizerState {
 public:
  // w: weights of one convolution, any shape. The result has its shape and is differentiable with
  // respect to w.
  virtual at::Tensor quantize(const at::Tensor& w) = 0;
};

class ActivationQuantizer : public QuantizerState {
 public:
  // x: output of a ReLU, any shape. The result has its shape and is differentiable with respect to
  // x.
  virtual at::Tensor quantize(const at::Tensor& x) = 0;
  // Set if quantize() is exactly this, so that a faster kernel may take its place.
  virtual std::optional<UnitGrid> unit_grid() const { return std::nullopt; }
};

// bits is 1 to 8, 16 or 32.
struct MethodEntry {
  std::string_view name;
  std::unique_ptr<WeightQuantizer> (*make_weights)(int bits);
  std::unique_ptr<ActivationQuantizer> (*make_activations)(int bits);
};

// Throws Failure(kUserError) that lists the known methods if there is none of this name.
const MethodEntry& quantization_method(std::string_view name);

}  // namespace bitrung::train
