// What the one-bit methods share: levels symmetric about 0 that are the sign at 1 bit, the
// gradients that stand for the sign's, and scales for each output channel.
//
// With n = 2^k - 1, rint to even:
//
//   q_1(x) = 1 for x >= 0, else -1
//   q_k(x) = 2 rint(n (clip(x, -1, 1) + 1) / 2) / n - 1    1 < k < 32
//
// which is how Rastegari et al. 2016 (arXiv 1603.05279, section 3.1) go from the sign to k bits.
// The methods were published for 1 bit; at more their sharper gradients, made for a step between
// two levels, would be wrong, so that every method then takes Surrogate::Shape::kClip, the
// derivative of what q_k approaches.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// Whether the loops of sign_kernels.h can read x: floats on the host without gaps.
bool is_dense_float(const at::Tensor& x);
// Also that of g, whose values lie as those of x do.
bool are_dense_floats(const at::Tensor& x, const at::Tensor& g);

// q_k(x); keeps the layout of x.
at::Tensor sign_levels(const at::Tensor& x, int bits);

// Stands for the derivative of q_k.
struct Surrogate {
  enum class Shape : std::uint8_t {
    kClip,      // 1 on |x| <= 1, else 0.
    kTriangle,  // max(0, 2 - 2 |x|): Liu et al. 2018, arXiv 1808.00278 ("Bi-Real").
    kTanh,      // max(t, 1) (1 - tanh^2(t x)) with t the sharpness: Qin et al. 2019, arXiv
                // 1909.10788.
  };
  Shape shape = Shape::kClip;
  double sharpness = 1.0;
};

// At more than 1 bit: kClip.
Surrogate surrogate_for(int bits, Surrogate one_bit);

// g times the surrogate at x.
at::Tensor surrogate_gradient(const at::Tensor& x, const at::Tensor& g, const Surrogate& surrogate);

// q_k(x), with that gradient.
at::Tensor quantize_signs(const at::Tensor& x, int bits, const Surrogate& surrogate);

// The grid of scale * q_k: scale is (), or one for each channel.
Grid sign_grid(const at::Tensor& scale, int bits);

// All dimensions but that of the output channels of weights (C,...); (C) has one value in each
// channel, and no such dimension.
std::vector<std::int64_t> inner_dimensions(const at::Tensor& w);
// Values in each output channel.
std::int64_t channel_size(const at::Tensor& w);
// Sums and means over each output channel, (C,1,...).
at::Tensor channel_sum(const at::Tensor& w);
at::Tensor channel_mean(const at::Tensor& w);
at::Tensor channel_peak(const at::Tensor& w);  // max |w|

// scale * q_k(w / scale) for each output channel; at 1 bit scale * sign(w). A channel with scale 0
// is 0.
at::Tensor scaled_sign_levels(const at::Tensor& w, const at::Tensor& scale, int bits);

// The scale of XNOR-Net and of ReActNet: mean |w| of each output channel at 1 bit, else max |w|, so
// that every weight lies within the levels.
at::Tensor magnitude_scale(const at::Tensor& w, int bits);

// Weights whose quantize() is Function::apply(w, bits) on the grid of that scale.
template <typename Function>
class MagnitudeSignWeights : public WeightQuantizer {
 public:
  explicit MagnitudeSignWeights(int bits) : bits_(bits) {}

  at::Tensor quantize(const at::Tensor& w, const Pass&) override {
    return Function::apply(w, std::int64_t{bits_});
  }

  std::optional<Grid> grid(const at::Tensor& w) override {
    const at::NoGradGuard no_grad;
    return sign_grid(magnitude_scale(w, bits_), bits_);
  }

 private:
  int bits_;
};

// Activations on the levels of q_k: signed, so without a ReLU.
class SignActivations : public ActivationQuantizer {
 public:
  explicit SignActivations(int bits) : bits_(bits) {}

  bool takes_relu() const override { return false; }
  std::optional<Grid> grid() override;

 protected:
  int bits() const { return bits_; }

 private:
  int bits_;
};

// Output channels of weights, less their mean and over their deviation.
struct Standardized {
  at::Tensor z;          // (C,...)
  at::Tensor deviation;  // (C,1,...); 1 where a channel has no spread.
  at::Tensor spread;     // (C,1,...), 1 or 0: whether the channel's values differ.
};

// z = (w - mean) / sqrt(variance + epsilon) with the unbiased variance. A channel whose values are
// equal, as far as their precision tells, has z = 0.
Standardized standardize(const at::Tensor& w, double epsilon);
// The gradient of w for the gradient h of z; no gradient is lost on the mean and the deviation.
at::Tensor standardize_gradient(const Standardized& standardized, const at::Tensor& h);

}  // namespace bitrung::train
