#include "worker/train/nn/architecture.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "db/base/check.h"

namespace bitrung::train {

namespace {

constexpr std::int64_t kImageSide = 32;
constexpr std::int64_t kColours = 3;
constexpr std::int64_t kFirstWidth = 16;
constexpr int kStages = 3;
constexpr std::int64_t kBottleneckExpansion = 4;
constexpr int kWidthMax = 8;

constexpr std::array kBasicDepths = {8, 14, 20, 26, 32, 44, 56, 110};  // 6 n + 2
constexpr std::array kBottleneckDepths = {20, 29, 47, 56, 110, 164};   // 9 n + 2
constexpr std::array kPlaneDepths = {2, 4, 6, 8, 10};

// Takes a decimal number without sign or leading zero off the front.
std::optional<int> take_number(std::string_view& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || text.front() == '-' || text.front() == '0') {
    return std::nullopt;
  }
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) {
    return false;
  }
  text.remove_prefix(prefix.size());
  return true;
}

template <typename Depths>
bool contains(const Depths& depths, int depth) {
  return std::find(depths.begin(), depths.end(), depth) != depths.end();
}

// Collects a residual network.
class ResNetPlanner {
 public:
  ResNetPlanner(const Architecture& architecture, int classes)
      : architecture_(architecture), classes_(classes) {}

  NetworkPlan plan() {
    std::int64_t channels = kFirstWidth * architecture_.width;
    std::int64_t in = channels;
    side_ = kImageSide;
    convolution("conv1", LayerRole::kFirst, kColours, in, 3, 1);
    if (architecture_.shortcut_per_convolution) {
      norm("bn1", in);
    }
    for (int stage = 0; stage < kStages; ++stage) {
      for (int block = 0; block < blocks_per_stage(architecture_); ++block) {
        const std::int64_t stride = stage > 0 && block == 0 ? 2 : 1;
        const std::string name =
            "layer" + std::to_string(stage + 1) + "." + std::to_string(block) + ".";
        in = architecture_.bottleneck ? bottleneck(name, in, channels, stride)
                                      : basic_block(name, in, channels, stride);
      }
      channels *= 2;
    }
    norm("bn", in);
    plan_.layers.push_back({"fc", LayerRole::kLast, false, in, classes_, 1, 1, 1});
    return std::move(plan_);
  }

 private:
  void norm(std::string name, std::int64_t channels) {
    plan_.norms.push_back({std::move(name), channels});
  }

  void convolution(std::string name, LayerRole role, std::int64_t in, std::int64_t out,
                   std::int64_t kernel, std::int64_t stride) {
    plan_.layers.push_back({std::move(name), role, true, in, out, kernel, stride, side_ / stride});
  }

  std::int64_t basic_block(const std::string& name, std::int64_t in, std::int64_t channels,
                           std::int64_t stride) {
    norm(name + "bn1", architecture_.shortcut_per_convolution ? channels : in);
    convolution(name + "conv1", LayerRole::kInner, in, channels, 3, stride);
    shortcut(name, in, channels, stride);
    side_ /= stride;
    norm(name + "bn2", channels);
    convolution(name + "conv2", LayerRole::kInner, channels, channels, 3, 1);
    return channels;
  }

  std::int64_t bottleneck(const std::string& name, std::int64_t in, std::int64_t channels,
                          std::int64_t stride) {
    const std::int64_t out = channels * kBottleneckExpansion;
    norm(name + "bn1", in);
    convolution(name + "conv1", LayerRole::kInner, in, channels, 1, 1);
    shortcut(name, in, out, stride);
    norm(name + "bn2", channels);
    convolution(name + "conv2", LayerRole::kInner, channels, channels, 3, stride);
    side_ /= stride;
    norm(name + "bn3", channels);
    convolution(name + "conv3", LayerRole::kInner, channels, out, 1, 1);
    return out;
  }

  void shortcut(const std::string& name, std::int64_t in, std::int64_t out, std::int64_t stride) {
    if (stride != 1 || in != out) {
      convolution(name + "downsample.0", LayerRole::kShortcut, in, out, 1, stride);
      if (architecture_.shortcut_per_convolution) {
        norm(name + "downsample.1", out);
      }
    }
  }

  const Architecture& architecture_;
  const int classes_;
  std::int64_t side_ = kImageSide;
  NetworkPlan plan_;
};

NetworkPlan plane_plan(const Architecture& architecture, int classes) {
  NetworkPlan plan;
  const std::vector<PlaneStep> steps = plane_steps(architecture, classes);
  std::int64_t in = kColours;
  std::int64_t side = kImageSide;
  int convolutions = 0;
  int linear_layers = 0;
  for (const PlaneStep& step : steps) {
    switch (step.kind) {
      case PlaneStep::Kind::kPool:
        side /= 2;
        break;
      case PlaneStep::Kind::kConvolution: {
        const std::string number = std::to_string(++convolutions);
        plan.layers.push_back({"conv" + number,
                               convolutions == 1 ? LayerRole::kFirst : LayerRole::kInner, true, in,
                               step.out, 3, 1, side});
        plan.norms.push_back({"bn" + number, step.out});
        in = step.out;
        break;
      }
      case PlaneStep::Kind::kLinear: {
        const bool is_last = &step == &steps.back();
        if (linear_layers == 0) {
          in *= side * side;
        }
        plan.layers.push_back({"fc" + std::to_string(++linear_layers),
                               is_last ? LayerRole::kLast : LayerRole::kInner, false, in, step.out,
                               1, 1, 1});
        in = step.out;
        break;
      }
    }
  }
  return plan;
}

}  // namespace

std::optional<Architecture> parse_architecture(std::string_view model) {
  Architecture result;
  if (take_prefix(model, "plane")) {
    result.family = Family::kPlane;
  } else if (!take_prefix(model, "resnet")) {
    return std::nullopt;
  }
  const auto depth = model.empty() ? std::nullopt : take_number(model);
  if (!depth) {
    return std::nullopt;
  }
  result.depth = *depth;
  if (take_prefix(model, "x")) {
    const auto width = model.empty() ? std::nullopt : take_number(model);
    if (!width || *width < 2 || *width > kWidthMax) {
      return std::nullopt;
    }
    result.width = *width;
  }
  if (result.family == Family::kResNet && take_prefix(model, "-bottleneck")) {
    result.bottleneck = true;
  }
  const bool is_known = result.family == Family::kPlane ? contains(kPlaneDepths, result.depth)
                        : result.bottleneck             ? contains(kBottleneckDepths, result.depth)
                                                        : contains(kBasicDepths, result.depth);
  return is_known && model.empty() ? std::optional(result) : std::nullopt;
}

std::string_view model_names() {
  return "resnet8, 14, 20, 26, 32, 44, 56 or 110, resnet20-bottleneck, 29, 47, 56, 110 or 164, "
         "plane2, 4, 6, 8 or 10, each also wider: resnet20x2 to x8";
}

std::vector<std::string> plain_model_names() {
  std::vector<std::string> names;
  for (const int depth : kBasicDepths) {
    names.push_back("resnet" + std::to_string(depth));
  }
  for (const int depth : kBottleneckDepths) {
    names.push_back("resnet" + std::to_string(depth) + "-bottleneck");
  }
  for (const int depth : kPlaneDepths) {
    names.push_back("plane" + std::to_string(depth));
  }
  return names;
}

std::string_view name(LayerRole role) {
  switch (role) {
    case LayerRole::kFirst:
      return "first";
    case LayerRole::kInner:
      return "inner";
    case LayerRole::kShortcut:
      return "shortcut";
    case LayerRole::kLast:
      return "last";
  }
  BITRUNG_CHECK(!"a role without a name");
}

std::int64_t NetworkPlan::parameter_count() const {
  std::int64_t count = 0;
  for (const LayerPlan& layer : layers) {
    count += layer.weight_count() + (layer.is_convolution ? 0 : layer.out);
  }
  for (const NormPlan& norm : norms) {
    count += 2 * norm.channels;
  }
  return count;
}

std::int64_t NetworkPlan::macs() const {
  std::int64_t sum = 0;
  for (const LayerPlan& layer : layers) {
    sum += layer.macs();
  }
  return sum;
}

NetworkPlan network_plan(const Architecture& architecture, int classes) {
  return architecture.family == Family::kPlane ? plane_plan(architecture, classes)
                                               : ResNetPlanner(architecture, classes).plan();
}

// The layers that Mirzadeh et al. publish for 10 classes; for 100 they double the convolutions and
// widen the linear layers.
std::vector<PlaneStep> plane_steps(const Architecture& architecture, int classes) {
  using enum PlaneStep::Kind;
  const bool is_wide = classes > 10;
  const bool is_deepest = architecture.depth == 10;
  const std::int64_t first = (is_wide || is_deepest ? 32 : 16) * architecture.width;
  std::vector<PlaneStep> steps;
  const auto stage = [&steps](std::int64_t channels, int convolutions) {
    steps.insert(steps.end(), static_cast<std::size_t>(convolutions), {kConvolution, channels});
    steps.push_back({kPool, 0});
  };
  switch (architecture.depth) {
    case 2:
      stage(first, 1);
      stage(first, 1);
      break;
    case 4:
      stage(first, 2);
      stage(first * 2, 2);
      break;
    case 6:
      stage(first, 2);
      stage(first * 2, 2);
      stage(first * 4, 2);
      if (is_wide) {
        steps.pop_back();  // The published network for 100 classes has no third pooling.
      }
      break;
    case 8:
      stage(first, 2);
      stage(first * 2, 2);
      stage(first * 4, 2);
      stage(first * 8, 2);
      steps.push_back({kLinear, 64 * architecture.width});
      break;
    case 10:
      stage(first, 2);
      stage(first * 2, 2);
      stage(first * 4, 2);
      stage(first * 8, 4);
      steps.push_back({kLinear, (is_wide ? 512 : 128) * architecture.width});
      break;
    default:
      BITRUNG_CHECK(!"a plane network of unknown depth");
  }
  steps.push_back({kLinear, classes});
  return steps;
}

int blocks_per_stage(const Architecture& architecture) {
  BITRUNG_CHECK(architecture.family == Family::kResNet);
  return (architecture.depth - 2) / (architecture.bottleneck ? 9 : 6);
}

bool matches(std::string_view pattern, std::string_view name) {
  // The last '*' met takes as little as possible and more when the rest does not fit.
  std::size_t p = 0;
  std::size_t n = 0;
  std::size_t star = std::string_view::npos;
  std::size_t taken = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++taken;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') {
    ++p;
  }
  return p == pattern.size();
}

}  // namespace bitrung::train
