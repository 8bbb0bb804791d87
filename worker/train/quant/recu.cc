#include "worker/train/quant/recu.h"

#include <cmath>
#include <numbers>

#include "worker/train/quant/levels.h"
#include "worker/train/quant/sign_levels.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr double kTauFirst = 0.85;
constexpr double kTauLast = 0.99;
constexpr double kEpsilon = 1e-5;
constexpr double kStretch = 2.0 * std::numbers::sqrt2;

double tau_at(double progress) {
  return kTauFirst + (kTauLast - kTauFirst) * std::expm1(progress) / (std::numbers::e - 1.0);
}

// What the weights become before they are quantized.
struct Clamped {
  Standardized standardized;
  at::Tensor bound;  // (), of |z|: Q without the stretch.
  at::Tensor v;      // (C,...)
  at::Tensor scale;  // (C,1,...): 1 or, at more than 1 bit, m; 0 for a channel without spread.
};

// tau: (), on the host or beside w.
Clamped clamp_weights(const at::Tensor& w, int bits, const at::Tensor& tau) {
  Clamped result;
  result.standardized = standardize(w, kEpsilon);
  const at::Tensor& z = result.standardized.z;
  const at::Tensor quantile = tau.to(w.device(), w.scalar_type()).mul(-2).add_(2).log_().neg_();
  result.bound = z.abs().mean() * quantile;
  result.v = at::min(at::max(z, -result.bound), result.bound).mul_(kStretch);
  result.scale = bits == 1 ? result.standardized.spread : channel_peak(result.v);
  return result;
}

class WeightFunction : public Function<WeightFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& w, std::int64_t bits,
                            const at::Tensor& tau) {
    const Clamped clamped = clamp_weights(w, static_cast<int>(bits), tau);
    context->save_for_backward({clamped.standardized.z, clamped.standardized.deviation,
                                clamped.standardized.spread, clamped.bound});
    return scaled_sign_levels(clamped.v, clamped.scale, static_cast<int>(bits));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const Standardized standardized{saved[0], saved[1], saved[2]};
    const at::Tensor h = (gradients[0] * standardized.z.abs().le(saved[3])).mul_(kStretch);
    return {standardize_gradient(standardized, h), at::Tensor(), at::Tensor()};
  }
};

class RecuWeights : public WeightQuantizer {
 public:
  explicit RecuWeights(const QuantizerSite& site) : bits_(site.bits) {
    if (bits_ != kFullPrecisionBits) {
      output_scale_ = at::ones({site.channels}, site.tensors).set_requires_grad(true);
      tau_ = at::full({}, kTauFirst, site.tensors);
    }
  }

  std::vector<LearnedTensor> parameters() const override {
    if (bits_ == kFullPrecisionBits) {
      return {};
    }
    return {{.name = "output_scale", .tensor = output_scale_, .weight_decay = std::nullopt}};
  }

  std::vector<NamedTensor> buffers() const override {
    if (bits_ == kFullPrecisionBits) {
      return {};
    }
    return {{"tau", tau_}};
  }

  at::Tensor quantize(const at::Tensor& w, const Pass& pass) override {
    if (bits_ == kFullPrecisionBits) {
      return w;
    }
    if (pass.training) {
      tau_.fill_(tau_at(pass.progress));
    }
    return WeightFunction::apply(w, std::int64_t{bits_}, tau_);
  }

  std::optional<Grid> grid(const at::Tensor& w) override {
    if (bits_ == kFullPrecisionBits) {
      return std::nullopt;
    }
    const at::NoGradGuard no_grad;
    return sign_grid(clamp_weights(w, bits_, tau_).scale, bits_);
  }

  at::Tensor scale_output(const at::Tensor& y) override {
    if (bits_ == kFullPrecisionBits) {
      return y;
    }
    return y * (y.dim() == 4 ? output_scale_.view({1, -1, 1, 1}) : output_scale_);
  }

 private:
  int bits_;
  at::Tensor output_scale_;  // (C)
  at::Tensor tau_;           // ()
};

// The values of each sample in one row, in any order: a view where x is dense.
at::Tensor sample_rows(const at::Tensor& x) {
  const bool is_channels_last =
      x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast) && !x.is_contiguous();
  return (is_channels_last ? x.permute({0, 2, 3, 1}) : x).reshape({x.size(0), -1});
}

// (N) as (N,1,...).
at::Tensor for_samples_of(const at::Tensor& x, const at::Tensor& values) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  shape[0] = x.size(0);
  return values.view(shape);
}

double degrees_of_freedom(const at::Tensor& x) {
  return static_cast<double>(std::max<std::int64_t>(channel_size(x) - 1, 1));
}

// x over the deviation of its sample.
class DeviationFunction : public Function<DeviationFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x) {
    const at::Tensor rows = sample_rows(x);
    const at::Tensor mean = rows.mean(1, /*keepdim=*/true);  // (N,1)
    const at::Tensor squares = at::norm(rows - mean, 2, 1).pow_(2);
    const at::Tensor deviation = squares.div_(degrees_of_freedom(x)).add_(kEpsilon).sqrt_();  // (N)
    const at::Tensor y = x / for_samples_of(x, deviation);
    context->save_for_backward({y, mean.squeeze(1), deviation});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& y = saved[0];
    const at::Tensor& h = gradients[0];
    const at::Tensor& deviation = saved[2];
    // d deviation / dx = (x - mean) / (degrees deviation), and x = y deviation.
    const at::Tensor along = sample_rows(h * y).sum(1).div_(degrees_of_freedom(y));  // (N)
    const at::Tensor from_mean = (along * saved[1] / deviation).div_(deviation);
    at::Tensor dx = h - y * for_samples_of(y, along);
    return {dx.div_(for_samples_of(y, deviation)).add_(for_samples_of(y, from_mean))};
  }
};

class RecuActivations : public ActivationQuantizer {
 public:
  explicit RecuActivations(int bits) : bits_(bits) {}

  bool takes_relu() const override { return bits_ == kFullPrecisionBits; }

  at::Tensor quantize(const at::Tensor& x, const Pass&) override {
    if (bits_ == kFullPrecisionBits) {
      return x;
    }
    if (bits_ == 1 && !(x.requires_grad() && at::GradMode::is_enabled())) {
      return sign_levels(x, bits_);  // The deviation does not change a sign.
    }
    return quantize_signs(DeviationFunction::apply(x), bits_,
                          surrogate_for(bits_, {.shape = Surrogate::Shape::kTriangle}));
  }

  std::optional<Grid> grid() override {
    if (bits_ == kFullPrecisionBits) {
      return std::nullopt;
    }
    return sign_grid(scalar_tensor(1.0), bits_);
  }

 private:
  int bits_;
};

}  // namespace

MethodEntry recu_method() {
  return {"recu",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<RecuWeights>(site);
          },
          [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
            return std::make_unique<RecuActivations>(site.bits);
          }};
}

}  // namespace bitrung::train
