// Pre-activation ResNet for 32 x 32 images (He et al. 2016, arXiv 1603.05027) with quantized
// blocks.
//
// Quantized are the weights of each 3 x 3 convolution inside a block and the output of each batch
// normalisation and ReLU in front of one. Not quantized: the first convolution, the 1 x 1
// down-sampling convolutions (they do see the quantized activation), the final normalisation and
// ReLU, the linear layer and the residual sum. No convolution has a bias. Tensor names are those of
// the reference network's state_dict in PyTorch.
//
// Owned by the thread that trains it. No torch::nn module: plain tensors, so that the names, the
// order and the random numbers are decided here and not by a LibTorch version.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "worker/train/nn/norm_act.h"
#include "worker/train/quant/quantizer.h"
#include "worker/train/spec.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

struct NetworkShape {
  std::string model;  // "resnet8" to "resnet110".
  int classes = 10;
  Bits bits;
  Method method;
};

class ResNet {
 public:
  // Initial convolution weights are N(0, 2 / (k^2 c_out)) (standard deviation its square root), the
  // linear layer's weights and bias uniform in +-1/sqrt(64) as PyTorch's default, batch
  // normalisation 1 and 0. Drawn from streams of (seed, tensor name), so that equal layers of
  // different networks begin equal.
  ResNet(const NetworkShape& shape, std::uint64_t seed, const at::Device& device);

  // images: (N,3,32,32) float, channels_last on the CPU; result: (N,classes) logits. `training`
  // chooses batch statistics and updates the running ones.
  at::Tensor forward(const at::Tensor& images, bool training);

  const NetworkShape& shape() const { return shape_; }
  // In the order of state_dict. The tensors are the network's own: writing to them changes it.
  const std::vector<NamedTensor>& parameters() const { return parameters_; }
  const std::vector<NamedTensor>& state() const { return state_; }  // Parameters and buffers.

 private:
  struct Block {
    BatchNorm bn1;
    at::Tensor conv1;  // (cout,cin,3,3)
    BatchNorm bn2;
    at::Tensor conv2;       // (cout,cout,3,3)
    at::Tensor downsample;  // (cout,cin,1,1), undefined where the shape stays.
    std::int64_t stride = 1;
    std::unique_ptr<ActivationQuantizer> act1;
    std::unique_ptr<ActivationQuantizer> act2;
    std::unique_ptr<WeightQuantizer> weights1;
    std::unique_ptr<WeightQuantizer> weights2;
  };

  at::Tensor add_parameter(const std::string& name, at::Tensor value);
  void add_buffer(const std::string& name, const at::Tensor& value);
  at::Tensor add_convolution(const std::string& name, std::int64_t out, std::int64_t in,
                             std::int64_t side);
  BatchNorm add_norm(const std::string& name, std::int64_t channels);
  void add_quantizer_state(const std::string& name, const QuantizerState& quantizer);
  Block add_block(const std::string& name, std::int64_t in, std::int64_t out, std::int64_t stride);
  static at::Tensor forward_block(Block& block, const at::Tensor& x, bool training);

  NetworkShape shape_;
  std::uint64_t seed_;
  at::Device device_;
  std::vector<NamedTensor> parameters_;
  std::vector<NamedTensor> state_;
  at::Tensor conv1_;  // (16,3,3,3)
  std::vector<Block> blocks_;
  BatchNorm bn_;
  std::unique_ptr<ActivationQuantizer> unquantized_;
  at::Tensor fc_weight_;  // (classes,64)
  at::Tensor fc_bias_;    // (classes)
};

}  // namespace bitrung::train
