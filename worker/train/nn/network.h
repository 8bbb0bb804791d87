// Quantized networks: what they have in common.
//
// Owned by the thread that trains it. No torch::nn module: plain tensors, so that the names, the
// order and the random numbers are decided here and not by a LibTorch version. Tensor names are
// those of the reference network's state_dict in PyTorch.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "worker/train/nn/layer.h"
#include "worker/train/nn/norm_act.h"
#include "worker/train/quant/quantizer.h"
#include "worker/train/spec.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

struct NetworkShape {
  NetworkChoice choice;
  int classes = 10;

  // The model must be one that parse_architecture() knows.
  Architecture architecture() const;
};

// Sees what the layers compute with.
class Probe {
 public:
  virtual ~Probe() = default;
  // The input of the layer before and after its quantization; the same tensor at 32 bits.
  virtual void activation(const Layer& layer, const at::Tensor& real,
                          const at::Tensor& quantized) = 0;
};

// What a forward pass shows besides its result.
struct Taps {
  std::vector<at::Tensor>* stages = nullptr;  // Gets the output of each stage, (N,C,H,W).
  Probe* probe = nullptr;
};

class Network {
 public:
  virtual ~Network() = default;
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  // images: (N,3,32,32) of the network's type, channels_last on the CPU; result: (N,classes)
  // logits. pass.training chooses batch statistics and updates the running ones.
  virtual at::Tensor forward(const at::Tensor& images, const Pass& pass, const Taps& taps) = 0;
  at::Tensor forward(const at::Tensor& images, const Pass& pass) {
    return forward(images, pass, Taps{});
  }

  // Lets the forward passes that can go through the fused backend (fused/residual.h). Returns why
  // none can, or nothing.
  virtual std::string fuse();
  // What forward passes go through: "eager", or "fused avx512-vnni".
  virtual std::string backend() const { return "eager"; }
  // On a CPU: LibTorch adds up in another order with another number of threads, the fused loops do
  // not.
  bool depends_on_threads() const { return backend() == "eager"; }

  const NetworkShape& shape() const { return shape_; }
  // In the order of state_dict. The tensors are the network's own: writing to them changes it.
  const std::vector<LearnedTensor>& parameters() const { return parameters_; }
  const std::vector<NamedTensor>& state() const { return state_; }  // Parameters and buffers.
  // Convolutions and linear layers, in the order of the forward pass.
  std::span<const std::unique_ptr<Layer>> layers() const { return layers_; }
  // Whether training passes depend on more than the images: on the progress, the seed or the step.
  bool follows_training() const;
  // Normalisations, for their statistics.
  std::span<BatchNorm* const> norms() const { return norms_; }

 protected:
  Network(const NetworkShape& shape, std::uint64_t seed, const at::TensorOptions& options);

  // The plan of this name in network_plan().
  const LayerPlan& plan(const std::string& name) const;

  // Each registers its tensors at the end of the state. Initial convolution weights are
  // N(0, 2 / (k^2 c_out)) (standard deviation its square root), linear weights and biases uniform
  // in +-1/sqrt(inputs) as PyTorch's default, normalisations 1 and 0. Drawn from streams of (seed,
  // tensor name), so that equal layers of different networks begin equal.
  BatchNorm make_norm(const std::string& name, std::int64_t channels);
  Layer& make_layer(const std::string& name);
  // The quantizer of the layer's input, which has `channels`; after_sum() will get `out_channels`.
  // `prefix` begins the names of its tensors. None at 32 bits.
  void make_input_quantizer(Layer& layer, const std::string& prefix, std::int64_t channels,
                            std::int64_t out_channels);
  // Tells norms() where the normalisations have come to stand.
  void expose(BatchNorm& norm) { norms_.push_back(&norm); }

  // The normalisation in front of a layer and what the layer computes with.
  static at::Tensor activate(const at::Tensor& x, BatchNorm& norm, Layer& layer, const Pass& pass,
                             const Taps& taps);
  // The same without a normalisation.
  static at::Tensor activate(const at::Tensor& x, Layer& layer, const Pass& pass, const Taps& taps);
  // The input of a layer whose activation function has been applied already.
  static at::Tensor quantize_input(const at::Tensor& x, Layer& layer, const Pass& pass,
                                   const Taps& taps);

 private:
  at::Tensor add_parameter(const std::string& name, const at::Tensor& value);
  void add_quantizer_state(const std::string& prefix, const QuantizerState& quantizer);
  QuantizerSite site(const Layer& layer, int bits) const;

  NetworkShape shape_;
  std::uint64_t seed_;
  at::TensorOptions options_;
  std::map<std::string, LayerPlan> plans_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<BatchNorm*> norms_;
  std::vector<LearnedTensor> parameters_;
  std::vector<NamedTensor> state_;
};

// options: the type (float, or double for tests of whole networks) and the device. Throws
// Failure(kUserError) for a method that is unknown or cannot do what is asked of it.
std::unique_ptr<Network> make_network(const NetworkShape& shape, std::uint64_t seed,
                                      const at::TensorOptions& options);

// Whether a tensor of this name belongs to a quantizer, so that another method lacks it.
bool is_quantizer_tensor(const std::string& name);

}  // namespace bitrung::train
