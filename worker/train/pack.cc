#include "worker/train/pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "db/base/check.h"
#include "worker/train/checkpoint.h"
#include "worker/train/failure.h"
#include "worker/train/nn/network.h"

namespace bitrung::train {

namespace {

using nlohmann::json;

// Above it thresholds would outnumber the weights.
constexpr int kThresholdBitsMax = 8;
constexpr double kDecodeTolerance = 1e-6;
// Of the inputs among which thresholds are looked for: far beyond any range, and finite when
// squared.
constexpr float kInputMax = 1e6F;
// As data/batch.h normalises images.
const json kImage = {{"mean", {0.507, 0.487, 0.441}}, {"deviation", {0.267, 0.256, 0.276}}};

std::int64_t highest_code(int bits) {
  return (std::int64_t{1} << bits) - 1;
}

TensorBytes float_tensor(const at::Tensor& tensor) {
  return to_bytes(tensor.detach().to(at::kFloat));
}

// Bits of the codes one after the other, the lowest first, in bytes that are filled from the lowest
// bit on.
TensorBytes pack_codes(const at::Tensor& codes, int bits) {
  const at::Tensor flat = codes.contiguous().view({-1});
  const std::int64_t* const values = flat.data_ptr<std::int64_t>();
  const auto count = static_cast<std::size_t>(flat.numel());
  const auto width = static_cast<std::size_t>(bits);
  TensorBytes packed;
  packed.dtype = Dtype::kU8;
  packed.bytes.resize((count * width + 7) / 8);
  packed.shape = {static_cast<std::int64_t>(packed.bytes.size())};
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t bit = 0; bit < width; ++bit) {
      if ((static_cast<std::uint64_t>(values[i]) >> bit & 1U) != 0) {
        const std::size_t at = i * width + bit;
        packed.bytes[at / 8] = static_cast<std::uint8_t>(packed.bytes[at / 8] | 1U << at % 8);
      }
    }
  }
  return packed;
}

// A grid in double precision; the zero point is 0 beside a codebook.
struct Levels {
  at::Tensor scale;
  at::Tensor zero_point;
  at::Tensor codebook;  // (levels), or undefined.

  explicit Levels(const Grid& grid) : scale(grid.scale.detach().to(at::kCPU, at::kDouble)) {
    if (grid.codebook.empty()) {
      zero_point = grid.zero_point.detach().to(at::kCPU, at::kDouble);
    } else {
      codebook = at::tensor(grid.codebook, at::kDouble);
    }
  }

  at::Tensor decode(const at::Tensor& codes) const {
    return scale * (codebook.defined() ? codebook.index({codes}) : codes - zero_point);
  }

  // The codes of the nearest levels, int64.
  at::Tensor encode(const at::Tensor& values, int bits) const {
    // Where the scale is 0 all levels are 0 and any code does.
    const at::Tensor divisor = at::where(scale.eq(0), at::ones_like(scale), scale);
    const at::Tensor units = values.to(at::kDouble) / divisor;
    if (codebook.defined()) {
      const at::Tensor between = (codebook.slice(0, 1) + codebook.slice(0, 0, -1)) / 2;
      return at::bucketize(units, between);
    }
    return (units + zero_point)
        .round()
        .clamp(0, static_cast<double>(highest_code(bits)))
        .to(at::kLong);
  }

  // The largest magnitude of a level, in the shape of the scale.
  at::Tensor largest(int bits) const {
    if (codebook.defined()) {
      return scale.abs() * codebook.abs().max();
    }
    const at::Tensor last = static_cast<double>(highest_code(bits)) - zero_point;
    return scale.abs() * at::max(zero_point.abs(), last.abs());
  }
};

class Packer {
 public:
  Packer(Network& network, const Spec& spec, const std::string& what)
      : network_(network), what_(what) {
    const NetworkChoice& choice = network.shape().choice;
    description_ = {{"format", "bitrung packed"},
                    {"version", 1},
                    {"model", choice.model},
                    {"classes", network.shape().classes},
                    {"dataset", spec.dataset},
                    {"shortcut", choice.shortcut_per_convolution ? "convolution" : "block"},
                    {"image", kImage},
                    {"layers", json::array()}};
  }

  SafetensorsFile pack() {
    std::set<std::string> coded;
    for (const std::unique_ptr<Layer>& layer : network_.layers()) {
      json entry = describe(*layer);
      if (layer->quantizer != nullptr) {
        entry["weights"] = pack_weights(*layer);
        coded.insert(layer->plan.name + ".weight");
      }
      if (layer->input != nullptr) {
        entry["input"] = pack_input(*layer);
      }
      description_["layers"].push_back(std::move(entry));
    }
    // Everything else as it is: float layers, normalisations, what quantizers learned.
    for (const NamedTensor& tensor : network_.state()) {
      if (!coded.contains(tensor.name)) {
        put(tensor.name, to_bytes(tensor.tensor));
      }
    }
    file_.metadata = {
        {"format", "pt"}, {"bitrung.kind", "packed"}, {"bitrung.packed", description_.dump()}};
    return std::move(file_);
  }

 private:
  static json describe(const Layer& layer) {
    const LayerPlan& plan = layer.plan;
    json entry = {{"name", plan.name},
                  {"role", name(plan.role)},
                  {"kind", plan.is_convolution ? "convolution" : "linear"},
                  {"shape", layer.weight.sizes().vec()},
                  {"weights", nullptr},
                  {"input", nullptr}};
    if (plan.is_convolution) {
      entry["stride"] = plan.stride;
      entry["padding"] = plan.kernel / 2;
    }
    return entry;
  }

  void put(const std::string& tensor_name, TensorBytes tensor) {
    const bool inserted = file_.tensors.emplace(tensor_name, std::move(tensor)).second;
    BITRUNG_CHECK(inserted);
  }

  // The tensors of a grid under prefix + "scale" and so on. Shapes lose what only broadcasts: ()
  // or (C).
  json put_grid(const Levels& levels, int bits, const std::string& method,
                const std::string& prefix) {
    const auto flat = [](const at::Tensor& tensor) {
      return tensor.numel() == 1 ? tensor.reshape({}) : tensor.reshape({-1});
    };
    json entry = {{"bits", bits},
                  {"method", method},
                  {"scale", prefix + "scale"},
                  {"zero_point", nullptr},
                  {"codebook", nullptr}};
    put(prefix + "scale", float_tensor(flat(levels.scale)));
    if (levels.codebook.defined()) {
      entry["codebook"] = prefix + "codebook";
      put(prefix + "codebook", to_bytes(levels.codebook));
    } else {
      entry["zero_point"] = prefix + "zero_point";
      put(prefix + "zero_point", float_tensor(flat(levels.zero_point)));
    }
    return entry;
  }

  json pack_weights(const Layer& layer) {
    const std::string prefix = layer.plan.name + ".weight.";
    const int bits = layer.bits.weights;
    const at::Tensor real = layer.weight.detach();
    const at::Tensor quantized = layer.quantizer->quantize(real, kEvaluationPass).to(at::kDouble);
    const std::optional<Grid> grid = layer.quantizer->grid(real);
    BITRUNG_CHECK(grid.has_value());
    // As the file will hold it, in 32 bits.
    const Levels levels(
        Grid{grid->scale.detach().to(at::kFloat),
             grid->zero_point.defined() ? grid->zero_point.detach().to(at::kFloat) : at::Tensor(),
             grid->codebook});
    const at::Tensor codes = levels.encode(quantized, bits);
    const at::Tensor wrong =
        (levels.decode(codes) - quantized).abs().gt(levels.largest(bits) * kDecodeTolerance);
    if (wrong.any().item<bool>()) {
      const at::Tensor first = wrong.view({-1}).nonzero()[0][0];
      const auto value = quantized.reshape({-1})[first.item<std::int64_t>()].item<double>();
      fail_user_error(what_ + ": " + std::to_string(wrong.sum().item<std::int64_t>()) +
                      " weights of layer " + layer.plan.name + ", for instance " +
                      std::to_string(value) + ", are none of the " +
                      std::to_string(highest_code(bits) + 1) + " levels of method " +
                      layer.weight_method + " at " + std::to_string(bits) +
                      (bits == 1 ? " bit" : " bits") + ", so no code stands for them");
    }
    json entry = put_grid(levels, bits, layer.weight_method, prefix);
    entry["codes"] = prefix + "codes";
    put(prefix + "codes", pack_codes(codes, bits));

    // A method that scales the output of the layer does so by a factor for each channel.
    entry["output_scale"] = nullptr;
    const at::Tensor ones = layer.plan.is_convolution
                                ? at::ones({1, layer.plan.out, 1, 1}, real.options())
                                : at::ones({1, layer.plan.out}, real.options());
    const at::Tensor factors = layer.quantizer->scale_output(ones);
    if (!factors.equal(ones)) {
      entry["output_scale"] = prefix + "output_scale";
      put(prefix + "output_scale", float_tensor(factors.reshape({-1})));
    }
    return entry;
  }

  json pack_input(const Layer& layer) {
    const std::string prefix = layer.plan.name + ".input.";
    const int bits = layer.bits.activations;
    const std::optional<Grid> grid = layer.input->grid();
    BITRUNG_CHECK(grid.has_value());
    const Levels levels(*grid);
    json entry = put_grid(levels, bits, layer.activation_method, prefix);
    entry["relu"] = layer.input->takes_relu();
    entry["thresholds"] = nullptr;
    if (bits <= kThresholdBitsMax) {
      entry["thresholds"] = prefix + "thresholds";
      put(prefix + "thresholds", float_tensor(find_thresholds(layer, levels)));
    }
    return entry;
  }

  // For each step of the grid the smallest input that reaches it, to the last bit: the code of x is
  // the number of thresholds that x is not below. Found by bisection, so that no method's rule has
  // to be written down twice. (2^bits - 1), or (channels, 2^bits - 1) if channels differ.
  at::Tensor find_thresholds(const Layer& layer, const Levels& levels) {
    const std::int64_t channels = layer.plan.in;
    const std::int64_t steps = highest_code(layer.bits.activations);
    const auto reached = [&](const at::Tensor& x) {  // (channels, steps), bool
      const bool is_image = layer.plan.is_convolution;
      const at::Tensor shaped =
          is_image ? x.view({1, channels, steps, 1}) : x.t().contiguous();  // Or (steps, channels).
      const at::Tensor quantized = layer.input->quantize(shaped, kEvaluationPass).to(at::kDouble);
      const at::Tensor codes = levels.encode(quantized, layer.bits.activations);
      const at::Tensor found = is_image ? codes.view({channels, steps}) : codes.t();
      return found.gt(at::arange(steps, at::kLong));
    };
    // Keys of floats in their order; see to_floats().
    at::Tensor below = at::full({channels, steps}, key_of(-kInputMax), at::kLong);
    at::Tensor above = at::full({channels, steps}, key_of(kInputMax), at::kLong);
    const at::Tensor always = reached(to_floats(below));
    const at::Tensor never = reached(to_floats(above)).logical_not();
    while ((above - below).max().item<std::int64_t>() > 1) {
      const at::Tensor middle = (below + above).div(2, "floor");
      const at::Tensor is_reached = reached(to_floats(middle));
      above = at::where(is_reached, middle, above);
      below = at::where(is_reached, below, middle);
    }
    const double infinity = std::numeric_limits<double>::infinity();
    at::Tensor thresholds = to_floats(above);
    thresholds = thresholds.masked_fill(always, -infinity).masked_fill(never, infinity);
    return thresholds.eq(thresholds[0]).all().item<bool>() ? thresholds[0] : thresholds;
  }

  // Integers that order floats as their values do, negative ones included.
  static std::int64_t key_of(float value) {
    const auto bits = std::bit_cast<std::int32_t>(value);
    return bits >= 0 ? bits : std::int64_t{std::numeric_limits<std::int32_t>::min()} - bits;
  }

  static at::Tensor to_floats(const at::Tensor& keys) {
    at::Tensor values = at::empty(keys.sizes(), at::kFloat);
    const at::Tensor rows = keys.contiguous();
    const std::int64_t* const from = rows.data_ptr<std::int64_t>();
    float* const to = values.data_ptr<float>();
    for (std::int64_t i = 0; i < rows.numel(); ++i) {
      const std::int64_t key = from[i];
      const auto bits = static_cast<std::int32_t>(
          key >= 0 ? key : std::int64_t{std::numeric_limits<std::int32_t>::min()} - key);
      to[i] = key == 0 ? 0.0F : std::bit_cast<float>(bits);
    }
    return values;
  }

  Network& network_;
  const std::string& what_;
  json description_;
  SafetensorsFile file_;
};

}  // namespace

SafetensorsFile pack_checkpoint(const SafetensorsFile& checkpoint, const std::string& what) {
  const at::NoGradGuard no_grad;
  const auto written = checkpoint.metadata.find("bitrung.spec");
  if (written == checkpoint.metadata.end()) {
    fail_user_error(what + ": its metadata has no bitrung.spec, so it is not known how it is " +
                    "quantized; only checkpoints of bitrung's trainer can be packed");
  }
  Spec spec;
  try {
    spec = parse_spec(written->second, NumericsRule::kAny);
  } catch (const Failure& failure) {
    fail_user_error(what + ": its metadata bitrung.spec is not understood: " + failure.what());
  }
  const NetworkShape shape{spec.network, class_count(spec.dataset)};
  const std::unique_ptr<Network> network =
      make_network(shape, /*seed=*/0, at::TensorOptions().dtype(at::kFloat));
  load_network(checkpoint, what, LoadRule::kExact, *network);
  return Packer(*network, spec, what).pack();
}

void pack_file(const std::filesystem::path& checkpoint, const std::filesystem::path& out) {
  const std::string what = "checkpoint " + checkpoint.string();
  write_safetensors(out, pack_checkpoint(read_checkpoint(checkpoint, what), what));
}

}  // namespace bitrung::train
