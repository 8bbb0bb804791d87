#include "worker/train/nn/plane.h"

#include "db/base/check.h"

namespace bitrung::train {

Plane::Plane(const NetworkShape& shape, std::uint64_t seed, const at::TensorOptions& options)
    : Network(shape, seed, options) {
  int convolutions = 0;
  int linear_layers = 0;
  for (const PlaneStep& plane_step : plane_steps(shape.architecture(), shape.classes)) {
    if (plane_step.kind == PlaneStep::Kind::kPool) {
      steps_.back().is_pooled = true;
      continue;
    }
    const bool is_convolution = plane_step.kind == PlaneStep::Kind::kConvolution;
    const std::string number = std::to_string(is_convolution ? ++convolutions : ++linear_layers);
    const std::string name = (is_convolution ? "conv" : "fc") + number;
    Step step;
    step.layer = &make_layer(name);
    if (step.layer->plan.role != LayerRole::kFirst) {
      make_input_quantizer(*step.layer, name + ".act.", step.layer->plan.in, step.layer->plan.out);
    }
    if (is_convolution) {
      step.norm = make_norm("bn" + number, plane_step.out);
    }
    steps_.push_back(std::move(step));
  }
  for (Step& step : steps_) {
    if (step.norm.weight.defined()) {
      expose(step.norm);
    }
  }
}

at::Tensor Plane::forward(const at::Tensor& images, const Pass& pass, const Taps& taps) {
  BITRUNG_CHECK(images.dim() == 4 && images.size(1) == 3);
  at::Tensor x = images;
  for (Step& step : steps_) {
    Layer& layer = *step.layer;
    if (!layer.plan.is_convolution && x.dim() == 4) {
      x = x.flatten(1);  // (N,C*H*W)
    }
    if (layer.plan.role != LayerRole::kFirst) {
      x = quantize_input(x, layer, pass, taps);
    }
    x = layer.finish(layer.apply(x, pass));
    // A method that takes no ReLU takes none behind the layer in front of it.
    const Step* const next = &step == &steps_.back() ? nullptr : &step + 1;
    const bool relu = next != nullptr && next->layer->takes_relu();
    if (layer.plan.is_convolution) {
      x = normalize(x, step.norm, relu, pass);
    } else if (relu) {
      x = at::relu(x);
    }
    if (step.is_pooled) {
      x = at::max_pool2d(x, {2, 2}, {2, 2});
      if (taps.stages != nullptr) {
        taps.stages->push_back(x);
      }
    }
  }
  return x;  // (N,classes)
}

}  // namespace bitrung::train
