// Pre-activation ResNet for 32 x 32 images (He et al. 2016, arXiv 1603.05027) with quantized
// blocks.
//
// Quantized to "bits" are the weights of each convolution inside a block and the output of each
// normalisation and ReLU in front of one; the first convolution, the 1 x 1 down-sampling
// convolutions and the linear layer have bits of their own, 32 by default. The residual sum is
// never quantized. A block's shortcut spans both its convolutions and, where the shape changes,
// sees the block's quantized activation. A bottleneck block is 1 x 1, 3 x 3 (with the stride) and
// 1 x 1, four times as wide at its end.
//
// Or each convolution has a shortcut of its own, which sees real values: averages of 2 x 2 pixels
// where the shape changes. The normalisations then stand where Liu et al. 2018 (arXiv 1808.00278,
// figure 3) put them, behind each convolution and before the sum, so that no scale of the weights
// can drown the shortcut; one more stands behind the first convolution:
//
//   sum = shortcut(x) + norm(convolution(quantize(x)))
#pragma once

#include "worker/train/fused/residual.h"
#include "worker/train/nn/network.h"

namespace bitrung::train {

class ResNet : public Network {
 public:
  ResNet(const NetworkShape& shape, std::uint64_t seed, const at::TensorOptions& options);

  // The stages of `taps` are the outputs of layer1, layer2 and layer3.
  using Network::forward;
  at::Tensor forward(const at::Tensor& images, const Pass& pass, const Taps& taps) override;

  std::string fuse() override;
  std::string backend() const override;

 private:
  // One convolution and the normalisation in front of it, or behind it where it has a shortcut.
  struct Unit {
    BatchNorm norm;
    Layer* convolution = nullptr;
  };
  struct Block {
    std::vector<Unit> units;      // Two, or three of a bottleneck.
    Layer* downsample = nullptr;  // Where the shape changes.
    BatchNorm downsample_norm;    // Of convolutions with shortcuts.
  };

  Block make_block(const std::string& name, int units, bool changes_shape);
  // The means over the pixels behind the last normalisation and ReLU: (N,C).
  at::Tensor features(const at::Tensor& images, const Pass& pass, const Taps& taps);
  at::Tensor forward_block(Block& block, const at::Tensor& x, const Pass& pass, const Taps& taps);
  at::Tensor forward_convolutionwise(Block& block, const at::Tensor& x, const Pass& pass,
                                     const Taps& taps);

  const Architecture architecture_;
  Layer* first_ = nullptr;
  BatchNorm first_norm_;  // Of convolutions with shortcuts.
  std::vector<std::vector<Block>> stages_;
  BatchNorm bn_;
  Layer* last_ = nullptr;
  std::unique_ptr<fused::Residual> fused_;
};

}  // namespace bitrung::train
