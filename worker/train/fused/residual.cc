#include "worker/train/fused/residual.h"

#include <ATen/Parallel.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <new>
#include <optional>
#include <span>

#include "db/base/check.h"
#include "worker/train/failure.h"
#include "worker/train/fused/packing.h"
#include "worker/train/quant/uniform.h"

namespace bitrung::train::fused {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr int kImageSide = 32;
constexpr double kEpsilon = 1e-5;
constexpr double kMomentum = 0.1;

// A batch is cut into so many parts, each with its own sums of weight gradients, whatever the
// number of threads.
constexpr std::int64_t kParts = 8;

float* floats_of(const at::Tensor& tensor) {
  return tensor.data_ptr<float>();
}

// A plane of floats for each image of a batch.
class Planes {
 public:
  Planes() = default;
  Planes(std::int64_t images, std::size_t size) : size_(size) {
    const std::size_t bytes = static_cast<std::size_t>(images) * size * sizeof(float);
    const std::size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    memory_.reset(static_cast<float*>(std::aligned_alloc(kHugePage, rounded)));
    if (memory_ == nullptr) {
      throw std::bad_alloc();
    }
#if defined(MADV_HUGEPAGE)
    // A batch's planes are read from end to end by each pass; small pages cost a tenth of that.
    ::madvise(memory_.get(), rounded, MADV_HUGEPAGE);
#endif
  }
  float* of(std::int64_t n) const {
    return memory_.get() + static_cast<std::size_t>(n) * size_;
  }

 private:
  static constexpr std::size_t kHugePage = std::size_t{1} << 21U;
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  std::size_t size_ = 0;
  std::unique_ptr<float, Free> memory_;
};

// What a thread works on: padded inputs and gradients by side, and blocked planes.
struct NormState;

struct Scratch {
  std::map<int, std::vector<float>> inputs;
  std::map<int, std::vector<float>> gradients;
  std::map<int, std::vector<std::uint8_t>> codes;
  std::vector<float> image;
  std::vector<float> blocked;
  std::array<std::vector<float>, 3> sums;  // Of one image, for passes that keep nothing.

  // Of one image in the matrix unit's forms, where there is one.
  std::vector<Line> rows;
  std::vector<Line> columns;
  std::vector<Line> pairs;
  std::vector<Line> windows;

  std::int64_t next_image = -1;  // Which comes after the one at hand; -1 at the end.
  Ahead ahead;

  // The next image's part of `planes` will be read or written, the last of several first.
  void read_next(const Planes& planes, const NormState& norm);
};

bool has_codes(const Activation& rule) {
  return rule.kind != Activation::Kind::kRelu && rule.code_high <= 255.0F;
}

struct NormState {
  NormState(BatchNorm& source, ActivationQuantizer* input, int input_side)
      : norm(&source),
        quantizer(input),
        side(input_side),
        channels(static_cast<int>(source.weight.numel())) {
    for (std::vector<float>* const values : {&mean, &scale, &offset, &slope, &constant}) {
      values->resize(static_cast<std::size_t>(channels));
    }
    inverse.resize(static_cast<std::size_t>(channels));
  }

  int blocks() const { return channels / kBlock; }
  std::size_t size() const {
    return static_cast<std::size_t>(channels) * static_cast<std::size_t>(side * side);
  }
  NormForward forward() const { return {scale.data(), offset.data(), mean.data()}; }
  NormBackward backward() const {
    return {scale.data(), mean.data(), slope.data(), constant.data()};
  }

  // The sums of image n, two for each channel.
  double* sums(std::int64_t n) {
    return image_sums.data() + static_cast<std::size_t>(2 * n * channels);
  }
  double* second_sums(std::int64_t n) { return sums(n) + channels; }
  // The least and, after them, the largest values of image n; null if nobody wants to know.
  float* extremes(std::int64_t n) {
    return image_extremes.empty()
               ? nullptr
               : image_extremes.data() + static_cast<std::size_t>(2 * n * channels);
  }

  // Both sums of channel c over all images.
  std::pair<double, double> total(std::int64_t images, std::size_t c) const {
    std::pair<double, double> result{0.0, 0.0};
    const auto step = static_cast<std::size_t>(channels);
    for (std::size_t n = 0; n < static_cast<std::size_t>(images); ++n) {
      result.first += image_sums[2 * n * step + c];
      result.second += image_sums[(2 * n + 1) * step + c];
    }
    return result;
  }

  void read_rule();
  void begin(std::int64_t images);
  void take_moments(std::int64_t images);
  // Tells the quantizer what its inputs are, once the moments are known.
  void observe(std::int64_t images, const Kernels& kernels);
  void take_running_moments();
  void set_moments(std::size_t c, double center, double variance);
  void take_gradients(std::int64_t images);
  void add_gradients(variable_list& gradients) const;

  BatchNorm* norm;
  ActivationQuantizer* quantizer;  // Null at 32 bits.
  int side;
  int channels;
  Activation rule;
  std::vector<UniformLearned> learned;
  std::vector<float> shift;  // Near the mean, so that squares stay small.
  std::vector<float> mean, scale, offset, slope, constant;
  std::vector<double> inverse;  // 1 / sqrt(variance + epsilon)
  std::vector<double> image_sums;
  std::vector<LearnedSums> image_learned;
  std::vector<float> image_extremes;  // As the sums; only where the quantizer follows them.
  at::Tensor weight_gradient;
  at::Tensor bias_gradient;
  LearnedSums learned_sums;
};

void Scratch::read_next(const Planes& planes, const NormState& norm) {
  if (next_image >= 0) {
    ahead.add(planes.of(next_image), norm.size());
  }
}

struct ConvolutionState {
  ConvolutionState(Layer& source, const Convolution& geometry) : layer(&source), shape(geometry) {}

  // w: the layer's quantized weights.
  void pack(const at::Tensor& w, const Kernels& kernels);
  void find_codes(const at::Tensor& values, const Kernels& kernels);
  // After the rule of its input.
  void scale_codes();

  // Floats of a part of the gradients.
  std::size_t part_size(const Kernels& kernels) const {
    return kernels.tiles == nullptr ? static_cast<std::size_t>(layer->weight.numel())
                                    : tile_gradient_size(shape);
  }
  float* part(std::int64_t index) {
    return gradients.data() +
           static_cast<std::size_t>(index) * (gradients.size() / static_cast<std::size_t>(kParts));
  }
  // Pieces of the matrix unit's operands.
  int value_pieces() const { return input != nullptr && has_codes(input->rule) ? 1 : 2; }
  int row_pieces() const { return packed.gradient_pieces == 1 ? 2 : 3; }
  void unpack_gradients(const Kernels& kernels, float* dw) const;

  Layer* layer;
  Convolution shape;
  const NormState* input = nullptr;  // Of which it takes codes, if they are any.
  PackedWeights packed;
  std::vector<float> output_scales;  // Of sums of codes, for each output channel.
  std::vector<float> gradients;      // [kParts][packed size].
};

struct BlockState {
  NormState norm_one;
  ConvolutionState one;
  NormState norm_two;
  ConvolutionState two;
  std::optional<ConvolutionState> down;
};

// Whether the loops can do what the rule says to values of 0 and above.
bool is_usable(const UniformRule& rule) {
  const bool is_from_zero = rule.offset.numel() == 1 && rule.offset.item<double>() == 0.0 &&
                            rule.shift.numel() == 1 && rule.shift.item<double>() == 0.0 &&
                            rule.code_low.item<double>() <= 0.0 && rule.low.item<double>() <= 0.0;
  const bool has_mask = rule.mask == GradientMask::kOpen || rule.mask == GradientMask::kClosed ||
                        rule.mask == GradientMask::kOpenCode;
  return is_from_zero && has_mask && rule.step.numel() == 1;
}

Activation activation_of(const UniformRule& rule) {
  Activation result;
  result.kind = Activation::Kind::kNearest;
  result.factor = rule.factor.item<float>();
  result.step = rule.step.item<float>();
  result.code_high = rule.code_high.item<float>();
  result.high = static_cast<float>(rule.mask == GradientMask::kOpenCode
                                       ? rule.code_high.item<double>() * rule.step.item<double>()
                                       : rule.high.item<double>());
  result.is_closed = rule.mask == GradientMask::kClosed;
  result.is_learned = !rule.learned.empty();
  return result;
}

Activation activation_of(const UnitGrid& grid) {
  Activation result;
  result.high = 1.0F;
  result.is_closed = true;
  switch (grid.rounding) {
    case UnitGrid::Rounding::kNearest:
      result.kind = Activation::Kind::kNearest;
      result.factor = grid.levels;
      result.step = 1.0F / grid.levels;
      result.code_high = grid.levels;
      return result;
    case UnitGrid::Rounding::kSign:
      result.kind = Activation::Kind::kSign;
      result.code_high = 1.0F;
      return result;
    case UnitGrid::Rounding::kNone:
    case UnitGrid::Rounding::kLinear:
      break;
  }
  BITRUNG_CHECK(!"a quantizer without rounding");
}

void NormState::read_rule() {
  rule = {};
  learned.clear();
  if (quantizer == nullptr) {
    return;
  }
  if (const std::optional<UnitGrid> grid = quantizer->unit_grid()) {
    rule = activation_of(*grid);
    return;
  }
  // Learned steps count the values of one image.
  UniformRule uniform = quantizer->uniform_rule(static_cast<double>(size())).value();
  rule = activation_of(uniform);
  learned = std::move(uniform.learned);
}

void NormState::begin(std::int64_t images) {
  image_sums.assign(static_cast<std::size_t>(2 * images * channels), 0.0);
  const bool follows = quantizer != nullptr && quantizer->follows_range();
  image_extremes.assign(follows ? image_sums.size() : 0, 0.0F);
  const float* const running = floats_of(norm->running_mean);
  shift.assign(running, running + channels);
}

// As in norm_act.cc; running values are exponential means with the unbiased variance.
void NormState::take_moments(std::int64_t images) {
  float* const running_mean = floats_of(norm->running_mean);
  float* const running_var = floats_of(norm->running_var);
  const auto n = static_cast<double>(images * side * side);
  const auto blend = [](float& running, double now) {
    running =
        static_cast<float>((1.0 - kMomentum) * static_cast<double>(running) + kMomentum * now);
  };
  for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
    const auto [sum, squares] = total(images, c);
    if (!std::isfinite(sum)) {
      throw Failure(FailureClass::kDiverged,
                    "the input of " + norm->name + " holds NaN or infinite values");
    }
    const double from_shift = sum / n;
    const double center = static_cast<double>(shift[c]) + from_shift;
    const double variance = std::max(squares / n - from_shift * from_shift, 0.0);
    blend(running_mean[c], center);
    blend(running_var[c], variance * n / (n - 1.0));
    set_moments(c, center, variance);
  }
  norm->num_batches_tracked.add_(1);
}

void NormState::observe(std::int64_t images, const Kernels& kernels) {
  if (image_extremes.empty()) {
    return;
  }
  float low = std::numeric_limits<float>::infinity();
  float high = 0.0F;
  for (std::int64_t n = 0; n < images; ++n) {
    for (int c = 0; c < 2 * channels; ++c) {
      const auto channel = static_cast<std::size_t>(c % channels);
      const float x = extremes(n)[c];
      // As the loops compute it, so that the largest value lies on the edge and not beyond.
      const float unrectified = kernels.rounds_once ? std::fma(x, scale[channel], offset[channel])
                                                    : x * scale[channel] + offset[channel];
      const float z = std::max(unrectified, 0.0F);
      low = std::min(low, z);
      high = std::max(high, z);
    }
  }
  quantizer->observe(static_cast<double>(low), static_cast<double>(high));
  read_rule();
}

void NormState::take_running_moments() {
  for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
    set_moments(c, static_cast<double>(floats_of(norm->running_mean)[c]),
                static_cast<double>(floats_of(norm->running_var)[c]));
  }
}

void NormState::set_moments(std::size_t c, double center, double variance) {
  inverse[c] = 1.0 / std::sqrt(variance + kEpsilon);
  mean[c] = static_cast<float>(center);
  scale[c] = floats_of(norm->weight)[c] * static_cast<float>(inverse[c]);
  offset[c] = floats_of(norm->bias)[c] - scale[c] * mean[c];
}

// With g the gradient of the output, n values, h = (x - mean) inverse:
//   dbias = sum g, dweight = sum g h, dx = scale (g - dbias / n - h dweight / n)
void NormState::take_gradients(std::int64_t images) {
  weight_gradient = at::empty({channels}, at::kFloat);
  bias_gradient = at::empty({channels}, at::kFloat);
  const auto n = static_cast<double>(images * side * side);
  for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
    const auto [sum, sum_with_x] = total(images, c);
    const auto factor = static_cast<double>(scale[c]);
    floats_of(weight_gradient)[c] = static_cast<float>(sum_with_x * inverse[c]);
    floats_of(bias_gradient)[c] = static_cast<float>(sum);
    slope[c] = static_cast<float>(-factor * sum_with_x * inverse[c] * inverse[c] / n);
    constant[c] = static_cast<float>(-factor * sum / n);
  }
  learned_sums = {};
  for (const LearnedSums& sums : image_learned) {
    learned_sums.inside += sums.inside;
    learned_sums.above += sums.above;
  }
}

void NormState::add_gradients(variable_list& gradients) const {
  gradients.push_back(weight_gradient);
  gradients.push_back(bias_gradient);
  for (const UniformLearned& of : learned) {
    gradients.push_back(at::full(of.tensor.sizes(),
                                 of.inside.item<double>() * learned_sums.inside +
                                     of.above.item<double>() * learned_sums.above,
                                 of.tensor.options().requires_grad(false)));
  }
}

void ConvolutionState::pack(const at::Tensor& w, const Kernels& kernels) {
  const at::Tensor values = w.detach().contiguous();
  packed.has_codes = false;
  find_codes(values, kernels);
  bool has_tiles = false;
  if (kernels.tiles == nullptr) {
    pack_backward(floats_of(values), shape, kernels, packed);
  } else {
    pack_tiles(floats_of(values), shape, packed);
    has_tiles = !packed.code_tiles.empty() || !packed.forward_tiles.empty();
  }
  if (has_tiles) {
    return;
  }
  pack_forward(floats_of(values), shape, kernels, packed);
  if (packed.has_codes) {
    pack_codes(shape, kernels, packed);
  }
}

void ConvolutionState::find_codes(const at::Tensor& values, const Kernels& kernels) {
  if (input == nullptr || !has_codes(input->rule) || layer->quantizer == nullptr ||
      kernels.convolve_codes == nullptr) {
    return;
  }
  const std::optional<Grid> grid = layer->quantizer->grid(layer->weight);
  if (!grid || !grid->codebook.empty()) {
    return;
  }
  const at::Tensor scale = grid->scale.detach().to(at::kFloat).flatten().contiguous();
  if (fused::find_codes(floats_of(values), shape,
                        {floats_of(scale), static_cast<std::size_t>(scale.numel())}, packed)) {
    scale_codes();
  }
}

void ConvolutionState::unpack_gradients(const Kernels& kernels, float* dw) const {
  if (kernels.tiles == nullptr) {
    fused::unpack_gradients(gradients.data(), kParts, shape, dw);
    return;
  }
  const float step = value_pieces() == 1 ? input->rule.step : 1.0F;
  unpack_tile_gradients(gradients.data(), kParts, shape, packed, step, dw);
}

void ConvolutionState::scale_codes() {
  output_scales = packed.code_values;
  for (float& value : output_scales) {
    value *= input->rule.step;
  }
}

// While a thread uses the matrix unit, if there is one.
class TileUse {
 public:
  explicit TileUse(const TileKernels* tiles) : tiles_(tiles) {
    if (tiles_ != nullptr) {
      tiles_->begin();
    }
  }
  ~TileUse() {
    if (tiles_ != nullptr) {
      tiles_->end();
    }
  }
  TileUse(const TileUse&) = delete;
  TileUse& operator=(const TileUse&) = delete;

 private:
  const TileKernels* tiles_;
};

std::string why_not(const Layer& layer) {
  if (layer.plan.out % kBlock != 0 ||
      (layer.plan.in != kImageChannels && layer.plan.in % kBlock != 0)) {
    return layer.plan.name + " has channels that are no multiple of 16";
  }
  if (layer.gradient_bits != 32) {
    return "gradients are quantized";
  }
  if (layer.quantizer != nullptr && layer.quantizer->scales_output()) {
    return layer.weight_method + " scales the output of " + layer.plan.name;
  }
  if (layer.input != nullptr && !layer.input->unit_grid() && !layer.input->has_uniform_rule()) {
    return "activations are quantized by " + layer.activation_method;
  }
  return "";
}

}  // namespace

// All of a backend; the network's tensors are read and, with the moments, written.
class ResidualStep {
 public:
  ResidualStep(const ResidualSites& sites, const Kernels& table)
      : kernels_(table),
        first_(*sites.first,
               {kImageSide, 1, 9, 0, static_cast<int>(sites.first->plan.out / kBlock)}),
        last_norm_(*sites.last_norm, nullptr, side_of_last(sites)) {
    int side = kImageSide;
    for (const BlockSite& site : sites.blocks) {
      const auto state = [](Layer& layer, int out_side) {
        const LayerPlan& plan = layer.plan;
        return ConvolutionState(
            layer,
            {out_side, static_cast<int>(plan.stride), static_cast<int>(plan.kernel * plan.kernel),
             static_cast<int>(plan.in / kBlock), static_cast<int>(plan.out / kBlock)});
      };
      Layer& one = *site.one.convolution;
      Layer& two = *site.two.convolution;
      const int out_side = side / static_cast<int>(one.plan.stride);
      blocks_.push_back({NormState(*site.one.norm, one.input.get(), side), state(one, out_side),
                         NormState(*site.two.norm, two.input.get(), out_side), state(two, out_side),
                         site.downsample == nullptr
                             ? std::nullopt
                             : std::optional(state(*site.downsample, out_side))});
      side = out_side;
    }
    for (BlockState& block : blocks_) {
      block.one.input = &block.norm_one;
      block.two.input = &block.norm_two;
      if (block.down) {
        block.down->input = &block.norm_one;
      }
      for (NormState* const norm : {&block.norm_one, &block.norm_two}) {
        norms_.push_back(norm);
        plane_size_ = std::max(plane_size_, norm->size());
        int& blocks = blocks_by_side_[norm->side];
        blocks = std::max(blocks, norm->blocks());
      }
    }
    norms_.push_back(&last_norm_);
    plane_size_ = std::max(plane_size_, last_norm_.size());
    convolutions_.push_back(&first_);
    for (BlockState& block : blocks_) {
      convolutions_.push_back(&block.one);
      convolutions_.push_back(&block.two);
      if (block.down) {
        convolutions_.push_back(&*block.down);
      }
    }
  }

  const Kernels& table() const { return kernels_; }

  bool can_do(const at::Tensor& images, const Pass& pass) const {
    if (pass.estimates_norms || images.scalar_type() != at::kFloat || !images.device().is_cpu() ||
        !images.is_contiguous(at::MemoryFormat::ChannelsLast)) {
      return false;
    }
    if (!pass.training && at::GradMode::is_enabled()) {
      return false;
    }
    return std::all_of(norms_.begin(), norms_.end(), [](const NormState* norm) {
      if (norm->quantizer == nullptr || norm->quantizer->unit_grid()) {
        return true;
      }
      const std::optional<UniformRule> rule = norm->quantizer->uniform_rule(1.0);
      return rule.has_value() && is_usable(*rule);
    });
  }

  at::Tensor features(const at::Tensor& images, const Pass& pass);

  // What the gradients are of: the quantized weights, each normalisation's weight and bias, what
  // the activations' quantizers learned.
  variable_list inputs(const Pass& pass);

  // With the batch's statistics, for images that inputs() was called for; keeps what backward()
  // needs. (N,C)
  at::Tensor train(const at::Tensor& images);
  // With the running statistics. (N,C)
  at::Tensor evaluate(const at::Tensor& images);
  // In the order of inputs(); gradient: (N,C).
  variable_list backward(const at::Tensor& images, const at::Tensor& gradient);

  // Counts training passes.
  std::int64_t generation() const { return generation_; }

 private:
  static int side_of_last(const ResidualSites& sites) {
    int side = kImageSide;
    for (const BlockSite& block : sites.blocks) {
      side /= static_cast<int>(block.one.convolution->plan.stride);
    }
    return side;
  }

  // body(image, part, scratch), the images of a part one after the other. Each call goes the other
  // way, so that it begins with what the last one has left in the caches.
  template <typename Body>
  void for_images(std::int64_t images, const Body& body) {
    const auto threads = static_cast<std::size_t>(at::get_num_threads());
    while (scratch_.size() < threads) {
      scratch_.push_back(make_scratch());
    }
    at::parallel_for(0, kParts, 1, [&](std::int64_t begin, std::int64_t end) {
      Scratch& scratch = scratch_[static_cast<std::size_t>(at::get_thread_num())];
      const TileUse use(kernels_.tiles);
      const std::int64_t first = images * begin / kParts;
      const std::int64_t last = images * end / kParts - 1;
      const std::int64_t step = is_reversed_ ? -1 : 1;
      std::int64_t part = is_reversed_ ? end - 1 : begin;
      for (std::int64_t i = first; i <= last; ++i) {
        const std::int64_t n = is_reversed_ ? first + last - i : i;
        while (n < images * part / kParts || n >= images * (part + 1) / kParts) {
          part += step;
        }
        scratch.next_image = i < last ? n + step : -1;
        scratch.ahead.count = 0;
        body(n, part, scratch);
      }
    });
    is_reversed_ = !is_reversed_;
  }

  Scratch make_scratch() const {
    Scratch scratch;
    for (const auto& [side, blocks] : blocks_by_side_) {
      const auto size = static_cast<std::size_t>((side + 2) * (side + 2)) *
                        static_cast<std::size_t>(blocks * kBlock);
      scratch.inputs[side].assign(size, 0.0F);
      scratch.gradients[side].assign(size, 0.0F);
      scratch.codes[side].assign(size, 0);
    }
    constexpr int kPadded = kImageSide + 2;
    scratch.image.assign(static_cast<std::size_t>(kPadded * kPadded * kImageChannels), 0.0F);
    scratch.blocked.resize(plane_size_);
    for (std::vector<float>& sums : scratch.sums) {
      sums.resize(plane_size_);
    }
    if (kernels_.tiles != nullptr) {
      for (const ConvolutionState* const convolution : convolutions_) {
        const TileSizes sizes = tile_sizes(convolution->shape);
        const auto grow = [](std::vector<Line>& lines, std::size_t size) {
          lines.resize(std::max(lines.size(), size));
        };
        grow(scratch.rows, sizes.rows);
        grow(scratch.columns, sizes.columns);
        grow(scratch.pairs, sizes.pairs);
        grow(scratch.windows, sizes.windows);
      }
    }
    return scratch;
  }

  static const float* padded_image(const at::Tensor& images, std::int64_t n, Scratch& scratch) {
    constexpr std::size_t kRow = kImageSide * kImageChannels;
    const float* const from = floats_of(images) + static_cast<std::size_t>(n) * kRow * kImageSide;
    for (std::size_t y = 0; y < kImageSide; ++y) {
      std::memcpy(scratch.image.data() + (y + 1) * (kRow + 2 * kImageChannels) + kImageChannels,
                  from + y * kRow, kRow * sizeof(float));
    }
    return scratch.image.data();
  }

  // Padded gradients of `shape`'s output for dy, blocked.
  static void padded_gradient(const float* dy, const Convolution& shape, Scratch& scratch) {
    float* const padded = scratch.gradients.at(shape.side).data();
    const std::size_t row = static_cast<std::size_t>(shape.side) * kBlock;
    const std::size_t padded_row = row + 2 * kBlock;
    const auto side = static_cast<std::size_t>(shape.side);
    for (std::size_t block = 0; block < static_cast<std::size_t>(shape.out_blocks); ++block) {
      for (std::size_t y = 0; y < side; ++y) {
        std::memcpy(padded + (block * (side + 2) + y + 1) * padded_row + kBlock,
                    dy + (block * side + y) * row, row * sizeof(float));
      }
    }
  }

  bool uses_codes(const NormState& norm, const ConvolutionState& convolution) const {
    return kernels_.convolve_codes != nullptr && has_codes(norm.rule) &&
           convolution.packed.has_codes;
  }

  // Quantizes x and convolves it; `shortcut` takes the same input, and is first. Adds the moments
  // of image n to `next`, if there is one.
  void convolve(const float* x, const NormState& norm, const ConvolutionState& convolution,
                const ConvolutionState* shortcut, float* shortcut_out, const float* residual,
                float* out, NormState* next, std::int64_t n, Scratch& scratch) const {
    const bool is_coded = uses_codes(norm, convolution);
    const bool is_tiled =
        kernels_.tiles != nullptr && (is_coded ? !convolution.packed.code_tiles.empty()
                                               : !convolution.packed.forward_tiles.empty());
    const bool needs_values = (!is_coded && !is_tiled) || shortcut != nullptr;
    float* const values = needs_values ? scratch.inputs.at(norm.side).data() : nullptr;
    std::uint8_t* const codes =
        is_coded && !is_tiled ? scratch.codes.at(norm.side).data() : nullptr;
    if (values != nullptr || codes != nullptr) {
      kernels_.activate(x, norm.side, norm.blocks(), norm.forward(), norm.rule, values, codes);
    }
    if (shortcut != nullptr) {
      kernels_.convolve(shortcut->shape, values, shortcut->packed.forward.data(), nullptr,
                        shortcut_out);
    }
    if (is_tiled && is_coded && (next == nullptr || next->extremes(n) == nullptr)) {
      // The sums are in registers here.
      const MomentSums moments =
          next == nullptr ? MomentSums{}
                          : MomentSums{next->shift.data(), next->sums(n), next->second_sums(n)};
      convolve_code_tiles(x, norm, convolution, residual, out, next == nullptr ? nullptr : &moments,
                          scratch);
      return;
    }
    if (is_tiled && is_coded) {
      convolve_code_tiles(x, norm, convolution, residual, out, nullptr, scratch);
    } else if (is_tiled) {
      kernels_.tiles->activate_rows(convolution.shape, x, norm.forward(), norm.rule,
                                    scratch.rows.data());
      kernels_.tiles->convolve(convolution.shape, scratch.rows.data(),
                               convolution.packed.forward_tiles.data(), residual, out,
                               scratch.ahead);
    } else if (is_coded) {
      kernels_.convolve_codes(convolution.shape, codes, convolution.packed.codes.data(),
                              convolution.output_scales.data(), residual, out);
    } else {
      kernels_.convolve(convolution.shape, values, convolution.packed.forward.data(), residual,
                        out);
    }
    if (next != nullptr) {
      add_moments(out, *next, n);
    }
  }

  void convolve_code_tiles(const float* x, const NormState& norm,
                           const ConvolutionState& convolution, const float* residual, float* out,
                           const MomentSums* moments, Scratch& scratch) const {
    kernels_.tiles->activate_codes(convolution.shape, x, norm.forward(), norm.rule,
                                   scratch.windows.data());
    kernels_.tiles->convolve_codes(
        convolution.shape, scratch.windows.data(), convolution.packed.code_tiles.data(),
        convolution.output_scales.data(), residual, out, moments, scratch.ahead);
  }

  // Four steps of the backward pass of one image; what they hand on lies in the scratch. First the
  // gradient of a convolution's output, from the normalisation behind it.
  void norm_gradients(const float* g, const float* x, const NormState& norm,
                      const ConvolutionState& convolution, const float* other, float* sum,
                      Scratch& scratch) const {
    if (kernels_.tiles != nullptr) {
      kernels_.tiles->norm_gradients(
          g, x, norm.side, norm.blocks(), norm.backward(),
          convolution.packed.gradient_factors.data(), other, sum, convolution.row_pieces(),
          &convolution == &first_ ? nullptr : scratch.rows.data(), scratch.columns.data());
    } else {
      kernels_.norm_gradients(g, x, norm.side, norm.blocks(), norm.backward(), other, sum,
                              scratch.gradients.at(norm.side).data());
    }
  }

  // The same from a blocked gradient.
  void take_gradient(const float* dy, const ConvolutionState& convolution, Scratch& scratch) const {
    if (kernels_.tiles != nullptr) {
      kernels_.tiles->gradients(dy, convolution.shape.side, convolution.shape.out_blocks,
                                convolution.packed.gradient_factors.data(),
                                convolution.row_pieces(), scratch.rows.data(),
                                scratch.columns.data());
    } else {
      padded_gradient(dy, convolution.shape, scratch);
    }
  }

  // The input of a convolution once more, for the gradient of its weights.
  void take_values(const float* x, const NormState& norm, const ConvolutionState& convolution,
                   Scratch& scratch) const {
    if (kernels_.tiles != nullptr) {
      kernels_.tiles->activate(convolution.shape, x, norm.forward(), norm.rule,
                               convolution.value_pieces(), scratch.pairs.data());
    } else {
      kernels_.activate(x, norm.side, norm.blocks(), norm.forward(), norm.rule,
                        scratch.inputs.at(norm.side).data(), nullptr);
    }
  }

  void weight_gradients(ConvolutionState& convolution, std::int64_t part, Scratch& scratch) const {
    const Convolution& shape = convolution.shape;
    if (kernels_.tiles != nullptr) {
      kernels_.tiles->weight_gradients(shape, scratch.pairs.data(), convolution.value_pieces(),
                                       scratch.columns.data(), convolution.part(part),
                                       scratch.ahead);
    } else {
      kernels_.weight_gradients(shape, scratch.inputs.at(shape.side * shape.stride).data(),
                                scratch.gradients.at(shape.side).data(), convolution.part(part));
    }
  }

  void image_weight_gradients(const float* image, std::int64_t part, Scratch& scratch) {
    if (kernels_.tiles != nullptr) {
      kernels_.tiles->image(first_.shape, image, scratch.pairs.data());
      kernels_.tiles->image_weight_gradients(first_.shape, scratch.pairs.data(),
                                             scratch.columns.data(), first_.part(part),
                                             scratch.ahead);
    } else {
      kernels_.weight_gradients(first_.shape, image, scratch.gradients.at(first_.shape.side).data(),
                                first_.part(part));
    }
  }

  void input_gradients(const ConvolutionState& convolution, bool adds, float* dx,
                       Scratch& scratch) const {
    const Convolution& shape = convolution.shape;
    const PackedWeights& packed = convolution.packed;
    if (kernels_.tiles != nullptr) {
      kernels_.tiles->input_gradients(shape, scratch.rows.data(), packed.gradient_tiles.data(),
                                      packed.gradient_pieces, adds, dx, scratch.ahead);
    } else {
      kernels_.input_gradients(shape, scratch.gradients.at(shape.side).data(),
                               packed.backward.data(), adds, dx);
    }
  }

  void add_moments(const float* x, NormState& norm, std::int64_t n) const {
    float* const lows = norm.extremes(n);
    kernels_.add_moments(x, norm.side, norm.blocks(), norm.shift.data(), norm.sums(n),
                         norm.second_sums(n), lows,
                         lows == nullptr ? nullptr : lows + norm.channels);
  }

  // Once all images of a batch have added theirs, and before `convolution` takes its input.
  void take_moments(NormState& norm, ConvolutionState& convolution, std::int64_t images) const {
    norm.take_moments(images);
    norm.observe(images, kernels_);
    if (convolution.packed.has_codes) {
      convolution.scale_codes();
    }
  }

  void pass_gradients(const float* x, const float* dy, NormState& norm, std::int64_t n,
                      float* g) const {
    kernels_.pass_gradients(x, dy, norm.side, norm.blocks(), norm.forward(), norm.rule, g,
                            norm.sums(n), norm.second_sums(n),
                            &norm.image_learned[static_cast<std::size_t>(n)]);
  }

  void reserve(std::int64_t images);

  const Kernels& kernels_;
  ConvolutionState first_;
  std::vector<BlockState> blocks_;
  NormState last_norm_;
  std::vector<NormState*> norms_;                // In the order of the forward pass.
  std::vector<ConvolutionState*> convolutions_;  // The same.
  std::size_t plane_size_ = 0;                   // The largest input of a normalisation.
  std::map<int, int> blocks_by_side_;
  std::vector<Scratch> scratch_;  // Of each thread.

  // Of a batch.
  std::int64_t capacity_ = 0;  // Images that there is room for.
  std::vector<Planes> raw_;    // The input of each normalisation.
  Planes passed_;              // Gradients of a normalisation's output where they pass;
  Planes stream_;              // of the sum behind a block.
  bool is_reversed_ = false;
  std::int64_t generation_ = 0;
};

// The features as one node of LibTorch's graph.
class FeaturesFunction : public Function<FeaturesFunction> {
 public:
  // step outlives the graph.
  static at::Tensor forward(AutogradContext* context, at::TensorList, const at::Tensor& images,
                            ResidualStep* step) {
    at::Tensor features = step->train(images);
    context->saved_data["step"] = reinterpret_cast<std::int64_t>(step);
    context->saved_data["generation"] = step->generation();
    context->save_for_backward({images});
    return features;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    auto* const step = reinterpret_cast<ResidualStep*>(context->saved_data["step"].toInt());
    // Another pass has taken the buffers.
    BITRUNG_CHECK(step->generation() == context->saved_data["generation"].toInt());
    variable_list result =
        step->backward(context->get_saved_variables()[0], gradients[0].contiguous());
    result.resize(result.size() + 2);  // The images and the step.
    return result;
  }
};

at::Tensor ResidualStep::features(const at::Tensor& images, const Pass& pass) {
  const variable_list all = inputs(pass);
  return pass.training ? FeaturesFunction::apply(at::TensorList(all), images, this)
                       : evaluate(images);
}

variable_list ResidualStep::inputs(const Pass& pass) {
  variable_list result;
  for (NormState* const norm : norms_) {
    norm->read_rule();
  }
  for (ConvolutionState* const convolution : convolutions_) {
    result.push_back(convolution->layer->effective_weight(pass));
    convolution->pack(result.back(), kernels_);
  }
  for (NormState* const norm : norms_) {
    result.push_back(norm->norm->weight);
    result.push_back(norm->norm->bias);
    for (const UniformLearned& learned : norm->learned) {
      result.push_back(learned.tensor);
    }
  }
  return result;
}

void ResidualStep::reserve(std::int64_t images) {
  for (NormState* const norm : norms_) {
    norm->begin(images);
  }
  if (images <= capacity_) {
    return;
  }
  raw_.clear();
  for (const NormState* const norm : norms_) {
    raw_.emplace_back(images, norm->size());
  }
  passed_ = Planes(images, plane_size_);
  stream_ = Planes(images, plane_size_);
  capacity_ = images;
}

at::Tensor ResidualStep::train(const at::Tensor& images) {
  ++generation_;
  const std::int64_t count = images.size(0);
  reserve(count);
  is_reversed_ = false;
  for_images(count, [&](std::int64_t n, std::int64_t, Scratch& scratch) {
    float* const out = raw_[0].of(n);
    kernels_.convolve(first_.shape, padded_image(images, n, scratch), first_.packed.forward.data(),
                      nullptr, out);
    add_moments(out, *norms_[0], n);
  });
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    BlockState& block = blocks_[b];
    NormState& next = *norms_[2 * b + 2];
    const Planes& in = raw_[2 * b];
    const Planes& middle = raw_[2 * b + 1];
    const Planes& out = raw_[2 * b + 2];
    const ConvolutionState* const down = block.down ? &*block.down : nullptr;
    take_moments(block.norm_one, block.one, count);
    for_images(count, [&](std::int64_t n, std::int64_t, Scratch& scratch) {
      scratch.read_next(middle, block.norm_two);
      scratch.read_next(in, block.norm_one);
      float* const sum = middle.of(n);
      convolve(in.of(n), block.norm_one, block.one, down, out.of(n), nullptr, sum, &block.norm_two,
               n, scratch);
    });
    take_moments(block.norm_two, block.two, count);
    for_images(count, [&](std::int64_t n, std::int64_t, Scratch& scratch) {
      scratch.read_next(out, next);
      if (down == nullptr) {
        scratch.read_next(in, block.norm_one);
      }
      scratch.read_next(middle, block.norm_two);
      float* const sum = out.of(n);
      convolve(middle.of(n), block.norm_two, block.two, nullptr, nullptr,
               down == nullptr ? in.of(n) : sum, sum, &next, n, scratch);
    });
  }
  last_norm_.take_moments(count);
  at::Tensor means = at::empty({count, last_norm_.channels}, at::kFloat);
  for_images(count, [&](std::int64_t n, std::int64_t, Scratch&) {
    kernels_.pool(raw_.back().of(n), last_norm_.side, last_norm_.blocks(), last_norm_.forward(),
                  floats_of(means) + n * last_norm_.channels);
  });
  return means;
}

at::Tensor ResidualStep::evaluate(const at::Tensor& images) {
  for (NormState* const norm : norms_) {
    norm->take_running_moments();
  }
  at::Tensor means = at::empty({images.size(0), last_norm_.channels}, at::kFloat);
  for_images(images.size(0), [&](std::int64_t n, std::int64_t, Scratch& scratch) {
    float* in = scratch.sums[0].data();
    float* out = scratch.sums[1].data();
    float* const middle = scratch.sums[2].data();
    kernels_.convolve(first_.shape, padded_image(images, n, scratch), first_.packed.forward.data(),
                      nullptr, in);
    for (const BlockState& block : blocks_) {
      const ConvolutionState* const down = block.down ? &*block.down : nullptr;
      convolve(in, block.norm_one, block.one, down, out, nullptr, middle, nullptr, n, scratch);
      convolve(middle, block.norm_two, block.two, nullptr, nullptr, down == nullptr ? in : out, out,
               nullptr, n, scratch);
      std::swap(in, out);
    }
    kernels_.pool(in, last_norm_.side, last_norm_.blocks(), last_norm_.forward(),
                  floats_of(means) + n * last_norm_.channels);
  });
  return means;
}

variable_list ResidualStep::backward(const at::Tensor& images, const at::Tensor& gradient) {
  const std::int64_t count = images.size(0);
  for (NormState* const norm : norms_) {
    std::fill(norm->image_sums.begin(), norm->image_sums.end(), 0.0);
    norm->image_learned.assign(static_cast<std::size_t>(count), {});
  }
  for (ConvolutionState* const convolution : convolutions_) {
    convolution->gradients.assign(kParts * convolution->part_size(kernels_), 0.0F);
  }
  // The way decides in which order the gradients of weights are summed up, so it is the same each
  // time: behind the even number of passes of train().
  is_reversed_ = false;
  const int pixels = last_norm_.side * last_norm_.side;
  for_images(count, [&](std::int64_t n, std::int64_t, Scratch& scratch) {
    const float* const from = floats_of(gradient) + n * last_norm_.channels;
    float* to = scratch.blocked.data();
    for (int block = 0; block < last_norm_.blocks(); ++block) {
      for (int pixel = 0; pixel < pixels; ++pixel) {
        for (int c = 0; c < kBlock; ++c) {
          *to++ = from[block * kBlock + c] / static_cast<float>(pixels);
        }
      }
    }
    pass_gradients(raw_.back().of(n), scratch.blocked.data(), last_norm_, n, passed_.of(n));
  });
  last_norm_.take_gradients(count);

  // Of the sum behind a block: what its normalisation gives and, if a block with the identity
  // follows, what that gives past its convolutions.
  bool passes_by = false;
  for (std::size_t b = blocks_.size(); b-- > 0;) {
    BlockState& block = blocks_[b];
    NormState& next = *norms_[2 * b + 2];
    const Planes& in = raw_[2 * b];
    const Planes& middle = raw_[2 * b + 1];
    const Planes& out = raw_[2 * b + 2];
    for_images(count, [&](std::int64_t n, std::int64_t part, Scratch& scratch) {
      scratch.read_next(middle, block.norm_two);
      if (passes_by) {
        scratch.read_next(stream_, next);
      }
      scratch.read_next(out, next);
      scratch.read_next(passed_, next);
      float* const sum = stream_.of(n);
      norm_gradients(passed_.of(n), out.of(n), next, block.two, passes_by ? sum : nullptr, sum,
                     scratch);
      const float* const x = middle.of(n);
      take_values(x, block.norm_two, block.two, scratch);
      weight_gradients(block.two, part, scratch);
      float* const dx = scratch.blocked.data();
      input_gradients(block.two, false, dx, scratch);
      pass_gradients(x, dx, block.norm_two, n, passed_.of(n));
    });
    block.norm_two.take_gradients(count);
    for_images(count, [&](std::int64_t n, std::int64_t part, Scratch& scratch) {
      if (block.down) {
        scratch.read_next(stream_, next);
      }
      scratch.read_next(in, block.norm_one);
      scratch.read_next(middle, block.norm_two);
      scratch.read_next(passed_, block.norm_two);
      norm_gradients(passed_.of(n), middle.of(n), block.norm_two, block.one, nullptr, nullptr,
                     scratch);
      const float* const x = in.of(n);
      take_values(x, block.norm_one, block.one, scratch);
      weight_gradients(block.one, part, scratch);
      float* const dx = scratch.blocked.data();
      input_gradients(block.one, false, dx, scratch);
      if (block.down) {
        take_gradient(stream_.of(n), *block.down, scratch);
        weight_gradients(*block.down, part, scratch);
        input_gradients(*block.down, true, dx, scratch);
      }
      pass_gradients(x, dx, block.norm_one, n, passed_.of(n));
    });
    block.norm_one.take_gradients(count);
    passes_by = !block.down;
  }
  NormState& front = *norms_.front();
  for_images(count, [&](std::int64_t n, std::int64_t part, Scratch& scratch) {
    if (passes_by) {
      scratch.read_next(stream_, front);
    }
    scratch.read_next(raw_[0], front);
    scratch.read_next(passed_, front);
    norm_gradients(passed_.of(n), raw_[0].of(n), front, first_, passes_by ? stream_.of(n) : nullptr,
                   nullptr, scratch);
    image_weight_gradients(padded_image(images, n, scratch), part, scratch);
  });

  variable_list result;
  for (ConvolutionState* const convolution : convolutions_) {
    at::Tensor dw = at::empty(convolution->layer->weight.sizes(), at::kFloat);
    convolution->unpack_gradients(kernels_, floats_of(dw));
    result.push_back(std::move(dw));
  }
  for (const NormState* const norm : norms_) {
    norm->add_gradients(result);
  }
  return result;
}

std::string why_not(const ResidualSites& sites) {
  if (!sites.first->weight.device().is_cpu()) {
    return "the device is " + sites.first->weight.device().str();
  }
  if (sites.first->weight.scalar_type() != at::kFloat) {
    return "numbers are not 32-bit floats";
  }
  std::vector<const Layer*> layers = {sites.first};
  for (const BlockSite& block : sites.blocks) {
    layers.push_back(block.one.convolution);
    layers.push_back(block.two.convolution);
    if (block.downsample != nullptr) {
      layers.push_back(block.downsample);
    }
  }
  for (const Layer* const layer : layers) {
    if (std::string reason = why_not(*layer); !reason.empty()) {
      return reason;
    }
  }
  return "";
}

Residual::Residual(const ResidualSites& sites, const Kernels& kernels)
    : step_(std::make_unique<ResidualStep>(sites, kernels)) {
  BITRUNG_CHECK(why_not(sites).empty());
}

Residual::~Residual() = default;

bool Residual::can_do(const at::Tensor& images, const Pass& pass) const {
  return step_->can_do(images, pass);
}

at::Tensor Residual::features(const at::Tensor& images, const Pass& pass) {
  return step_->features(images, pass);
}

const Kernels& Residual::kernels() const {
  return step_->table();
}

}  // namespace bitrung::train::fused
