// Plain convolutional networks of 2 to 10 layers for 32 x 32 images (Mirzadeh et al. 2019, arXiv
// 1902.03393, "plane CNN"), with quantized inner layers.
//
// Each 3 x 3 convolution is followed by a normalisation and a ReLU, some by a 2 x 2 maximum; linear
// layers close. What a layer computes with is quantized in front of it, to its own bits; the first
// convolution and the last linear layer have bits of their own, 32 by default.
#pragma once

#include "worker/train/nn/network.h"

namespace bitrung::train {

class Plane : public Network {
 public:
  Plane(const NetworkShape& shape, std::uint64_t seed, const at::TensorOptions& options);

  // The stages of `taps` are what each maximum gives.
  using Network::forward;
  at::Tensor forward(const at::Tensor& images, const Pass& pass, const Taps& taps) override;

 private:
  // A layer and what follows it.
  struct Step {
    Layer* layer = nullptr;
    BatchNorm norm;  // Of a convolution.
    bool is_pooled = false;
  };

  std::vector<Step> steps_;
};

}  // namespace bitrung::train
