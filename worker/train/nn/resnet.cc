#include "worker/train/nn/resnet.h"

#include "db/base/check.h"

namespace bitrung::train {

namespace {

constexpr int kStages = 3;

}  // namespace

ResNet::ResNet(const NetworkShape& shape, std::uint64_t seed, const at::TensorOptions& options)
    : Network(shape, seed, options), architecture_(shape.architecture()) {
  const int blocks = blocks_per_stage(architecture_);
  const int units = architecture_.bottleneck ? 3 : 2;
  first_ = &make_layer("conv1");
  std::int64_t in = first_->plan.out;
  if (architecture_.shortcut_per_convolution) {
    first_norm_ = make_norm("bn1", in);
    expose(first_norm_);
  }
  for (int stage = 0; stage < kStages; ++stage) {
    stages_.emplace_back();
    for (int i = 0; i < blocks; ++i) {
      const std::string name = "layer" + std::to_string(stage + 1) + "." + std::to_string(i) + ".";
      const std::int64_t out = plan(name + "conv" + std::to_string(units)).out;
      const bool changes_shape = in != out || (stage > 0 && i == 0);
      stages_.back().push_back(make_block(name, units, changes_shape));
      in = out;
    }
  }
  bn_ = make_norm("bn", in);
  last_ = &make_layer("fc");
  make_input_quantizer(*last_, "fc.act.", last_->plan.in, last_->plan.out);
  for (std::vector<Block>& stage : stages_) {
    for (Block& block : stage) {
      for (Unit& unit : block.units) {
        expose(unit.norm);
      }
      if (block.downsample_norm.weight.defined()) {
        expose(block.downsample_norm);
      }
    }
  }
  expose(bn_);
}

ResNet::Block ResNet::make_block(const std::string& name, int units, bool changes_shape) {
  Block block;
  for (int i = 1; i <= units; ++i) {
    const std::string number = std::to_string(i);
    const LayerPlan& unit_plan = plan(name + "conv" + number);
    Unit unit;
    unit.norm = make_norm(name + "bn" + number,
                          architecture_.shortcut_per_convolution ? unit_plan.out : unit_plan.in);
    unit.convolution = &make_layer(unit_plan.name);
    make_input_quantizer(*unit.convolution, name + "act" + number + ".", unit_plan.in,
                         unit_plan.out);
    block.units.push_back(std::move(unit));
  }
  if (changes_shape) {
    block.downsample = &make_layer(name + "downsample.0");
    if (architecture_.shortcut_per_convolution) {
      block.downsample_norm = make_norm(name + "downsample.1", block.downsample->plan.out);
    }
  }
  return block;
}

at::Tensor ResNet::forward_block(Block& block, const at::Tensor& x, const Pass& pass,
                                 const Taps& taps) {
  at::Tensor y = x;
  at::Tensor residual = x;
  for (std::size_t i = 0; i < block.units.size(); ++i) {
    Unit& unit = block.units[i];
    y = activate(y, unit.norm, *unit.convolution, pass, taps);
    if (i == 0 && block.downsample != nullptr) {
      residual = block.downsample->apply(y, pass);
    }
    y = i + 1 == block.units.size() ? unit.convolution->apply_and_add(y, residual, pass)
                                    : unit.convolution->finish(unit.convolution->apply(y, pass));
  }
  return y;
}

at::Tensor ResNet::forward_convolutionwise(Block& block, const at::Tensor& x, const Pass& pass,
                                           const Taps& taps) {
  at::Tensor residual = x;
  if (block.downsample != nullptr) {
    const std::int64_t stride = block.downsample->plan.stride;
    const at::Tensor pooled =
        stride == 1 ? x : at::avg_pool2d(x, {stride, stride}, {stride, stride});
    residual = normalize(block.downsample->apply(pooled, pass, /*stride=*/1), block.downsample_norm,
                         /*relu=*/false, pass);
  }
  at::Tensor y = x;
  for (Unit& unit : block.units) {
    y = unit.convolution->apply(activate(y, *unit.convolution, pass, taps), pass);
    y = normalize(y, unit.norm, /*relu=*/false, pass);
    y = unit.convolution->finish(y.add_(residual));
    residual = y;
  }
  return y;
}

at::Tensor ResNet::features(const at::Tensor& images, const Pass& pass, const Taps& taps) {
  const bool is_convolutionwise = architecture_.shortcut_per_convolution;
  at::Tensor x = first_->apply(images, pass);  // (N,16,32,32)
  if (is_convolutionwise) {
    x = normalize(x, first_norm_, /*relu=*/false, pass);
  }
  for (std::vector<Block>& stage : stages_) {
    for (Block& block : stage) {
      // (N,16,32,32), (N,32,16,16), (N,64,8,8)
      x = is_convolutionwise ? forward_convolutionwise(block, x, pass, taps)
                             : forward_block(block, x, pass, taps);
    }
    if (taps.stages != nullptr) {
      taps.stages->push_back(x);
    }
  }
  return normalize(x, bn_, /*relu=*/true, pass).mean({2, 3});  // (N,64); 8 x 8 average pooling
}

at::Tensor ResNet::forward(const at::Tensor& images, const Pass& pass, const Taps& taps) {
  BITRUNG_CHECK(images.dim() == 4 && images.size(1) == 3);
  const bool is_fused = fused_ != nullptr && taps.stages == nullptr && taps.probe == nullptr &&
                        fused_->can_do(images, pass);
  const at::Tensor x = is_fused ? fused_->features(images, pass) : features(images, pass, taps);
  return last_->apply(quantize_input(x, *last_, pass, taps), pass);  // (N,classes)
}

std::string ResNet::fuse() {
  if (architecture_.bottleneck) {
    return "blocks are bottlenecks";
  }
  if (architecture_.shortcut_per_convolution) {
    return "each convolution has a shortcut of its own";
  }
  fused::ResidualSites sites;
  sites.first = first_;
  for (std::vector<Block>& stage : stages_) {
    for (Block& block : stage) {
      Unit& one = block.units[0];
      Unit& two = block.units[1];
      sites.blocks.push_back(
          {{&one.norm, one.convolution}, {&two.norm, two.convolution}, block.downsample});
    }
  }
  sites.last_norm = &bn_;
  std::string reason = fused::why_not(sites);
  if (reason.empty()) {
    fused_ = std::make_unique<fused::Residual>(sites, fused::kernels());
  }
  return reason;
}

std::string ResNet::backend() const {
  return fused_ == nullptr ? Network::backend() : std::string("fused ") + fused_->kernels().name;
}

}  // namespace bitrung::train
