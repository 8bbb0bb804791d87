// The options of a training: one table, the source of parsing, defaults, suggestions and help.
//
// Names and limits of quantization methods and networks come from the trainer's own tables. Holds
// no values and reads no file; option_values.h does. Constant data, thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "worker/train/quant/methods.h"

namespace bitrung::client {

// Rows of the table, in its order.
enum class Option : std::uint8_t {
  kModel,
  kShortcut,
  kDataset,
  kSyntheticTrainImages,
  kSyntheticTestImages,
  kSyntheticSeed,
  kTrainImages,
  kMethodWeights,
  kMethodActivations,
  kMethodRange,
  kMethodGranularity,
  kMethodEmaDecay,
  kMethodScale,
  kMethodClipInit,
  kMethodClipDecay,
  kBitsWeights,
  kBitsActivations,
  kBitsGradients,
  kBitsFirst,
  kBitsShortcut,
  kBitsLast,
  kBitsLayers,
  kEpochs,
  kBatchSize,
  kSeed,
  kOptimizerKind,
  kLearningRate,
  kMomentum,
  kWeightDecay,
  kNesterov,
  kScheduleKind,
  kScheduleAt,
  kScheduleFactor,
  kWarmupEpochs,
  kAugment,
  kValidation,
  kBackend,
  kInit,
  kDistillKind,
  kDistillTemperature,
  kDistillTemperatureEnd,
  kDistillWeight,
  kDistillWeightEnd,
  kDistillSchedule,
  kDistillSelfStudy,
  kDistillAttention,
  kDistillHint,
  kDistillSimilarity,
  kDistillAlpha,
  kDistillBeta,
  kTeacher,
  kQuantize,
  kEvaluate,
  kCalibrationBatches,
  kCalibrationBatchSize,
  kCalibrationClip,
  kCalibrationSd,
  kCalibrationPercentile,
  kCalibrationBatchNorm,
  kRetries,
  kTimeout,
  kPriority,
  kDevices,
  kMemory,
};
inline constexpr std::size_t kOptionCount = static_cast<std::size_t>(Option::kMemory) + 1;

enum class OptionKind : std::uint8_t {
  kModel,     // A name that worker/train/nn/architecture.h takes.
  kWord,      // One of `words`.
  kWordList,  // Any of `words`, each once.
  kInteger,   // In the range.
  kReal,      // In the range, finite.
  kEnd,       // The same, or "start": the value that it starts from.
  kBoolean,
  kFractions,  // Ascending reals between 0 and 1.
  kBits,       // 1 to 8, 16, 32.
  kLayerBits,  // Bits by patterns of layer names.
  kDuration,   // Seconds, or text with a unit.
  kMemory,     // Bytes, or text with a unit.
  kTeacher,    // Job or outside file, or a list of them.
  kInit,       // Word, job or outside file.
  kSource,     // Job or outside file.
};

struct Range {
  double minimum = 0;
  double maximum = 0;
  bool above_minimum = false;  // The minimum itself is not allowed.
  bool below_maximum = false;
};

struct OptionInfo {
  Option option;
  std::string_view name;  // Dotted: "optimizer.learning_rate".
  OptionKind kind;
  std::string_view default_text;  // YAML; read by the same parser as the file.
  Range range;
  std::span<const std::string_view> words;
  std::string_view help;  // One sentence.

  // "optimizer" of "optimizer.learning_rate", empty for "seed".
  std::string_view group() const;
  // "learning_rate" of "optimizer.learning_rate".
  std::string_view leaf() const;
};

// All rows, in the order of Option.
std::span<const OptionInfo> option_table();
const OptionInfo& info(Option option);

// The row of this dotted name; nothing for groups and unknown names.
const OptionInfo* find_option(std::string_view name);
// The name heads at least one dotted name: "optimizer".
bool is_option_group(std::string_view name);

// What a value may be, to stand after "expected": "an integer from 1 to 65,536".
std::string allowed_values(const OptionInfo& info);

// The option of the experiment file that sets an option of a method.
Option option_of(train::MethodOption option);

// The table as text for people: name, default, what is allowed, one sentence each.
std::string option_reference();

}  // namespace bitrung::client
