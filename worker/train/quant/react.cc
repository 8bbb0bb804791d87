#include "worker/train/quant/react.h"

#include <algorithm>

#include "worker/train/quant/levels.h"
#include "worker/train/quant/sign_kernels.h"
#include "worker/train/quant/sign_levels.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr double kSlopeFirst = 0.25;

class WeightFunction : public Function<WeightFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& w, std::int64_t bits) {
    context->saved_data["bits"] = bits;
    context->save_for_backward({w});
    return scaled_sign_levels(w, magnitude_scale(w, static_cast<int>(bits)),
                              static_cast<int>(bits));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    if (context->saved_data["bits"].toInt() != 1) {
      return {gradients[0], at::Tensor()};  // No weight lies outside the levels.
    }
    return {surrogate_gradient(context->get_saved_variables()[0], gradients[0], Surrogate{}),
            at::Tensor()};
  }
};

// (C) as channels of x, (N,C,H,W) or (N,C).
at::Tensor for_channels_of(const at::Tensor& x, const at::Tensor& values) {
  return x.dim() == 4 ? values.view({1, -1, 1, 1}) : values;
}

// Sums over all but the channels of x, (C).
at::Tensor sum_of_channels(const at::Tensor& x) {
  return x.dim() == 4 ? x.sum({0, 2, 3}) : x.sum(0);
}

// Whether x is rows of its channels: what the loops go over.
bool has_channel_rows(const at::Tensor& x) {
  return is_dense_float(x) &&
         (x.dim() == 2 ? x.is_contiguous()
                       : x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast));
}

// Rows whose sums are made by one thread. Sums of blocks are added in order, so that results do not
// depend on the number of threads.
constexpr std::int64_t kRowsPerBlock = 2048;

// body(first value, rows) for blocks of the rows of x.
template <typename Body>
void for_row_blocks(const at::Tensor& x, const Body& body) {
  const std::int64_t channels = x.size(1);
  at::parallel_for(
      0, x.numel() / channels, kRowsPerBlock,
      [&](std::int64_t begin, std::int64_t end) { body(begin * channels, end - begin); });
}

// The same, with `kinds` sums for each channel, to which body(first value, rows, sums) adds. The
// result is (kinds,C), of the type of x.
template <typename Body>
at::Tensor sums_of_row_blocks(const at::Tensor& x, std::int64_t kinds, const Body& body) {
  const std::int64_t channels = x.size(1);
  const std::int64_t rows = x.numel() / channels;
  const std::int64_t blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  const at::Tensor sums = at::zeros({blocks, kinds, channels}, at::kDouble);
  double* const data = sums.data_ptr<double>();
  at::parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kRowsPerBlock;
      body(first * channels, std::min(kRowsPerBlock, rows - first),
           data + block * kinds * channels);
    }
  });
  at::Tensor total = sums[0].clone();
  for (std::int64_t block = 1; block < blocks; ++block) {
    total.add_(sums[block]);
  }
  return total.to(x.scalar_type());
}

// q_k(x - threshold).
class ActivationFunction : public Function<ActivationFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& threshold, std::int64_t bits) {
    context->saved_data["bits"] = bits;
    context->save_for_backward({x, threshold});
    if (!has_channel_rows(x)) {
      return sign_levels(x - for_channels_of(x, threshold), static_cast<int>(bits));
    }
    at::Tensor y = at::empty_like(x);
    const float* const from = x.data_ptr<float>();
    float* const to = y.data_ptr<float>();
    const auto levels = static_cast<float>(level_count(static_cast<int>(bits)));
    for_row_blocks(x, [&](std::int64_t first, std::int64_t rows) {
      write_shifted_levels(from + first, rows, x.size(1), threshold.data_ptr<float>(), levels,
                           to + first);
    });
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& threshold = saved[1];
    const at::Tensor& g = gradients[0];
    const Surrogate surrogate = surrogate_for(static_cast<int>(context->saved_data["bits"].toInt()),
                                              {.shape = Surrogate::Shape::kTriangle});
    if (!has_channel_rows(x) || !are_dense_floats(x, g)) {
      const at::Tensor dx = surrogate_gradient(x - for_channels_of(x, threshold), g, surrogate);
      return {dx, sum_of_channels(dx).neg_(), at::Tensor()};
    }
    at::Tensor dx = at::empty_like(x);
    const float* const values = x.data_ptr<float>();
    const float* const above = g.data_ptr<float>();
    float* const to = dx.data_ptr<float>();
    at::Tensor sums =
        sums_of_row_blocks(x, 1, [&](std::int64_t first, std::int64_t rows, double* sum) {
          write_shifted_gradients(values + first, above + first, rows, x.size(1),
                                  threshold.data_ptr<float>(),
                                  surrogate.shape == Surrogate::Shape::kTriangle, to + first, sum);
        });
    return {dx, sums[0].neg_(), at::Tensor()};
  }
};

// u for u = y - shift_in above 0, else slope u; plus shift_out.
class ShiftedPreluFunction : public Function<ShiftedPreluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y,
                            const at::Tensor& shift_in, const at::Tensor& slope,
                            const at::Tensor& shift_out) {
    context->save_for_backward({y, shift_in, slope});
    if (!has_channel_rows(y)) {
      const at::Tensor u = y - for_channels_of(y, shift_in);
      return at::where(u.gt(0), u, u * for_channels_of(u, slope))
          .add_(for_channels_of(u, shift_out));
    }
    at::Tensor z = at::empty_like(y);
    const float* const from = y.data_ptr<float>();
    float* const to = z.data_ptr<float>();
    const ShiftedPrelu prelu{shift_in.data_ptr<float>(), slope.data_ptr<float>(),
                             shift_out.data_ptr<float>()};
    for_row_blocks(y, [&](std::int64_t first, std::int64_t rows) {
      write_shifted_prelu(from + first, rows, y.size(1), prelu, to + first);
    });
    return z;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& y = saved[0];
    const at::Tensor& shift_in = saved[1];
    const at::Tensor& slope = saved[2];
    const at::Tensor& g = gradients[0];
    if (!has_channel_rows(y) || !are_dense_floats(y, g)) {
      const at::Tensor u = y - for_channels_of(y, shift_in);
      const at::Tensor dy = at::where(u.gt(0), g, g * for_channels_of(u, slope));
      return {dy, sum_of_channels(dy).neg_(), sum_of_channels(u.clamp_max(0).mul_(g)),
              sum_of_channels(g)};
    }
    at::Tensor dy = at::empty_like(y);
    const float* const values = y.data_ptr<float>();
    const float* const above = g.data_ptr<float>();
    float* const to = dy.data_ptr<float>();
    const ShiftedPrelu prelu{shift_in.data_ptr<float>(), slope.data_ptr<float>(), nullptr};
    at::Tensor sums =
        sums_of_row_blocks(y, 3, [&](std::int64_t first, std::int64_t rows, double* sum) {
          write_shifted_prelu_gradients(values + first, above + first, rows, y.size(1), prelu,
                                        to + first, sum);
        });
    return {dy, sums[0].neg(), sums[1], sums[2]};
  }
};

class ReactActivations : public SignActivations {
 public:
  explicit ReactActivations(const QuantizerSite& site) : SignActivations(site.bits) {
    threshold_ = at::zeros({site.channels}, site.tensors).set_requires_grad(true);
    if (site.out_channels > 0) {
      shift_in_ = at::zeros({site.out_channels}, site.tensors).set_requires_grad(true);
      slope_ = at::full({site.out_channels}, kSlopeFirst, site.tensors).set_requires_grad(true);
      shift_out_ = at::zeros({site.out_channels}, site.tensors).set_requires_grad(true);
    }
  }

  std::vector<LearnedTensor> parameters() const override {
    std::vector<LearnedTensor> learned;
    const auto add = [&learned](const char* name, const at::Tensor& tensor) {
      if (tensor.defined()) {
        learned.push_back({.name = name, .tensor = tensor, .weight_decay = 0.0});
      }
    };
    add("threshold", threshold_);
    add("prelu_shift_in", shift_in_);
    add("prelu_slope", slope_);
    add("prelu_shift_out", shift_out_);
    return learned;
  }

  at::Tensor quantize(const at::Tensor& x, const Pass&) override {
    return ActivationFunction::apply(x, threshold_, std::int64_t{bits()});
  }

  at::Tensor after_sum(const at::Tensor& y) override {
    return slope_.defined() ? ShiftedPreluFunction::apply(y, shift_in_, slope_, shift_out_) : y;
  }

 private:
  at::Tensor threshold_;  // (C)
  at::Tensor shift_in_;   // (out_channels), as are the next two.
  at::Tensor slope_;
  at::Tensor shift_out_;
};

}  // namespace

MethodEntry react_method() {
  return {"react",
          [](const QuantizerSite& site) -> std::unique_ptr<WeightQuantizer> {
            return std::make_unique<MagnitudeSignWeights<WeightFunction>>(site.bits);
          },
          [](const QuantizerSite& site) -> std::unique_ptr<ActivationQuantizer> {
            return std::make_unique<ReactActivations>(site);
          }};
}

}  // namespace bitrung::train
