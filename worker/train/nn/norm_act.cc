#include "worker/train/nn/norm_act.h"

#include <cmath>

#include "db/base/check.h"
#include "worker/train/failure.h"
#include "worker/train/nn/norm_kernels.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr double kEpsilon = 1e-5;
constexpr double kMomentum = 0.1;

// Rows whose sums are made by one thread. Sums of blocks are added in order, so that results do not
// depend on the number of threads.
constexpr std::int64_t kRowsPerBlock = 2048;

// Sums two quantities over all rows, block by block. body(first_row, rows, sum, other) adds to C
// doubles each.
template <typename Body>
std::pair<std::vector<double>, std::vector<double>> blockwise_sums(std::int64_t rows,
                                                                   std::int64_t channels,
                                                                   const Body& body) {
  const std::int64_t blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  std::vector<double> partial(static_cast<std::size_t>(blocks * 2 * channels), 0.0);
  at::parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kRowsPerBlock;
      double* const sums = partial.data() + block * 2 * channels;
      body(first, std::min(kRowsPerBlock, rows - first), sums, sums + channels);
    }
  });
  const auto count = static_cast<std::size_t>(channels);
  std::pair<std::vector<double>, std::vector<double>> total{std::vector<double>(count, 0.0),
                                                            std::vector<double>(count, 0.0)};
  for (std::size_t block = 0; block < static_cast<std::size_t>(blocks); ++block) {
    for (std::size_t c = 0; c < count; ++c) {
      total.first[c] += partial[(2 * block) * count + c];
      total.second[c] += partial[(2 * block + 1) * count + c];
    }
  }
  return total;
}

template <typename Body>
void for_row_blocks(std::int64_t rows, const Body& body) {
  at::parallel_for(0, rows, kRowsPerBlock,
                   [&](std::int64_t begin, std::int64_t end) { body(begin, end - begin); });
}

struct Statistics {
  std::vector<float> mean;
  std::vector<float>
      inverse_deviation;  // 1 / sqrt(variance + epsilon), the variance being the biased one.
};

// Batch statistics of x in rows of C floats; updates the running ones.
Statistics batch_statistics(const float* x, std::int64_t rows, std::int64_t channels,
                            BatchNorm& norm) {
  // The first row is as good a guess at the mean as any.
  const std::vector<float> shift(x, x + channels);
  const auto [sum, squares] = blockwise_sums(
      rows, channels, [&](std::int64_t first, std::int64_t count, double* s, double* q) {
        add_shifted_sums(x + first * channels, count, static_cast<int>(channels), shift.data(), s,
                         q);
      });
  for (const double value : sum) {
    if (!std::isfinite(value)) {
      throw Failure(FailureClass::kDiverged,
                    "the input of " + norm.name + " holds NaN or infinite values");
    }
  }
  Statistics result;
  float* const running_mean = norm.running_mean.data_ptr<float>();
  float* const running_var = norm.running_var.data_ptr<float>();
  const auto n = static_cast<double>(rows);
  for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
    const double shifted_mean = sum[c] / n;
    const double mean = static_cast<double>(shift[c]) + shifted_mean;
    const double difference = squares[c] / n - shifted_mean * shifted_mean;
    const double variance = difference < 0.0 ? 0.0 : difference;  // Rounding only; NaN passes.
    result.mean.push_back(static_cast<float>(mean));
    result.inverse_deviation.push_back(static_cast<float>(1.0 / std::sqrt(variance + kEpsilon)));
    running_mean[c] = static_cast<float>((1.0 - kMomentum) * static_cast<double>(running_mean[c]) +
                                         kMomentum * mean);
    running_var[c] = static_cast<float>((1.0 - kMomentum) * static_cast<double>(running_var[c]) +
                                        kMomentum * variance * n / (n - 1.0));
  }
  return result;
}

Statistics running_statistics(const BatchNorm& norm) {
  Statistics result;
  const float* const mean = norm.running_mean.data_ptr<float>();
  const float* const variance = norm.running_var.data_ptr<float>();
  for (std::int64_t c = 0; c < norm.running_mean.numel(); ++c) {
    result.mean.push_back(mean[c]);
    result.inverse_deviation.push_back(
        static_cast<float>(1.0 / std::sqrt(static_cast<double>(variance[c]) + kEpsilon)));
  }
  return result;
}

// The normalisation as scale * x + offset.
struct Affine {
  std::vector<float> scale;
  std::vector<float> offset;
};

Affine affine_of(const Statistics& statistics, const at::Tensor& weight, const at::Tensor& bias) {
  Affine result;
  const float* const w = weight.data_ptr<float>();
  const float* const b = bias.data_ptr<float>();
  for (std::size_t c = 0; c < statistics.mean.size(); ++c) {
    const float scale = w[c] * statistics.inverse_deviation[c];
    result.scale.push_back(scale);
    result.offset.push_back(b[c] - scale * statistics.mean[c]);
  }
  return result;
}

at::Tensor apply_affine(const at::Tensor& x, const Affine& affine, const UnitGrid& grid) {
  at::Tensor y = at::empty_like(x);  // Keeps channels_last.
  const std::int64_t channels = x.size(1);
  const float* const in = x.data_ptr<float>();
  float* const out = y.data_ptr<float>();
  for_row_blocks(x.numel() / channels, [&](std::int64_t first, std::int64_t rows) {
    write_activations(in + first * channels, rows, static_cast<int>(channels), affine.scale.data(),
                      affine.offset.data(), grid, out + first * channels);
  });
  return y;
}

at::Tensor to_tensor(const std::vector<float>& values) {
  at::Tensor result = at::empty({static_cast<std::int64_t>(values.size())}, at::kFloat);
  std::copy(values.begin(), values.end(), result.data_ptr<float>());
  return result;
}

std::vector<float> to_vector(const at::Tensor& tensor) {
  return {tensor.data_ptr<float>(), tensor.data_ptr<float>() + tensor.numel()};
}

Passage passage_of(const UnitGrid& grid) {
  switch (grid.rounding) {
    case UnitGrid::Rounding::kLinear:
      return Passage::kEverywhere;
    case UnitGrid::Rounding::kNone:
      return Passage::kAboveZero;
    case UnitGrid::Rounding::kNearest:
    case UnitGrid::Rounding::kSign:
      return Passage::kUnitInterval;
  }
  BITRUNG_CHECK(!"a rounding without a passage");
}

// Batch normalisation with batch statistics, ReLU and the grid, and the gradient of the three
// together:
//   z = scale x + offset, g = dy where it passes, n rows, h = (x - mean) / deviation
//   dbias = sum g, dweight = sum g h, dx = scale (g - dbias / n - h dweight / n)
class NormActivation : public Function<NormActivation> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias, BatchNorm* norm, UnitGrid grid) {
    const Statistics statistics =
        batch_statistics(x.data_ptr<float>(), x.numel() / x.size(1), x.size(1), *norm);
    context->save_for_backward(
        {x, weight, bias, to_tensor(statistics.mean), to_tensor(statistics.inverse_deviation)});
    context->saved_data["passage"] = static_cast<std::int64_t>(passage_of(grid));
    return apply_affine(x, affine_of(statistics, weight, bias), grid);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor dy = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
    const Statistics statistics{to_vector(saved[3]), to_vector(saved[4])};
    const Affine affine = affine_of(statistics, saved[1], saved[2]);
    const NormForward forward{affine.scale.data(), affine.offset.data(), statistics.mean.data(),
                              static_cast<Passage>(context->saved_data["passage"].toInt())};
    const std::int64_t channels = x.size(1);
    const std::int64_t rows = x.numel() / channels;
    const float* const x_data = x.data_ptr<float>();
    const float* const dy_data = dy.data_ptr<float>();
    const auto [sum, sum_with_x] = blockwise_sums(
        rows, channels, [&](std::int64_t first, std::int64_t count, double* s, double* p) {
          add_gradient_sums(x_data + first * channels, dy_data + first * channels, count,
                            static_cast<int>(channels), forward, s, p);
        });

    std::vector<float> weight_gradient;
    std::vector<float> bias_gradient;
    std::vector<float> slope;
    std::vector<float> constant;
    const auto n = static_cast<double>(rows);
    for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
      const auto inverse = static_cast<double>(statistics.inverse_deviation[c]);
      const auto scale = static_cast<double>(affine.scale[c]);
      weight_gradient.push_back(static_cast<float>(sum_with_x[c] * inverse));
      bias_gradient.push_back(static_cast<float>(sum[c]));
      slope.push_back(static_cast<float>(-scale * sum_with_x[c] * inverse * inverse / n));
      constant.push_back(static_cast<float>(-scale * sum[c] / n));
    }

    at::Tensor dx = at::empty_like(x);
    float* const dx_data = dx.data_ptr<float>();
    for_row_blocks(rows, [&](std::int64_t first, std::int64_t count) {
      write_input_gradients(x_data + first * channels, dy_data + first * channels, count,
                            static_cast<int>(channels), forward, slope.data(), constant.data(),
                            dx_data + first * channels);
    });
    return {dx, to_tensor(weight_gradient), to_tensor(bias_gradient), at::Tensor(), at::Tensor()};
  }
};

bool has_fast_path(const at::Tensor& x, const Pass& pass) {
  return x.device().is_cpu() && x.scalar_type() == at::kFloat && x.dim() == 4 &&
         has_norm_kernel(x.size(1)) && x.is_contiguous(at::MemoryFormat::ChannelsLast) &&
         // With fixed statistics only the forward pass is here.
         (pass.uses_batch_statistics() || !at::GradMode::is_enabled());
}

at::Tensor normalize_fast(const at::Tensor& x, BatchNorm& norm, const UnitGrid& grid,
                          const Pass& pass) {
  if (!pass.uses_batch_statistics()) {
    return apply_affine(x, affine_of(running_statistics(norm), norm.weight, norm.bias), grid);
  }
  norm.num_batches_tracked.add_(1);
  return NormActivation::apply(x, norm.weight, norm.bias, &norm, grid);
}

at::Tensor normalize_reference(const at::Tensor& x, BatchNorm& norm, bool relu, const Pass& pass) {
  if (pass.uses_batch_statistics()) {
    if (x.device().is_cpu()) {  // Elsewhere the check would make the device wait.
      require_finite(x, "the input of " + norm.name);
    }
    norm.num_batches_tracked.add_(1);
  }
  const at::Tensor normal =
      at::batch_norm(x, norm.weight, norm.bias, norm.running_mean, norm.running_var,
                     pass.uses_batch_statistics(), kMomentum, kEpsilon, /*cudnn_enabled=*/true);
  return relu ? at::relu(normal) : normal;
}

}  // namespace

at::Tensor normalize(const at::Tensor& x, BatchNorm& norm, bool relu, const Pass& pass) {
  if (!has_fast_path(x, pass)) {
    return normalize_reference(x, norm, relu, pass);
  }
  const UnitGrid grid{relu ? UnitGrid::Rounding::kNone : UnitGrid::Rounding::kLinear, 0.0F};
  return normalize_fast(x, norm, grid, pass);
}

at::Tensor norm_activate(const at::Tensor& x, BatchNorm& norm, ActivationQuantizer& quantizer,
                         const Pass& pass) {
  const bool relu = quantizer.takes_relu();
  const std::optional<UnitGrid> grid = quantizer.unit_grid();
  if (relu && grid && has_fast_path(x, pass)) {
    return normalize_fast(x, norm, *grid, pass);
  }
  return quantizer.quantize(normalize(x, norm, relu, pass), pass);
}

at::Tensor norm_activate_reference(const at::Tensor& x, BatchNorm& norm,
                                   ActivationQuantizer& quantizer, const Pass& pass) {
  return quantizer.quantize(normalize_reference(x, norm, quantizer.takes_relu(), pass), pass);
}

}  // namespace bitrung::train
