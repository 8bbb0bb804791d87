#include "worker/train/quant/methods.h"

#include <algorithm>
#include <array>

namespace bitrung::train {

namespace {

using enum MethodOption;

constexpr std::array kLinearOptions = {kRange, kGranularity, kEmaDecay};
constexpr std::array kAffineOptions = {kGranularity, kEmaDecay, kScale};
constexpr std::array kGranularityOption = {kGranularity};
constexpr std::array kClipOptions = {kClipInit, kClipDecay};

constexpr std::string_view kNoSignOnly = "its weights have 2^k - 1 levels, which is one for 1 bit";
constexpr std::string_view kNoClip = "its clipping rule has no coefficients for 1 bit";
constexpr std::string_view kNoMagnitude =
    "one bit of each weight is its sign, so 1 bit leaves none for the powers of two";

constexpr std::array<MethodInfo, 14> kMethods = {{
    {.name = "dorefa",
     .summary = "DoReFa as the published bit ladders were trained: weights keep their scale, no "
                "gradient flows through it, 1-bit activations are 1 for every positive value",
     .source = "Zhou et al. 2016, arXiv 1606.06160"},
    {.name = "dorefa-paper",
     .summary = "DoReFa as published: weights in [-1, 1], the gradient flows through the maximum, "
                "1-bit activations are rounded at 1/2",
     .source = "Zhou et al. 2016, arXiv 1606.06160"},
    {.name = "linear",
     .summary = "Range-based linear: the grid spans the tensor's range; activation ranges are "
                "tracked by a moving average and clamped",
     .source = "Jacob et al. 2017, arXiv 1712.05877",
     .options = kLinearOptions},
    {.name = "pact",
     .summary = "Activations clipped at a learned level; weights as dorefa",
     .source = "Choi et al. 2018, arXiv 1805.06085",
     .options = kClipOptions},
    {.name = "sawb",
     .summary = "Weights clipped where their first two moments say; for activations take pact",
     .source = "Choi et al. 2019, Accurate and efficient 2-bit quantized neural networks, MLSys",
     .has_activations = false,
     .one_bit_weights = kNoClip},
    {.name = "wrpn",
     .summary = "Weights clipped to [-1, 1] with one bit for the sign, for widened networks",
     .source = "Mishra et al. 2017, arXiv 1709.01134",
     .one_bit_weights = kNoSignOnly},
    {.name = "affine",
     .summary = "PyTorch's fake quantization: integer zero point, scale tracked or learned",
     .source = "PyTorch, torch.fake_quantize_per_tensor_affine",
     .options = kAffineOptions},
    {.name = "lsq",
     .summary = "Learned step size",
     .source = "Esser et al. 2019, arXiv 1902.08153",
     .options = kGranularityOption},
    {.name = "lsq-plus",
     .summary = "Learned step size and, for activations, offset",
     .source = "Bhalgat et al. 2020, arXiv 2004.09576",
     .options = kGranularityOption},
    {.name = "apot",
     .summary = "Levels that are sums of powers of two, clipped at a learned level",
     .source = "Li et al. 2019, arXiv 1909.13144",
     .one_bit_weights = kNoMagnitude},
    {.name = "xnor",
     .summary = "Signs with a scale for each output channel",
     .source = "Rastegari et al. 2016, arXiv 1603.05279"},
    {.name = "ir-net",
     .summary = "Balanced, standardized weights and a gradient that sharpens during the training",
     .source = "Qin et al. 2019, arXiv 1909.10788",
     .wants_shortcut_per_convolution = true},
    {.name = "recu",
     .summary =
         "Weights clamped to a quantile that rises during the training, so that far-off ones "
         "come back",
     .source = "Xu et al. 2021, arXiv 2103.12369",
     .wants_shortcut_per_convolution = true},
    {.name = "react",
     .summary = "Signs of shifted activations and a learned, shifted PReLU after each sum",
     .source = "Liu et al. 2020, arXiv 2003.03488",
     .wants_shortcut_per_convolution = true},
}};

}  // namespace

bool MethodInfo::has(MethodOption option) const {
  return std::find(options.begin(), options.end(), option) != options.end();
}

std::span<const MethodInfo> methods() {
  return kMethods;
}

const MethodInfo* find_method(std::string_view name) {
  const auto found = std::find_if(kMethods.begin(), kMethods.end(),
                                  [name](const MethodInfo& info) { return info.name == name; });
  return found == kMethods.end() ? nullptr : &*found;
}

std::optional<std::string> refusal(const MethodInfo& method, Part part, int bits,
                                   const MethodOptions& options) {
  const bool is_weights = part == Part::kWeights;
  const std::string who =
      std::string(method.name) + " cannot quantize " + (is_weights ? "weights" : "activations");
  if (!(is_weights ? method.has_weights : method.has_activations)) {
    return who + "; it is for " + (is_weights ? "activations" : "weights") + " only";
  }
  if (bits != 1) {
    return std::nullopt;
  }
  const std::string_view reason = is_weights ? method.one_bit_weights : method.one_bit_activations;
  if (!reason.empty()) {
    return who + " to 1 bit: " + std::string(reason);
  }
  if (method.has(MethodOption::kRange) && options.range == "symmetric-restricted") {
    return who + " to 1 bit with range symmetric-restricted: it has 2^k - 1 levels, which is one";
  }
  return std::nullopt;
}

}  // namespace bitrung::train
