// What is known of each quantization method without computing: its names, options and limits.
//
// The one table behind the experiment file, its help, the documentation and the trainer's registry
// (quantizer.h). Constant data without LibTorch, thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace bitrung::train {

// Bits of what is not quantized.
inline constexpr int kFullPrecisionBits = 32;

// The part of a network that a method is asked to quantize.
enum class Part : std::uint8_t { kWeights, kActivations };

// Options that only some methods have: experiment file "method.range" and so on.
enum class MethodOption : std::uint8_t {
  kRange,        // "asymmetric", "symmetric" or "symmetric-restricted".
  kGranularity,  // "tensor" or "channel" (an output channel of the weights).
  kEmaDecay,     // Share of a tracked activation range that a step keeps.
  kScale,        // "fixed" (to the tracked range) or "learned".
  kClipInit,     // First value of a learned clipping level.
  kClipDecay,    // Weight decay of a learned clipping level.
};

// Values of those options; one that the method does not have is ignored.
struct MethodOptions {
  std::string range = "symmetric";
  std::string granularity = "tensor";
  double ema_decay = 0.999;
  std::string scale = "fixed";
  double clip_init = 8.0;
  double clip_decay = 1e-4;
  bool operator==(const MethodOptions&) const = default;
};

struct MethodInfo {
  std::string_view name;
  std::string_view summary;  // One sentence.
  std::string_view source;   // Of its formulas.
  bool has_weights = true;
  bool has_activations = true;
  // Why 1 bit is refused; empty where it works.
  std::string_view one_bit_weights = {};
  std::string_view one_bit_activations = {};
  // It was published with a real-valued shortcut round each convolution.
  bool wants_shortcut_per_convolution = false;
  std::span<const MethodOption> options = {};

  bool has(MethodOption option) const;
};

// In the order of the documentation.
std::span<const MethodInfo> methods();

// Nothing for an unknown name.
const MethodInfo* find_method(std::string_view name);

// Why the method cannot quantize this part to so many bits (1 to 8, 16 or 32); nothing if it can.
std::optional<std::string> refusal(const MethodInfo& method, Part part, int bits,
                                   const MethodOptions& options);

}  // namespace bitrung::train
