#include "worker/train/nn/network.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "db/base/check.h"
#include "worker/train/nn/plane.h"
#include "worker/train/nn/resnet.h"
#include "worker/train/random.h"

namespace bitrung::train {

namespace {

RandomStream stream_of(std::uint64_t seed, const std::string& name) {
  return RandomStream(Purpose::kInitialWeights, {seed, hash_of(name)});
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

}  // namespace

Architecture NetworkShape::architecture() const {
  std::optional<Architecture> result = parse_architecture(choice.model);
  BITRUNG_CHECK(result.has_value());
  result->shortcut_per_convolution = choice.shortcut_per_convolution;
  return *result;
}

Network::Network(const NetworkShape& shape, std::uint64_t seed, const at::TensorOptions& options)
    : shape_(shape), seed_(seed), options_(options) {
  for (LayerPlan& layer : layer_plans(shape.architecture(), shape.classes)) {
    const std::string name = layer.name;
    plans_.emplace(name, std::move(layer));
  }
}

const LayerPlan& Network::plan(const std::string& name) const {
  const auto found = plans_.find(name);
  BITRUNG_CHECK(found != plans_.end());
  return found->second;
}

at::Tensor Network::add_parameter(const std::string& name, const at::Tensor& value) {
  at::Tensor parameter = value.to(options_).set_requires_grad(true);
  parameters_.push_back({name, parameter, 1.0, std::nullopt});
  state_.push_back({name, parameter});
  return parameter;
}

BatchNorm Network::make_norm(const std::string& name, std::int64_t channels) {
  BatchNorm norm;
  norm.name = name;
  norm.weight = add_parameter(name + ".weight", at::ones({channels}, at::kFloat));
  norm.bias = add_parameter(name + ".bias", at::zeros({channels}, at::kFloat));
  norm.running_mean = at::zeros({channels}, options_);
  norm.running_var = at::ones({channels}, options_);
  // On the host also beside a GPU: it is only counted, never computed with.
  norm.num_batches_tracked = at::zeros({}, at::kLong);
  state_.push_back({name + ".running_mean", norm.running_mean});
  state_.push_back({name + ".running_var", norm.running_var});
  state_.push_back({name + ".num_batches_tracked", norm.num_batches_tracked});
  return norm;
}

QuantizerSite Network::site(const Layer& layer, int bits) const {
  QuantizerSite result;
  result.layer = layer.plan.name;
  result.bits = bits;
  result.options = shape_.choice.method.options;
  result.tensors = options_;
  return result;
}

Layer& Network::make_layer(const std::string& name) {
  layers_.push_back(std::make_unique<Layer>());
  Layer& layer = *layers_.back();
  layer.plan = plan(name);
  layer.bits = shape_.choice.bits.of(name, layer.plan.role);
  layer.weight_method = shape_.choice.method.weights;
  layer.activation_method = shape_.choice.method.activations;
  const LayerPlan& plan = layer.plan;
  if (plan.is_convolution) {
    const double deviation =
        std::sqrt(2.0 / static_cast<double>(plan.kernel * plan.kernel * plan.out));
    layer.weight = add_parameter(
        name + ".weight", normal_tensor(stream_of(seed_, name + ".weight"),
                                        {plan.out, plan.in, plan.kernel, plan.kernel}, deviation));
  } else {
    const double bound = 1.0 / std::sqrt(static_cast<double>(plan.in));
    layer.weight = add_parameter(
        name + ".weight",
        uniform_tensor(stream_of(seed_, name + ".weight"), {plan.out, plan.in}, bound));
    layer.bias = add_parameter(name + ".bias",
                               uniform_tensor(stream_of(seed_, name + ".bias"), {plan.out}, bound));
  }
  if (layer.bits.weights != kFullPrecisionBits) {
    QuantizerSite place = site(layer, layer.bits.weights);
    place.channels = plan.out;
    layer.quantizer = make_weight_quantizer(layer.weight_method, place);
    add_quantizer_state(name + ".qfn.", *layer.quantizer);
  }
  if (layer.bits.weights != kFullPrecisionBits || layer.bits.activations != kFullPrecisionBits) {
    layer.gradient_bits = shape_.choice.bits.gradients;
  }
  return layer;
}

void Network::make_input_quantizer(Layer& layer, const std::string& prefix, std::int64_t channels,
                                   std::int64_t out_channels) {
  if (layer.bits.activations == kFullPrecisionBits) {
    return;
  }
  QuantizerSite place = site(layer, layer.bits.activations);
  place.channels = channels;
  place.out_channels = out_channels;
  layer.input = make_activation_quantizer(layer.activation_method, place);
  add_quantizer_state(prefix, *layer.input);
}

void Network::add_quantizer_state(const std::string& prefix, const QuantizerState& quantizer) {
  for (const LearnedTensor& parameter : quantizer.parameters()) {
    BITRUNG_CHECK(parameter.tensor.requires_grad());
    parameters_.push_back(parameter);
    parameters_.back().name = prefix + parameter.name;
    state_.push_back({prefix + parameter.name, parameter.tensor});
  }
  for (const NamedTensor& buffer : quantizer.buffers()) {
    state_.push_back({prefix + buffer.name, buffer.tensor});
  }
}

at::Tensor Network::activate(const at::Tensor& x, BatchNorm& norm, Layer& layer, const Pass& pass,
                             const Taps& taps) {
  if (layer.input != nullptr && taps.probe == nullptr) {
    return norm_activate(x, norm, *layer.input, pass);
  }
  return quantize_input(normalize(x, norm, layer.takes_relu(), pass), layer, pass, taps);
}

at::Tensor Network::activate(const at::Tensor& x, Layer& layer, const Pass& pass,
                             const Taps& taps) {
  return quantize_input(layer.takes_relu() ? at::relu(x) : x, layer, pass, taps);
}

at::Tensor Network::quantize_input(const at::Tensor& x, Layer& layer, const Pass& pass,
                                   const Taps& taps) {
  at::Tensor quantized = layer.input == nullptr ? x : layer.input->quantize(x, pass);
  if (taps.probe != nullptr) {
    taps.probe->activation(layer, x, quantized);
  }
  return quantized;
}

bool Network::follows_training() const {
  return std::any_of(layers_.begin(), layers_.end(), [](const std::unique_ptr<Layer>& layer) {
    return layer->gradient_bits != kFullPrecisionBits ||
           (layer->quantizer != nullptr && layer->quantizer->follows_training()) ||
           (layer->input != nullptr && layer->input->follows_training());
  });
}

std::string Network::fuse() {
  return shape_.choice.model + " is no residual network";
}

std::unique_ptr<Network> make_network(const NetworkShape& shape, std::uint64_t seed,
                                      const at::TensorOptions& options) {
  if (shape.architecture().family == Family::kPlane) {
    return std::make_unique<Plane>(shape, seed, options);
  }
  return std::make_unique<ResNet>(shape, seed, options);
}

bool is_quantizer_tensor(const std::string& name) {
  return name.find(".qfn.") != std::string::npos || name.starts_with("act") ||
         name.find(".act") != std::string::npos;
}

}  // namespace bitrung::train
