// The fused backend: residual networks of basic blocks on the CPU, without an operation's result
// ever lying in memory twice.
//
// A training step goes convolution by convolution, and in each image by image: normalise, rectify
// and quantize into a padded scratch that stays in the cache, convolve, add the shortcut, sum up
// the moments of the next normalisation. The backward pass rebuilds what it needs from the raw sums
// in front of each normalisation, the only activations that are kept. Forward passes of codes of up
// to 8 bits are in integers and exact. Weights are quantized by the quantizers' own LibTorch
// operations, so that any method for weights works; the gradient enters LibTorch's graph at the
// quantized weights, the normalisations' parameters and what the activations' quantizers learned.
//
// The mathematics is that of nn/resnet.h, which is the reference and does what this cannot.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "worker/train/fused/kernels.h"
#include "worker/train/nn/layer.h"
#include "worker/train/nn/norm_act.h"
#include "worker/train/quant/quantizer.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train::fused {

// A normalisation and the convolution behind it, with the quantizer of its input.
struct UnitSite {
  BatchNorm* norm = nullptr;
  Layer* convolution = nullptr;
};

struct BlockSite {
  UnitSite one;
  UnitSite two;
  Layer* downsample = nullptr;  // Sees the input of the first convolution; null for the identity.
};

// The parts of a network, which own them and outlive the backend. All tensors float on the CPU.
struct ResidualSites {
  Layer* first = nullptr;
  std::vector<BlockSite> blocks;
  BatchNorm* last_norm = nullptr;
};

class ResidualStep;

// Why these parts cannot be fused; empty if they can.
std::string why_not(const ResidualSites& sites);

// Belongs to the thread that trains; uses LibTorch's intra-op threads. Results do not depend on
// their number.
class Residual {
 public:
  // why_not(sites) must be empty.
  Residual(const ResidualSites& sites, const Kernels& kernels);
  ~Residual();
  Residual(const Residual&) = delete;
  Residual& operator=(const Residual&) = delete;

  // Whether this pass can go here: not before quantizers have seen a first batch, and with the
  // batch's statistics only in trainings.
  bool can_do(const at::Tensor& images, const Pass& pass) const;

  // images: (N,3,32,32), channels_last. Result: (N,C), the means over the pixels behind the last
  // normalisation and ReLU. Differentiable as long as no other training pass has followed.
  at::Tensor features(const at::Tensor& images, const Pass& pass);

  const Kernels& kernels() const;

 private:
  std::unique_ptr<ResidualStep> step_;
};

}  // namespace bitrung::train::fused
