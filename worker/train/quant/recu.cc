#include "worker/train/quant/recu.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "worker/train/quant/levels.h"
#include "worker/train/quant/sign_kernels.h"
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
    output_scale_ = at::ones({site.channels}, site.tensors).set_requires_grad(true);
    tau_ = at::full({}, kTauFirst, site.tensors);
  }

  std::vector<LearnedTensor> parameters() const override {
    return {{.name = "output_scale", .tensor = output_scale_, .weight_decay = std::nullopt}};
  }

  std::vector<NamedTensor> buffers() const override { return {{"tau", tau_}}; }

  at::Tensor quantize(const at::Tensor& w, const Pass& pass) override {
    if (pass.training) {
      tau_.fill_(tau_at(pass.progress));
    }
    return WeightFunction::apply(w, std::int64_t{bits_}, tau_);
  }

  std::optional<Grid> grid(const at::Tensor& w) override {
    const at::NoGradGuard no_grad;
    return sign_grid(clamp_weights(w, bits_, tau_).scale, bits_);
  }

  bool follows_training() const override { return true; }

  bool scales_output() const override { return true; }

  at::Tensor scale_output(const at::Tensor& y) override {
    return y * (y.dim() == 4 ? output_scale_.view({1, -1, 1, 1}) : output_scale_);
  }

 private:
  int bits_;
  at::Tensor output_scale_;  // (C)
  at::Tensor tau_;           // ()
};

// (N) as (N,1,...).
at::Tensor for_samples_of(const at::Tensor& x, const at::Tensor& values) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  shape[0] = x.size(0);
  return values.view(shape);
}

double degrees_of_freedom(const at::Tensor& x) {
  return static_cast<double>(std::max<std::int64_t>(channel_size(x) - 1, 1));
}

// Whether each sample's values lie together, in any order.
bool has_dense_samples(const at::Tensor& x) {
  return is_dense_float(x) &&
         (x.is_contiguous() || (x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast)));
}

// body(sample, first value) for each sample of x.
template <typename Body>
void for_samples(const at::Tensor& x, const Body& body) {
  const std::int64_t size = channel_size(x);
  at::parallel_for(0, x.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t sample = begin; sample < end; ++sample) {
      body(sample, sample * size);
    }
  });
}

// q_k of x over the deviation of its sample. Saved are x and the samples' means and deviations, in
// double.
class ActivationFunction : public Function<ActivationFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, std::int64_t bits) {
    const double degrees = degrees_of_freedom(x);
    context->saved_data["bits"] = bits;
    if (has_dense_samples(x)) {
      at::Tensor y = at::empty_like(x);
      at::Tensor moments = at::empty({2, x.size(0)}, at::kDouble);
      const float* const from = x.data_ptr<float>();
      float* const to = y.data_ptr<float>();
      double* const means = moments.data_ptr<double>();
      double* const deviations = means + x.size(0);
      const std::int64_t size = channel_size(x);
      const auto levels = static_cast<float>(level_count(static_cast<int>(bits)));
      for_samples(x, [&](std::int64_t sample, std::int64_t first) {
        const Moments found = moments_of(from + first, size);
        means[sample] = found.mean;
        deviations[sample] = std::sqrt(found.sum_of_squares / degrees + kEpsilon);
        write_scaled_levels(from + first, size, static_cast<float>(1.0 / deviations[sample]),
                            levels, to + first);
      });
      context->save_for_backward({x, moments});
      return y;
    }
    const at::Tensor values = x.reshape({x.size(0), -1}).to(at::kDouble);
    const at::Tensor mean = values.mean(1);  // (N)
    const at::Tensor squares = (values - mean.unsqueeze(1)).square_().sum(1);
    const at::Tensor deviation = squares.div_(degrees).add_(kEpsilon).sqrt_();  // (N)
    context->save_for_backward({x, at::stack({mean, deviation})});
    return sign_levels(x / for_samples_of(x, deviation.to(x.scalar_type())),
                       static_cast<int>(bits));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& g = gradients[0];
    const double degrees = degrees_of_freedom(x);
    const Surrogate surrogate = surrogate_for(static_cast<int>(context->saved_data["bits"].toInt()),
                                              {.shape = Surrogate::Shape::kTriangle});
    if (has_dense_samples(x) && are_dense_floats(x, g)) {
      at::Tensor dx = at::empty_like(x);
      const float* const values = x.data_ptr<float>();
      const float* const above = g.data_ptr<float>();
      float* const to = dx.data_ptr<float>();
      const double* const means = saved[1].data_ptr<double>();
      const double* const deviations = means + x.size(0);
      for_samples(x, [&](std::int64_t sample, std::int64_t first) {
        write_scaled_gradients(values + first, above + first, channel_size(x),
                               static_cast<float>(1.0 / deviations[sample]),
                               {.mean = means[sample]}, degrees,
                               surrogate.shape == Surrogate::Shape::kTriangle, to + first);
      });
      return {dx, at::Tensor()};
    }
    const at::Tensor mean = for_samples_of(x, saved[1][0].to(x.scalar_type()));
    const at::Tensor deviation = for_samples_of(x, saved[1][1].to(x.scalar_type()));
    const at::Tensor y = x / deviation;
    const at::Tensor h = surrogate_gradient(y, g, surrogate);
    // d deviation / dx = (x - mean) / (degrees deviation).
    const at::Tensor along =
        for_samples_of(x, (h * y).reshape({x.size(0), -1}).sum(1).div_(degrees)) / deviation;
    return {(h - along * (x - mean)).div_(deviation), at::Tensor()};
  }
};

class RecuActivations : public SignActivations {
 public:
  using SignActivations::SignActivations;

  at::Tensor quantize(const at::Tensor& x, const Pass&) override {
    return ActivationFunction::apply(x, std::int64_t{bits()});
  }
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
