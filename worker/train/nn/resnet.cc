#include "worker/train/nn/resnet.h"

#include <array>
#include <cmath>
#include <numbers>

#include "db/base/check.h"
#include "worker/train/random.h"

namespace bitrung::train {

namespace {

constexpr std::array<std::int64_t, 3> kStageChannels = {16, 32, 64};

RandomStream stream_of(std::uint64_t seed, const std::string& name) {
  std::uint64_t hash = 0xcbf29ce484222325U;  // FNV-1a
  for (const char c : name) {
    hash = (hash ^ static_cast<std::uint64_t>(static_cast<unsigned char>(c))) * 0x100000001b3U;
  }
  return RandomStream(Purpose::kInitialWeights, {seed, hash});
}

// Standard normal numbers by Box and Muller, in double and then rounded.
at::Tensor normal_tensor(RandomStream random, at::IntArrayRef shape, double deviation) {
  at::Tensor result = at::empty(shape, at::kFloat);
  float* const values = result.data_ptr<float>();
  const std::int64_t count = result.numel();
  for (std::int64_t i = 0; i < count; i += 2) {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - random.uniform()));
    const double angle = 2.0 * std::numbers::pi * random.uniform();
    values[i] = static_cast<float>(deviation * radius * std::cos(angle));
    if (i + 1 < count) {
      values[i + 1] = static_cast<float>(deviation * radius * std::sin(angle));
    }
  }
  return result;
}

at::Tensor uniform_tensor(RandomStream random, at::IntArrayRef shape, double bound) {
  at::Tensor result = at::empty(shape, at::kFloat);
  float* const values = result.data_ptr<float>();
  for (std::int64_t i = 0; i < result.numel(); ++i) {
    values[i] = static_cast<float>(bound * (2.0 * random.uniform() - 1.0));
  }
  return result;
}

at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, std::int64_t stride) {
  const std::int64_t padding = weight.size(2) / 2;
  return at::conv2d(x, weight, /*bias=*/{}, {stride, stride}, {padding, padding});
}

}  // namespace

ResNet::ResNet(const NetworkShape& shape, std::uint64_t seed, const at::Device& device)
    : shape_(shape), seed_(seed), device_(device) {
  const int blocks = blocks_per_stage(shape.model);
  BITRUNG_CHECK(blocks > 0);
  conv1_ = add_convolution("conv1.weight", kStageChannels[0], 3, 3);
  std::int64_t in = kStageChannels[0];
  for (std::size_t stage = 0; stage < kStageChannels.size(); ++stage) {
    for (int i = 0; i < blocks; ++i) {
      const std::int64_t stride = stage > 0 && i == 0 ? 2 : 1;
      const std::string name = "layer" + std::to_string(stage + 1) + "." + std::to_string(i) + ".";
      blocks_.push_back(add_block(name, in, kStageChannels[stage], stride));
      in = kStageChannels[stage];
    }
  }
  bn_ = add_norm("bn.", in);
  unquantized_ = quantization_method("dorefa").make_activations(32);
  // PyTorch's Linear: both uniform in +-1/sqrt(inputs).
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  fc_weight_ = add_parameter(
      "fc.weight", uniform_tensor(stream_of(seed_, "fc.weight"), {shape.classes, in}, bound));
  fc_bias_ =
      add_parameter("fc.bias", uniform_tensor(stream_of(seed_, "fc.bias"), {shape.classes}, bound));
}

at::Tensor ResNet::add_parameter(const std::string& name, at::Tensor value) {
  at::Tensor parameter = value.to(device_).set_requires_grad(true);
  parameters_.push_back({name, parameter});
  state_.push_back({name, parameter});
  return parameter;
}

void ResNet::add_buffer(const std::string& name, const at::Tensor& value) {
  state_.push_back({name, value});
}

at::Tensor ResNet::add_convolution(const std::string& name, std::int64_t out, std::int64_t in,
                                   std::int64_t side) {
  const double deviation = std::sqrt(2.0 / static_cast<double>(side * side * out));
  return add_parameter(name,
                       normal_tensor(stream_of(seed_, name), {out, in, side, side}, deviation));
}

BatchNorm ResNet::add_norm(const std::string& name, std::int64_t channels) {
  BatchNorm norm;
  const at::TensorOptions options = at::TensorOptions().dtype(at::kFloat).device(device_);
  norm.weight = add_parameter(name + "weight", at::ones({channels}, at::kFloat));
  norm.bias = add_parameter(name + "bias", at::zeros({channels}, at::kFloat));
  norm.running_mean = at::zeros({channels}, options);
  norm.running_var = at::ones({channels}, options);
  // On the host also beside a GPU: it is only counted, never computed with.
  norm.num_batches_tracked = at::zeros({}, at::kLong);
  add_buffer(name + "running_mean", norm.running_mean);
  add_buffer(name + "running_var", norm.running_var);
  add_buffer(name + "num_batches_tracked", norm.num_batches_tracked);
  return norm;
}

void ResNet::add_quantizer_state(const std::string& name, const QuantizerState& quantizer) {
  for (const NamedTensor& parameter : quantizer.parameters()) {
    BITRUNG_CHECK(parameter.tensor.requires_grad() && parameter.tensor.device() == device_);
    parameters_.push_back({name + parameter.name, parameter.tensor});
    state_.push_back(parameters_.back());
  }
  for (const NamedTensor& buffer : quantizer.buffers()) {
    add_buffer(name + buffer.name, buffer.tensor);
  }
}

ResNet::Block ResNet::add_block(const std::string& name, std::int64_t in, std::int64_t out,
                                std::int64_t stride) {
  const MethodEntry& weights = quantization_method(shape_.method.weights);
  const MethodEntry& activations = quantization_method(shape_.method.activations);
  Block block;
  block.stride = stride;
  block.bn1 = add_norm(name + "bn1.", in);
  block.act1 = activations.make_activations(shape_.bits.activations);
  add_quantizer_state(name + "act1.", *block.act1);
  block.conv1 = add_convolution(name + "conv1.weight", out, in, 3);
  block.weights1 = weights.make_weights(shape_.bits.weights);
  add_quantizer_state(name + "conv1.qfn.", *block.weights1);
  block.bn2 = add_norm(name + "bn2.", out);
  block.act2 = activations.make_activations(shape_.bits.activations);
  add_quantizer_state(name + "act2.", *block.act2);
  block.conv2 = add_convolution(name + "conv2.weight", out, out, 3);
  block.weights2 = weights.make_weights(shape_.bits.weights);
  add_quantizer_state(name + "conv2.qfn.", *block.weights2);
  if (stride != 1 || in != out) {
    block.downsample = add_convolution(name + "downsample.0.weight", out, in, 1);
  }
  return block;
}

at::Tensor ResNet::forward_block(Block& block, const at::Tensor& x, bool training) {
  at::Tensor y = norm_relu_quantize(x, block.bn1, *block.act1, training);  // (N,cin,H,W)
  const at::Tensor residual =
      block.downsample.defined() ? convolve(y, block.downsample, block.stride) : x;
  y = convolve(y, block.weights1->quantize(block.conv1), block.stride);  // (N,cout,H/s,W/s)
  y = norm_relu_quantize(y, block.bn2, *block.act2, training);           // (N,cout,H/s,W/s)
  y = convolve(y, block.weights2->quantize(block.conv2), 1);             // (N,cout,H/s,W/s)
  return y.add_(residual);
}

at::Tensor ResNet::forward(const at::Tensor& images, bool training) {
  BITRUNG_CHECK(images.dim() == 4 && images.size(1) == 3);
  at::Tensor x = convolve(images, conv1_, 1);  // (N,16,32,32)
  for (Block& block : blocks_) {
    x = forward_block(block, x, training);  // (N,16,32,32), (N,32,16,16), (N,64,8,8)
  }
  x = norm_relu_quantize(x, bn_, *unquantized_, training);  // (N,64,8,8)
  x = x.mean({2, 3});                                       // (N,64); 8 x 8 average pooling
  return at::addmm(fc_bias_, x, fc_weight_.t());            // (N,classes)
}

}  // namespace bitrung::train
