#include "worker/train/quant/apot.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "db/base/check.h"
#include "worker/train/quant/state.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr double kClipMin = 1e-4;
constexpr double kFirstWeightClip = 3.0;
constexpr double kFirstActivationClip = 8.0;
constexpr double kWeightRateFactor = 0.2;
constexpr double kClipDecay = 1e-4;

// Values that one thread quantizes before it looks for more.
constexpr std::int64_t kValuesPerBlock = 16384;

// Nearest magnitudes. All of them and so the midpoints between them are integers once multiplied
// by `cells`; up to 8 bits a table over the integers answers at once, for more a search does.
class Magnitudes {
 public:
  explicit Magnitudes(int bits);

  const std::vector<double>& values() const { return values_; }

  // u in [0, 1]; NaN stays NaN.
  template <typename Real>
  Real nearest(Real u) const {
    if (std::isnan(u)) {
      return u;
    }
    if (!table_.empty()) {
      // The cell (i - 1, i] has one nearest magnitude, hence the ceiling. Nothing here branches on
      // u, which is random.
      const Real position = u * static_cast<Real>(cells_);
      const auto below = static_cast<std::int32_t>(position);
      const int is_between = static_cast<Real>(below) < position ? 1 : 0;
      return static_cast<Real>(table_[static_cast<std::size_t>(below + is_between)]);
    }
    const auto above =
        std::lower_bound(midpoints_.begin(), midpoints_.end(), static_cast<double>(u));
    return static_cast<Real>(values_[static_cast<std::size_t>(above - midpoints_.begin())]);
  }

  // The same by LibTorch's operations, for other devices.
  at::Tensor nearest_of(const at::Tensor& u) const {
    const at::Tensor values = at::tensor(values_, at::kDouble).to(u.options());
    const at::Tensor midpoints = at::tensor(midpoints_, at::kDouble).to(u.options());
    return values.index_select(0, at::bucketize(u.contiguous(), midpoints).flatten())
        .reshape(u.sizes());
  }

 private:
  std::vector<double> values_;
  std::vector<double> midpoints_;  // Between a value and the next.
  double cells_ = 0.0;
  std::vector<double> table_;
};

// The smallest exponent e of the terms 2^-e.
int smallest_exponent(int bits) {
  const int m = bits / 2;
  return bits % 2 == 0 ? 3 * m : 3 * m + 1;
}

// Not yet divided by the largest.
std::vector<double> sums_of_powers(int bits) {
  const int m = bits / 2;
  const int odd = bits % 2;
  std::vector<double> sums = {0.0};
  const auto add_set = [&sums](const std::vector<int>& exponents) {
    const std::size_t count = sums.size();
    for (const int exponent : exponents) {
      for (std::size_t i = 0; i < count; ++i) {
        sums.push_back(sums[i] + std::ldexp(1.0, -exponent));
      }
    }
  };
  for (int j = 1; j <= m; ++j) {
    add_set({j, j + m, j + 2 * m + odd});
  }
  if (odd == 1) {
    add_set({2 * m + 1});
  }
  std::sort(sums.begin(), sums.end());
  return sums;
}

Magnitudes::Magnitudes(int bits) : values_(apot_magnitudes(bits)) {
  for (std::size_t i = 0; i + 1 < values_.size(); ++i) {
    midpoints_.push_back((values_[i] + values_[i + 1]) / 2.0);
  }
  if (bits > 8) {
    return;
  }
  // Twice the common denominator, for the midpoints.
  cells_ = sums_of_powers(bits).back() * std::ldexp(2.0, smallest_exponent(bits));
  const auto last = static_cast<std::size_t>(cells_);
  for (std::size_t i = 0, level = 0; i <= last; ++i) {
    while (level < midpoints_.size() &&
           static_cast<double>(i) > midpoints_[level] * cells_ + 0.25) {
      ++level;
    }
    table_.push_back(values_[level]);
  }
}

enum class Sides : std::uint8_t { kOne, kBoth };  // Activations, weights.

// The level of u = x / a.
template <Sides kSides, typename Real>
Real level_of(const Magnitudes& magnitudes, Real u) {
  if constexpr (kSides == Sides::kOne) {
    return magnitudes.nearest(u < Real{0} ? Real{0} : (u > Real{1} ? Real{1} : u));
  }
  const Real size = std::abs(u);
  return std::copysign(magnitudes.nearest(size > Real{1} ? Real{1} : size), u);
}

// The derivative of y by a, given level_of(u). Beyond the last level it is the sign, which is q.
template <Sides kSides, typename Real>
Real slope_of(Real u, Real q) {
  const bool is_beyond = kSides == Sides::kOne ? u > Real{1} : std::abs(u) > Real{1};
  return is_beyond ? q : q - u;
}

template <Sides kSides, typename Real>
void write_levels(const at::Tensor& x, Real a, const Magnitudes& magnitudes, at::Tensor& y) {
  const Real* const in = x.data_ptr<Real>();
  Real* const out = y.data_ptr<Real>();
  at::parallel_for(0, x.numel(), kValuesPerBlock, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      out[i] = level_of<kSides>(magnitudes, in[i] / a) * a;
    }
  });
}

// Gives da; writes dx, which may be undefined, for one-sided levels.
template <Sides kSides, typename Real>
double write_gradients(const at::Tensor& x, const at::Tensor& g, Real a,
                       const Magnitudes& magnitudes, at::Tensor& dx) {
  const Real* const in = x.data_ptr<Real>();
  const Real* const above = g.data_ptr<Real>();
  Real* const out = dx.defined() ? dx.data_ptr<Real>() : nullptr;
  const std::int64_t count = x.numel();
  const std::int64_t blocks = (count + kValuesPerBlock - 1) / kValuesPerBlock;
  // Added in order, so that the sum does not depend on the number of threads.
  std::vector<double> sums(static_cast<std::size_t>(blocks), 0.0);
  at::parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      double sum = 0.0;
      const std::int64_t last = std::min(count, (block + 1) * kValuesPerBlock);
      for (std::int64_t i = block * kValuesPerBlock; i < last; ++i) {
        const Real u = in[i] / a;
        const Real q = level_of<kSides>(magnitudes, u);
        sum += static_cast<double>(above[i]) * static_cast<double>(slope_of<kSides>(u, q));
        if (out != nullptr) {
          out[i] = u > Real{1} ? Real{0} : above[i];
        }
      }
      sums[static_cast<std::size_t>(block)] = sum;
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

bool has_loops(const at::Tensor& x) {
  return x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble);
}

at::Tensor levels_by_operations(const at::Tensor& u, const Magnitudes& magnitudes, Sides sides) {
  return sides == Sides::kOne ? magnitudes.nearest_of(u.clamp(0, 1))
                              : magnitudes.nearest_of(u.abs().clamp_max(1)).mul_(u.sign());
}

// So that the magnitudes live as long as a backward pass may ask for them.
struct HeldMagnitudes : torch::CustomClassHolder {
  explicit HeldMagnitudes(std::shared_ptr<const Magnitudes> held) : magnitudes(std::move(held)) {}
  std::shared_ptr<const Magnitudes> magnitudes;
};

template <Sides kSides>
class ApotFunction : public Function<ApotFunction<kSides>> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& given,
                            const at::Tensor& clip,
                            const std::shared_ptr<const Magnitudes>& magnitudes) {
    const at::Tensor x = given.is_non_overlapping_and_dense() ? given : given.contiguous();
    const at::Tensor a = clip.detach().clamp_min(kClipMin);
    context->save_for_backward({x, a});
    context->saved_data["magnitudes"] =
        c10::IValue::make_capsule(c10::make_intrusive<HeldMagnitudes>(magnitudes));
    if (!has_loops(x)) {
      return levels_by_operations(x / a, *magnitudes, kSides) * a;
    }
    at::Tensor y = at::empty_like(x);
    if (x.scalar_type() == at::kFloat) {
      write_levels<kSides>(x, a.item<float>(), *magnitudes, y);
    } else {
      write_levels<kSides>(x, a.item<double>(), *magnitudes, y);
    }
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& a = saved[1];
    const auto held = context->saved_data["magnitudes"].toCapsule();
    const Magnitudes& magnitudes = *static_cast<const HeldMagnitudes&>(*held).magnitudes;
    if (!has_loops(x)) {
      return backward_by_operations(x, a, gradients[0], magnitudes);
    }
    const at::Tensor g = gradients[0].strides() == x.strides()
                             ? gradients[0]
                             : at::empty_like(x).copy_(gradients[0]);
    at::Tensor dx = kSides == Sides::kOne ? at::empty_like(x) : at::Tensor();
    const double da = x.scalar_type() == at::kFloat
                          ? write_gradients<kSides>(x, g, a.item<float>(), magnitudes, dx)
                          : write_gradients<kSides>(x, g, a.item<double>(), magnitudes, dx);
    return {dx.defined() ? dx : g, at::full({}, da, a.options()), at::Tensor()};
  }

 private:
  static variable_list backward_by_operations(const at::Tensor& x, const at::Tensor& a,
                                              const at::Tensor& g, const Magnitudes& magnitudes) {
    const at::Tensor u = x / a;
    const at::Tensor is_beyond = kSides == Sides::kOne ? u.gt(1) : u.abs().gt(1);
    const at::Tensor slope =
        levels_by_operations(u, magnitudes, kSides) - u.masked_fill(is_beyond, 0);
    const at::Tensor da = at::sum(g * slope, at::kDouble).to(a.scalar_type());
    return {kSides == Sides::kOne ? g.masked_fill(is_beyond, 0) : g, da, at::Tensor()};
  }
};

Grid clip_grid(const at::Tensor& clip, std::vector<double> codebook) {
  return Grid{clip.detach().to(at::kDouble).clamp_min(kClipMin), at::Tensor(), std::move(codebook)};
}

class ApotWeights : public WeightQuantizer {
 public:
  explicit ApotWeights(const QuantizerSite& site)
      : magnitudes_(std::make_shared<Magnitudes>(site.bits - 1)),
        clip_(make_learned(site, kFirstWeightClip)) {}

  at::Tensor quantize(const at::Tensor& w, const Pass&) override {
    at::Tensor mean;
    at::Tensor deviation;
    {
      const at::NoGradGuard no_grad;
      mean = w.mean();
      deviation = w.numel() > 1 ? w.std(/*unbiased=*/true) : at::zeros_like(mean);
      deviation = deviation + deviation.eq(0);
    }
    return ApotFunction<Sides::kBoth>::apply((w - mean) / deviation, clip_, magnitudes_);
  }

  std::optional<Grid> grid(const at::Tensor&) override {
    const std::vector<double>& positive = magnitudes_->values();
    std::vector<double> codebook;
    for (std::size_t i = positive.size() - 1; i > 0; --i) {
      codebook.push_back(-positive[i]);
    }
    codebook.insert(codebook.end(), positive.begin(), positive.end());
    return clip_grid(clip_, std::move(codebook));
  }

  std::vector<LearnedTensor> parameters() const override {
    return {{"clip", clip_, kWeightRateFactor, kClipDecay}};
  }

 private:
  std::shared_ptr<const Magnitudes> magnitudes_;
  at::Tensor clip_;  // ()
};

class ApotActivations : public ActivationQuantizer {
 public:
  explicit ApotActivations(const QuantizerSite& site)
      : magnitudes_(std::make_shared<Magnitudes>(site.bits)),
        clip_(make_learned(site, kFirstActivationClip)) {}

  at::Tensor quantize(const at::Tensor& x, const Pass&) override {
    return ApotFunction<Sides::kOne>::apply(x, clip_, magnitudes_);
  }

  std::optional<Grid> grid() override { return clip_grid(clip_, magnitudes_->values()); }

  std::vector<LearnedTensor> parameters() const override {
    return {{"clip", clip_, 1.0, kClipDecay}};
  }

 private:
  std::shared_ptr<const Magnitudes> magnitudes_;
  at::Tensor clip_;  // ()
};

}  // namespace

std::vector<double> apot_magnitudes(int bits) {
  BITRUNG_CHECK(bits >= 1 && bits <= 16);
  std::vector<double> values = sums_of_powers(bits);
  const double largest = values.back();
  for (double& value : values) {
    value /= largest;
  }
  return values;
}

MethodEntry apot_method() {
  return {"apot",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<ApotWeights>(site);
          },
          [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
            return std::make_unique<ApotActivations>(site);
          }};
}

}  // namespace bitrung::train
