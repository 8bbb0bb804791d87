#include "worker/train/quant/sign_levels.h"

#include <algorithm>
#include <limits>

#include "db/base/check.h"
#include "worker/train/quant/levels.h"
#include "worker/train/quant/sign_kernels.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Floats that one thread handles at a time: 64 KiB of them.
constexpr std::int64_t kGrain = 16384;

// Spread below this many units of the mean's last place is rounding.
constexpr double kRoundingUnits = 16.0;

template <typename Body>
void in_parallel(std::int64_t count, const Body& body) {
  at::parallel_for(0, count, kGrain,
                   [&](std::int64_t begin, std::int64_t end) { body(begin, end - begin); });
}

class SignFunction : public Function<SignFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, std::int64_t bits,
                            std::int64_t shape, double sharpness) {
    context->save_for_backward({x});
    context->saved_data["shape"] = shape;
    context->saved_data["sharpness"] = sharpness;
    return sign_levels(x, static_cast<int>(bits));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const Surrogate surrogate{static_cast<Surrogate::Shape>(context->saved_data["shape"].toInt()),
                              context->saved_data["sharpness"].toDouble()};
    return {surrogate_gradient(context->get_saved_variables()[0], gradients[0], surrogate),
            at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool is_dense_float(const at::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.is_non_overlapping_and_dense();
}

bool are_dense_floats(const at::Tensor& x, const at::Tensor& g) {
  return is_dense_float(x) && is_dense_float(g) && x.strides() == g.strides();
}

at::Tensor sign_levels(const at::Tensor& x, int bits) {
  const double n = level_count(bits);
  if (is_dense_float(x)) {
    at::Tensor y = at::empty_like(x);
    const float* const from = x.data_ptr<float>();
    float* const to = y.data_ptr<float>();
    BITRUNG_CHECK(y.strides() == x.strides());
    in_parallel(x.numel(), [&](std::int64_t first, std::int64_t count) {
      if (bits == 1) {
        write_signs(from + first, count, to + first);
      } else {
        write_sign_levels(from + first, count, static_cast<float>(n), to + first);
      }
    });
    return y;
  }
  if (bits == 1) {
    // NaN is left as it is.
    const at::Tensor y = at::where(x.lt(0), at::full_like(x, -1), x);
    return at::where(x.ge(0), at::ones_like(x), y);
  }
  return x.clamp(-1, 1).add_(1).mul_(0.5).mul_(n).round_().div_(n).mul_(2).sub_(1);
}

Surrogate surrogate_for(int bits, Surrogate one_bit) {
  return bits == 1 ? one_bit : Surrogate{};
}

at::Tensor surrogate_gradient(const at::Tensor& x, const at::Tensor& g,
                              const Surrogate& surrogate) {
  if (surrogate.shape == Surrogate::Shape::kTanh) {
    const double t = surrogate.sharpness;
    const double peak = std::max(t, 1.0);  // k t with k = max(1 / t, 1).
    at::Tensor slope = at::mul(x, t).tanh_();
    return slope.mul_(slope).mul_(-peak).add_(peak).mul_(g);
  }
  const bool is_clip = surrogate.shape == Surrogate::Shape::kClip;
  if (are_dense_floats(x, g)) {
    at::Tensor dx = at::empty_like(x);
    const float* const values = x.data_ptr<float>();
    const float* const above = g.data_ptr<float>();
    float* const to = dx.data_ptr<float>();
    in_parallel(x.numel(), [&](std::int64_t first, std::int64_t count) {
      if (is_clip) {
        write_clip_gradients(values + first, above + first, count, to + first);
      } else {
        write_triangle_gradients(values + first, above + first, count, to + first);
      }
    });
    return dx;
  }
  return is_clip ? g * x.abs().le_(1) : x.abs().mul_(-2).add_(2).clamp_min_(0).mul_(g);
}

at::Tensor quantize_signs(const at::Tensor& x, int bits, const Surrogate& surrogate) {
  return SignFunction::apply(x, std::int64_t{bits}, static_cast<std::int64_t>(surrogate.shape),
                             surrogate.sharpness);
}

Grid sign_grid(const at::Tensor& scale, int bits) {
  const double n = level_count(bits);
  return {scale * (2.0 / n), at::full_like(scale, n / 2.0), {}};
}

std::optional<Grid> SignActivations::grid() {
  return sign_grid(scalar_tensor(1.0), bits_);
}

std::vector<std::int64_t> inner_dimensions(const at::Tensor& w) {
  std::vector<std::int64_t> dimensions;
  for (std::int64_t i = 1; i < w.dim(); ++i) {
    dimensions.push_back(i);
  }
  return dimensions;
}

std::int64_t channel_size(const at::Tensor& w) {
  return w.size(0) == 0 ? 0 : w.numel() / w.size(0);
}

at::Tensor channel_sum(const at::Tensor& w) {
  return w.dim() == 1 ? w : w.sum(inner_dimensions(w), /*keepdim=*/true);
}

at::Tensor channel_mean(const at::Tensor& w) {
  return w.dim() == 1 ? w : w.mean(inner_dimensions(w), /*keepdim=*/true);
}

at::Tensor channel_peak(const at::Tensor& w) {
  return w.dim() == 1 ? w.abs() : w.abs().amax(inner_dimensions(w), /*keepdim=*/true);
}

at::Tensor scaled_sign_levels(const at::Tensor& w, const at::Tensor& scale, int bits) {
  if (bits == 1) {
    return sign_levels(w, bits).mul_(scale);
  }
  // A divisor of 0 would make NaN out of a channel of zeros; the factor `scale` still makes it 0.
  const at::Tensor divisor = scale.clamp_min(std::numeric_limits<float>::min());
  return sign_levels(w / divisor, bits).mul_(scale);
}

at::Tensor magnitude_scale(const at::Tensor& w, int bits) {
  return bits == 1 ? channel_mean(w.abs()) : channel_peak(w);
}

Standardized standardize(const at::Tensor& w, double epsilon) {
  const at::Tensor mean = channel_mean(w);
  const at::Tensor centred = w - mean;
  const double degrees = static_cast<double>(std::max<std::int64_t>(channel_size(w) - 1, 1));
  const at::Tensor deviation = channel_sum(centred * centred).div_(degrees).sqrt_();
  const double unit = w.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon()
                                                     : std::numeric_limits<float>::epsilon();
  // Written so that NaN counts as spread, and stays.
  const at::Tensor equal = deviation.le(mean.abs().mul_(kRoundingUnits * unit));
  const at::Tensor spread = equal.logical_not().to(w.scalar_type());
  const at::Tensor divisor =
      at::where(equal, at::ones_like(deviation), (deviation * deviation).add_(epsilon).sqrt_());
  return {(centred / divisor).mul_(spread), divisor, spread};
}

at::Tensor standardize_gradient(const Standardized& standardized, const at::Tensor& h) {
  const at::Tensor& z = standardized.z;
  const double degrees = static_cast<double>(std::max<std::int64_t>(channel_size(z) - 1, 1));
  const at::Tensor along = channel_sum(h * z).div_(degrees);
  return (h - channel_mean(h)).sub_(z * along).div_(standardized.deviation);
}

}  // namespace bitrung::train
