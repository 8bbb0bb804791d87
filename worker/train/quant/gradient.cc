#include "worker/train/quant/gradient.h"

#include <algorithm>
#include <cmath>

#include "worker/train/quant/levels.h"
#include "worker/train/random.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15U;

// Uniform in [-1/2, 1/2), for the element at this place of the row-major order.
double noise_at(std::uint64_t key, std::int64_t place) {
  const std::uint64_t word = mix_bits(key + (static_cast<std::uint64_t>(place) + 1) * kGolden);
  return static_cast<double>(word >> 11) * 0x1.0p-53 - 0.5;
}

// Rounds to the nearest integer, ties to even, below 2^51. Without a call of the library.
double rounded(double value) {
  constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
  return (value + kShift) - kShift;
}

// One sample of g, row-major or (places, channels) with the row-major place of (p, c) at c * places
// + p.
template <typename Real>
void quantize_sample(const Real* g, std::int64_t places, std::int64_t channels, std::int64_t first,
                     std::uint64_t key, double levels, Real* result) {
  double peak = 0.0;
  for (std::int64_t i = 0; i < places * channels; ++i) {
    peak = std::max(peak, std::abs(static_cast<double>(g[i])));
  }
  const double factor = peak > 0.0 ? levels / (2.0 * peak) : 0.0;
  const double step = 2.0 * peak / levels;
  const double middle = levels / 2.0;
  for (std::int64_t p = 0; p < places; ++p) {
    for (std::int64_t c = 0; c < channels; ++c, ++g, ++result) {
      const double v =
          static_cast<double>(*g) * factor + middle + noise_at(key, first + c * places + p);
      const double raised = v < 0.0 ? 0.0 : v;
      const double clamped = raised > levels ? levels : raised;
      *result = static_cast<Real>(peak == 0.0 ? static_cast<double>(*g)  // Zeros, or NaN.
                                              : (rounded(clamped) - middle) * step);
    }
  }
}

template <typename Real>
at::Tensor quantize_by_loops(const at::Tensor& given, std::uint64_t key, double levels) {
  const bool by_pixel = !given.is_contiguous() && given.dim() == 4 &&
                        given.is_contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor g = by_pixel ? given : given.contiguous();
  at::Tensor result = at::empty_like(g);
  const std::int64_t samples = g.size(0);
  const std::int64_t features = samples == 0 ? 0 : g.numel() / samples;
  const std::int64_t channels = by_pixel ? g.size(1) : 1;
  const Real* const in = g.data_ptr<Real>();
  Real* const out = result.data_ptr<Real>();
  at::parallel_for(0, samples, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t sample = begin; sample < end; ++sample) {
      const std::int64_t first = sample * features;
      quantize_sample(in + first, channels == 0 ? 0 : features / channels, channels, first, key,
                      levels, out + first);
    }
  });
  return result;
}

// The noise of noise_at() for places 0 … count - 1. 64-bit integers wrap round as unsigned ones
// do; their shift to the right is arithmetic, hence the masks.
at::Tensor noise_by_operations(std::uint64_t key, std::int64_t count, at::Device device) {
  const auto word = [](std::uint64_t value) {
    return at::Scalar(static_cast<std::int64_t>(value));
  };
  at::Tensor z = at::arange(1, count + 1, at::TensorOptions().dtype(at::kLong).device(device));
  z.mul_(word(kGolden)).add_(word(key));
  const auto shifted = [&z, &word](int bits) {
    return at::bitwise_right_shift(z, bits).bitwise_and_(word(~std::uint64_t{0} >> bits));
  };
  z = z.bitwise_xor(shifted(30)).mul_(word(0xbf58476d1ce4e5b9U));
  z = z.bitwise_xor(shifted(27)).mul_(word(0x94d049bb133111ebU));
  z = z.bitwise_xor(shifted(31));
  return shifted(11).to(at::kDouble).mul_(0x1.0p-53).sub_(0.5);
}

at::Tensor quantize_by_operations(const at::Tensor& g, std::uint64_t key, double levels) {
  const at::Tensor rows = g.reshape({g.size(0), -1}).to(at::kDouble);
  const at::Tensor peak = rows.abs().amax(1, /*keepdim=*/true);
  const at::Tensor divisor = peak + peak.eq(0);
  const at::Tensor noise = noise_by_operations(key, rows.numel(), g.device()).view_as(rows);
  return (rows * (levels / (2.0 * divisor)) + levels / 2.0)
      .add_(noise)
      .clamp_(0.0, levels)
      .round_()
      .sub_(levels / 2.0)
      .mul_(2.0 * peak / levels)
      .reshape(g.sizes())
      .to(g.scalar_type());
}

class GradientFunction : public Function<GradientFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y, std::int64_t bits,
                            std::int64_t key) {
    context->saved_data["bits"] = bits;
    context->saved_data["key"] = key;
    return y.view_as(y);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto key = static_cast<std::uint64_t>(context->saved_data["key"].toInt());
    const int bits = static_cast<int>(context->saved_data["bits"].toInt());
    return {quantized_gradient(gradients[0], bits, key), at::Tensor(), at::Tensor()};
  }

 private:
  static at::Tensor quantized_gradient(const at::Tensor& g, int bits, std::uint64_t key) {
    const double levels = level_count(bits);
    if (g.device().is_cpu() && g.scalar_type() == at::kFloat) {
      return quantize_by_loops<float>(g, key, levels);
    }
    if (g.device().is_cpu() && g.scalar_type() == at::kDouble) {
      return quantize_by_loops<double>(g, key, levels);
    }
    return quantize_by_operations(g, key, levels);
  }
};

}  // namespace

at::Tensor quantize_gradient(const at::Tensor& y, int bits, const Pass& pass,
                             std::string_view layer) {
  if (bits == kFullPrecisionBits) {
    return y;
  }
  RandomStream stream(Purpose::kGradientNoise,
                      {pass.seed, static_cast<std::uint64_t>(pass.step), hash_of(layer)});
  return GradientFunction::apply(y, std::int64_t{bits}, static_cast<std::int64_t>(stream.next()));
}

}  // namespace bitrung::train
