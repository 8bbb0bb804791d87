// Quantizers: how real weights and activations become few-bit ones, and which gradient passes
// through.
//
// One file per method gives a MethodEntry to the table in registry.cc; nothing else knows the
// methods. A quantizer belongs to one place of one network and to the thread that trains it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/train/quant/methods.h"
#include "worker/train/quant/unit_grid.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

// Where a forward pass stands in its training. Everything a quantizer may depend on besides its
// input and its state, so that a resumed training repeats it.
struct Pass {
  bool training = false;
  double progress = 0.0;   // Share of the training that is done, in [0, 1].
  std::uint64_t seed = 0;  // Of the training; for noise.
  std::int64_t step = 0;   // Optimizer steps done; for noise.
  // Normalisations take the batch's statistics and update the running ones though nothing is
  // trained: for estimating them again.
  bool estimates_norms = false;

  bool uses_batch_statistics() const { return training || estimates_norms; }
};

// A pass outside a training, with everything as it is at the training's end.
inline constexpr Pass kEvaluationPass{false, 1.0, 0, 0, false};

// The place a quantizer is made for.
struct QuantizerSite {
  std::string layer;          // "layer1.0.conv1": for messages, and for noise.
  int bits = 32;              // 1 to 8, 16 or 32.
  std::int64_t channels = 0;  // Of weights (C,...) the output channels; of activations (N,C,...) C.
  std::int64_t out_channels =
      0;  // Of activations: channels of what ActivationQuantizer::after_sum gets.
  MethodOptions options;
  at::TensorOptions tensors;  // Type and device of learned and tracked tensors.
};

// A learned tensor (for instance PACT's clip), to be trained with the weights.
struct LearnedTensor {
  std::string name;
  at::Tensor tensor;
  double rate_factor = 1.0;            // Times the learning rate of the weights.
  std::optional<double> weight_decay;  // Its own; otherwise the optimizer's.
};

struct UniformRule;

// Learned and tracked tensors (ranges, whether a first batch was seen) of a quantizer, by local
// name; both go into checkpoints under the name of the layer. A method without any overrides
// nothing.
class QuantizerState {
 public:
  virtual ~QuantizerState() = default;
  virtual std::vector<LearnedTensor> parameters() const { return {}; }
  virtual std::vector<NamedTensor> buffers() const { return {}; }
  // Whether what it computes depends on the progress, the seed or the step of a training pass.
  virtual bool follows_training() const { return false; }
};

// The values a quantized tensor may have, by integer code 0 … 2^bits - 1:
//   scale * (code - zero_point)     without a codebook,
//   scale * codebook[code]          with one.
struct Grid {
  at::Tensor scale;  // (), or one for each channel: (C,1,1,1) of weights, (1,C,1,1) of activations.
  at::Tensor zero_point;  // The same shape; need not be an integer. Undefined with a codebook.
  std::vector<double> codebook;  // Ascending.
};

class WeightQuantizer : public QuantizerState {
 public:
  // w: weights of one convolution or linear layer, (C,...). The result has its shape and is
  // differentiable with respect to w and to the learned tensors.
  virtual at::Tensor quantize(const at::Tensor& w, const Pass& pass) = 0;
  // The grid of what quantize() gives for w outside training; nothing at 32 bits.
  virtual std::optional<Grid> grid(const at::Tensor& w) = 0;
  // y: output of the convolution, (N,C,H,W). For methods that scale it.
  virtual at::Tensor scale_output(const at::Tensor& y) { return y; }
  // Whether scale_output() changes anything.
  virtual bool scales_output() const { return false; }
};

class ActivationQuantizer : public QuantizerState {
 public:
  // Whether a ReLU stands between the normalisation and quantize(); 32 bits always have one.
  virtual bool takes_relu() const { return true; }
  // x: (N,C,H,W) or (N,C). The result has its shape and is differentiable with respect to x and to
  // the learned tensors. A method that tracks ranges changes them with pass.training only, and
  // throws Failure(kUserError) that names the layer if none was ever tracked.
  virtual at::Tensor quantize(const at::Tensor& x, const Pass& pass) = 0;
  // The grid of what quantize() gives outside training; nothing at 32 bits.
  virtual std::optional<Grid> grid() = 0;
  // Fixes the range to [low, high] (post-training quantization). Throws Failure(kUserError) if the
  // method has no range.
  virtual void set_range(double low, double high);
  // Set if quantize() is exactly this, so that a faster kernel may take its place.
  virtual std::optional<UnitGrid> unit_grid() const { return std::nullopt; }
  // The same for quantize_uniform() (uniform.h): whether quantize() is that, for rectified inputs,
  // and the rule of the next call for samples of `features` values. There is none before a first
  // batch has set the range.
  virtual bool has_uniform_rule() const { return false; }
  virtual std::optional<UniformRule> uniform_rule(double features) const;
  // Whether the rule of a training pass follows from the least and the largest value of its input,
  // and what tells it these in place of quantize().
  virtual bool follows_range() const { return false; }
  virtual void observe(double low, double high);
  // y: sum of the layer's output and its shortcut, (N,out_channels,H,W). For methods with an
  // activation function of their own there.
  virtual at::Tensor after_sum(const at::Tensor& y) { return y; }
};

// One method, below 32 bits; a maker is null where MethodInfo says that the method lacks that part.
struct MethodEntry {
  std::string_view name;  // As in methods().
  std::unique_ptr<WeightQuantizer> (*make_weights)(const QuantizerSite& site);
  std::unique_ptr<ActivationQuantizer> (*make_activations)(const QuantizerSite& site);
};

// Throws Failure(kUserError) that lists the known ones if there is none of this name.
const MethodInfo& known_method(std::string_view name);

// Throws Failure(kUserError) for an unknown name and for what refusal() refuses.
void check_method(std::string_view method, Part part, const QuantizerSite& site);

// After check_method(). At 32 bits every method is the identity, without tensors of its own.
std::unique_ptr<WeightQuantizer> make_weight_quantizer(std::string_view method,
                                                       const QuantizerSite& site);
std::unique_ptr<ActivationQuantizer> make_activation_quantizer(std::string_view method,
                                                               const QuantizerSite& site);

// Throws Failure(kDiverged) "WHAT holds NaN or infinite values" if x does. One pass over x.
void require_finite(const at::Tensor& x, std::string_view what);

}  // namespace bitrung::train
