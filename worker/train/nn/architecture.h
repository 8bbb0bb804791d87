// The networks by name: which layers they have, and what each costs.
//
// Shared by the trainer, which builds them (network.h), and by whoever only counts or checks. No
// LibTorch; pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bitrung::train {

enum class Family : std::uint8_t {
  kResNet,  // Pre-activation residual networks of He et al. 2016, arXiv 1603.05027, section 4.
  kPlane,   // Plain convolutional networks of Mirzadeh et al. 2019, arXiv 1902.03393.
};

struct Architecture {
  Family family = Family::kResNet;
  int depth = 20;
  int width = 1;  // Multiplies the channels of every layer but the last.
  bool bottleneck = false;
  // A shortcut round each convolution, and the normalisations behind the convolutions (resnet.h).
  // Chosen beside the name; only for residual networks of basic blocks.
  bool shortcut_per_convolution = false;
  bool operator==(const Architecture&) const = default;
};

// "resnet20", "resnet20x2" (twice as wide), "resnet56-bottleneck", "plane4x2"; nothing for other
// names.
std::optional<Architecture> parse_architecture(std::string_view model);

// What parse_architecture takes, to stand after "expected".
std::string_view model_names();

// The names without a width multiplier.
std::vector<std::string> plain_model_names();

enum class LayerRole : std::uint8_t {
  kFirst,     // Sees the image.
  kInner,     // What "bits" is about.
  kShortcut,  // 1 x 1 convolution beside a block.
  kLast,      // Gives the logits.
};

std::string_view name(LayerRole role);  // "first", "inner", "shortcut", "last".

// A convolution (no bias, padding of half the kernel) or a linear layer (with bias).
struct LayerPlan {
  std::string name;  // As in state_dict without ".weight": "layer2.0.downsample.0".
  LayerRole role = LayerRole::kInner;
  bool is_convolution = true;
  std::int64_t in = 0;
  std::int64_t out = 0;
  std::int64_t kernel = 1;  // Of an edge; 1 for linear layers.
  std::int64_t stride = 1;
  std::int64_t out_side = 1;  // Pixels of an edge of the output; 1 for linear layers.

  std::int64_t weight_count() const { return in * out * kernel * kernel; }
  // Multiply-accumulates for one image.
  std::int64_t macs() const { return weight_count() * out_side * out_side; }
};

// A batch normalisation.
struct NormPlan {
  std::string name;  // "layer1.0.bn1".
  std::int64_t channels = 0;
};

struct NetworkPlan {
  std::vector<LayerPlan>
      layers;  // In the order of the forward pass, a shortcut after its block's first layer.
  std::vector<NormPlan> norms;

  std::int64_t parameter_count() const;  // Weights, biases of linear layers, normalisations.
  std::int64_t macs() const;             // For one image.
};

// For images of 32 x 32 pixels.
NetworkPlan network_plan(const Architecture& architecture, int classes);

inline std::vector<LayerPlan> layer_plans(const Architecture& architecture, int classes) {
  return network_plan(architecture, classes).layers;
}

// Layers of a plane network in order: the output channels of a convolution, kPool, or the outputs
// of a linear layer (all but the last are followed by a ReLU). The last is the classes.
struct PlaneStep {
  enum class Kind : std::uint8_t { kConvolution, kPool, kLinear };
  Kind kind;
  std::int64_t out;  // 0 for kPool.
};
std::vector<PlaneStep> plane_steps(const Architecture& architecture, int classes);

// Blocks in each of the three stages of a residual network.
int blocks_per_stage(const Architecture& architecture);

// Whether the pattern, in which '*' stands for any text, matches the whole name.
bool matches(std::string_view pattern, std::string_view name);

}  // namespace bitrung::train
