#include "client/experiment/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <vector>

#include "client/experiment/text.h"
#include "db/base/check.h"
#include "worker/train/nn/architecture.h"

namespace bitrung::client {
namespace {

constexpr std::array<std::string_view, 3> kDatasets = {"cifar10", "cifar100", "synthetic"};
constexpr std::array<std::string_view, 3> kShortcuts = {"auto", "block", "convolution"};
constexpr std::array<std::string_view, 3> kRanges = {"asymmetric", "symmetric",
                                                     "symmetric-restricted"};
constexpr std::array<std::string_view, 2> kGranularities = {"tensor", "channel"};
constexpr std::array<std::string_view, 2> kScales = {"fixed", "learned"};
constexpr std::array<std::string_view, 1> kOptimizers = {"sgd"};
constexpr std::array<std::string_view, 3> kSchedules = {"step", "cosine", "constant"};
constexpr std::array<std::string_view, 2> kAugmentations = {"crop", "flip"};
constexpr std::array<std::string_view, 3> kBackends = {"auto", "fused", "eager"};
constexpr std::array<std::string_view, 2> kDistillKinds = {"kd", "dkd"};
constexpr std::array<std::string_view, 3> kDistillSchedules = {"constant", "linear", "cosine"};
constexpr std::array<std::string_view, 6> kClips = {"minmax",     "average",    "sd",
                                                    "percentile", "aciq-gauss", "aciq-laplace"};

// Readers of JSON that keep numbers as doubles, such as a browser, hold integers exactly up to
// here.
constexpr double kSeedMax = 9007199254740991;
// The trainer keeps a synthetic data set in memory, 3 KiB an image.
constexpr double kSyntheticImagesMax = 200'000;
constexpr double kTimeoutSecondsMax = 366.0 * 86'400;
constexpr double kTemperatureMin = 0.001;
constexpr double kTemperatureMax = 1'000'000;
constexpr double kLossWeightMax = 1'000'000;

constexpr Range from(double minimum, double maximum) {
  return {minimum, maximum, false, false};
}
constexpr Range above(double minimum, double maximum) {
  return {minimum, maximum, true, false};
}
constexpr Range below(double minimum, double maximum) {
  return {minimum, maximum, false, true};
}

using enum OptionKind;

std::span<const std::string_view> method_words() {
  static const std::vector<std::string_view> words = [] {
    std::vector<std::string_view> names;
    for (const train::MethodInfo& method : train::methods()) names.push_back(method.name);
    return names;
  }();
  return words;
}

// clang-format off
std::array<OptionInfo, kOptionCount> make_table() {
  const std::span<const std::string_view> methods = method_words();
  return {{
    {Option::kModel, "model", OptionKind::kModel, "resnet20", {}, {},
     "Network: a CIFAR ResNet or a plain network of this depth; x2 doubles its channels."},
    {Option::kShortcut, "shortcut", kWord, "auto", {}, kShortcuts,
     "What a ResNet's shortcuts span: a block, each convolution, or what the method was published with."},
    {Option::kDataset, "dataset", kWord, "cifar10", {}, kDatasets,
     "Images to learn; synthetic ones are drawn on the spot and need no download."},
    {Option::kSyntheticTrainImages, "synthetic.train_images", kInteger, "8000", from(1, kSyntheticImagesMax), {},
     "Training images of the synthetic data set."},
    {Option::kSyntheticTestImages, "synthetic.test_images", kInteger, "2000", from(1, kSyntheticImagesMax), {},
     "Test images of the synthetic data set."},
    {Option::kSyntheticSeed, "synthetic.seed", kInteger, "1", from(0, kSeedMax), {},
     "Draws another synthetic data set."},
    {Option::kTrainImages, "train_images", kInteger, "0", from(0, 1'000'000), {},
     "Only the first so many training images, held-out ones included; 0 for all."},
    {Option::kMethodWeights, "method.weights", kWord, "dorefa", {}, methods,
     "How weights are quantized; \"method: NAME\" sets both."},
    {Option::kMethodActivations, "method.activations", kWord, "dorefa", {}, methods,
     "How activations are quantized."},
    {Option::kMethodRange, "method.range", kWord, "symmetric", {}, kRanges,
     "What the grid spans."},
    {Option::kMethodGranularity, "method.granularity", kWord, "tensor", {}, kGranularities,
     "Weights have one scale in all, or one for each output channel."},
    {Option::kMethodEmaDecay, "method.ema_decay", kReal, "0.999", below(0, 1), {},
     "Share of the tracked range of the activations that a step keeps."},
    {Option::kMethodScale, "method.scale", kWord, "fixed", {}, kScales,
     "The scale follows the tracked range, or is learned."},
    {Option::kMethodClipInit, "method.clip_init", kReal, "8", from(1e-6, 1e6), {},
     "First value of the learned clipping level."},
    {Option::kMethodClipDecay, "method.clip_decay", kReal, "1e-4", from(0, 1000), {},
     "Weight decay of the learned clipping level."},
    {Option::kBitsWeights, "bits.weights", kBits, "32", {}, {},
     "Bits of a weight; \"bits: 4\" sets both, \"bits: w1a32\" each."},
    {Option::kBitsActivations, "bits.activations", kBits, "32", {}, {},
     "Bits of an activation."},
    {Option::kBitsGradients, "bits.gradients", kBits, "32", {}, {},
     "Bits of the gradients that leave quantized layers; only with dorefa-paper."},
    {Option::kBitsFirst, "bits.first", kBits, "32", {}, {},
     "Bits of the first layer's weights."},
    {Option::kBitsShortcut, "bits.shortcut", kBits, "32", {}, {},
     "Bits of the weights of the shortcuts' 1x1 convolutions."},
    {Option::kBitsLast, "bits.last", kBits, "32", {}, {},
     "Bits of the last layer's weights and of its input."},
    {Option::kBitsLayers, "bits.layers", kLayerBits, "{}", {}, {},
     "Bits of single layers; of several patterns that match, the last one counts."},
    {Option::kEpochs, "epochs", kInteger, "160", from(1, 1'000'000), {},
     "Passes over the training images."},
    {Option::kBatchSize, "batch_size", kInteger, "128", from(1, 65'536), {},
     "Images per optimizer step."},
    {Option::kSeed, "seed", kInteger, "20", from(0, kSeedMax), {},
     "Draws the initial weights, the order of the images and the augmentation."},
    {Option::kOptimizerKind, "optimizer.kind", kWord, "sgd", {}, kOptimizers,
     "Stochastic gradient descent with momentum."},
    {Option::kLearningRate, "optimizer.learning_rate", kReal, "0.1", above(0, 1000), {},
     "Rate at the start of the schedule."},
    {Option::kMomentum, "optimizer.momentum", kReal, "0.9", below(0, 1), {},
     "Share of the previous step that is kept."},
    {Option::kWeightDecay, "optimizer.weight_decay", kReal, "1e-4", from(0, 1000), {},
     "L2 penalty on the weights."},
    {Option::kNesterov, "optimizer.nesterov", kBoolean, "false", {}, {},
     "Nesterov momentum; needs a momentum above 0."},
    {Option::kScheduleKind, "schedule.kind", kWord, "step", {}, kSchedules,
     "How the learning rate falls; \"schedule: cosine\" is short for it."},
    {Option::kScheduleAt, "schedule.at", kFractions, "[0.5, 0.75]", {}, {},
     "Step schedule: parts of the training after which the rate falls."},
    {Option::kScheduleFactor, "schedule.factor", kReal, "0.1", above(0, 1), {},
     "Step schedule: the rate is multiplied by this at each step."},
    {Option::kWarmupEpochs, "schedule.warmup_epochs", kInteger, "0", from(0, 1'000'000), {},
     "Epochs in which the rate rises to its start."},
    {Option::kAugment, "augment", kWordList, "[crop, flip]", {}, kAugmentations,
     "Random changes of training images: shifted crops, mirror images."},
    {Option::kValidation, "validation", kInteger, "5000", from(0, 1'000'000), {},
     "Training images held out to choose the best epoch; 0 keeps the last epoch."},
    {Option::kBackend, "backend", kWord, "auto", {}, kBackends,
     "What a training computes with: fused loops on the CPU, LibTorch's operations, or the former where they can."},
    {Option::kInit, "init", kInit, "scratch", {}, {},
     "Where the weights start: random, the teacher's, another job's, a file's."},
    {Option::kDistillKind, "distill.kind", kWord, "kd", {}, kDistillKinds,
     "The teacher's answers as they are, or decoupled into the right class and the others (dkd)."},
    {Option::kDistillTemperature, "distill.temperature", kReal, "1", from(kTemperatureMin, kTemperatureMax), {},
     "Softens the teacher's answers; only with a teacher."},
    {Option::kDistillTemperatureEnd, "distill.temperature_end", kEnd, "start", from(kTemperatureMin, kTemperatureMax), {},
     "Temperature at the end of the training."},
    {Option::kDistillWeight, "distill.weight", kReal, "0.5", from(0, 1), {},
     "Share of the teacher in the loss, the labels have the rest; only with a teacher."},
    {Option::kDistillWeightEnd, "distill.weight_end", kEnd, "start", from(0, 1), {},
     "Share of the teacher at the end of the training."},
    {Option::kDistillSchedule, "distill.schedule", kWord, "linear", {}, kDistillSchedules,
     "How temperature and weight go from start to end, where these differ."},
    {Option::kDistillSelfStudy, "distill.self_study", kReal, "0", below(0, 1), {},
     "Part of the training, at its start, without the teacher."},
    {Option::kDistillAttention, "distill.attention", kReal, "0", from(0, kLossWeightMax), {},
     "Weight of attention transfer in the loss; 0 is off."},
    {Option::kDistillHint, "distill.hint", kReal, "0", from(0, kLossWeightMax), {},
     "Weight of the hint from the middle of the teacher (FitNets); 0 is off."},
    {Option::kDistillSimilarity, "distill.similarity", kReal, "0", from(0, kLossWeightMax), {},
     "Weight of keeping the similarities within a batch; 0 is off."},
    {Option::kDistillAlpha, "distill.alpha", kReal, "1", from(0, kLossWeightMax), {},
     "Weight of the right class; only with dkd."},
    {Option::kDistillBeta, "distill.beta", kReal, "8", from(0, kLossWeightMax), {},
     "Weight of the other classes; only with dkd."},
    {Option::kTeacher, "teacher", kTeacher, "none", {}, {},
     "Trained network whose answers the job learns from, or several, whose answers are averaged."},
    {Option::kQuantize, "quantize", kSource, "none", {}, {},
     "Trained network that the job quantizes without training it, by method linear."},
    {Option::kEvaluate, "evaluate", kSource, "none", {}, {},
     "Trained network that the job evaluates, as it is."},
    {Option::kCalibrationBatches, "calibration.batches", kInteger, "10", from(1, 1'000'000), {},
     "Batches of training images by which the ranges of activations are chosen; only with quantize."},
    {Option::kCalibrationBatchSize, "calibration.batch_size", kInteger, "128", from(1, 65'536), {},
     "Images of such a batch."},
    {Option::kCalibrationClip, "calibration.clip", kWord, "minmax", {}, kClips,
     "How the ranges of activations are chosen."},
    {Option::kCalibrationSd, "calibration.sd", kReal, "3", from(0.001, 1000), {},
     "Standard deviations from the mean; only with clip sd."},
    {Option::kCalibrationPercentile, "calibration.percentile", kReal, "99.9", {50, 100, true, false}, {},
     "Percentage of the values that are not clipped; only with clip percentile."},
    {Option::kCalibrationBatchNorm, "calibration.batch_norm", kInteger, "0", from(0, 1'000'000), {},
     "Batches by which the statistics of batch normalization are estimated anew; 0 keeps them."},
    {Option::kRetries, "retries", kInteger, "2", from(0, 100), {},
     "Further attempts after a failure that may not repeat."},
    {Option::kTimeout, "timeout", kDuration, "0", from(0, kTimeoutSecondsMax), {},
     "Longest duration of an attempt."},
    {Option::kPriority, "priority", kInteger, "0", from(-1000, 1000), {},
     "Among jobs that could start, the higher one does."},
    {Option::kDevices, "resources.devices", kInteger, "1", from(1, 1), {},
     "Devices of an attempt; one is all that is supported so far."},
    {Option::kMemory, "resources.memory", kMemory, "0", {}, {},
     "Memory that the device must have in total."},
  }};
}
// clang-format on

const std::array<OptionInfo, kOptionCount>& table() {
  static const std::array<OptionInfo, kOptionCount> rows = [] {
    std::array<OptionInfo, kOptionCount> made = make_table();
    // info() indexes the table by Option.
    for (std::size_t i = 0; i < made.size(); ++i) {
      BITRUNG_CHECK(static_cast<std::size_t>(made.at(i).option) == i);
    }
    return made;
  }();
  return rows;
}

std::string bound(double value) {
  const bool is_negative = value < 0;
  const double size = is_negative ? -value : value;
  if (size < 1000 || size != static_cast<double>(static_cast<std::uint64_t>(size))) {
    return fmt::format("{}", value);
  }
  return (is_negative ? "-" : "") + with_separators(static_cast<std::uint64_t>(size));
}

std::string interval(const Range& range) {
  if (range.above_minimum) {
    return fmt::format("above {} and at most {}", bound(range.minimum), bound(range.maximum));
  }
  return fmt::format("from {} to {}{}", bound(range.minimum), range.below_maximum ? "below " : "",
                     bound(range.maximum));
}

std::string words_of(const OptionInfo& row, std::string_view joint) {
  const std::vector<std::string> words(row.words.begin(), row.words.end());
  return listed(words, joint);
}

}  // namespace

std::string_view OptionInfo::group() const {
  const std::size_t dot = name.find('.');
  return dot == std::string_view::npos ? std::string_view() : name.substr(0, dot);
}

std::string_view OptionInfo::leaf() const {
  const std::size_t dot = name.find('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

std::span<const OptionInfo> option_table() {
  return table();
}

const OptionInfo& info(Option option) {
  return table().at(static_cast<std::size_t>(option));
}

const OptionInfo* find_option(std::string_view name) {
  const auto* found = std::ranges::find(table(), name, &OptionInfo::name);
  return found == table().end() ? nullptr : found;
}

bool is_option_group(std::string_view name) {
  return !name.empty() && std::ranges::any_of(table(), [name](const OptionInfo& row) {
    return row.group() == name;
  });
}

std::string allowed_values(const OptionInfo& row) {
  switch (row.kind) {
    case OptionKind::kModel:
      return std::string(train::model_names());
    case kWord:
      return words_of(row, "or");
    case kWordList:
      return fmt::format("a list of {}, or [] for none", words_of(row, "and"));
    case kInteger:
      if (row.range.minimum == row.range.maximum) return bound(row.range.minimum);
      return fmt::format("an integer {}", interval(row.range));
    case kReal:
      return fmt::format("a number {}", interval(row.range));
    case kEnd:
      return fmt::format("a number {}, or start", interval(row.range));
    case kBoolean:
      return "true or false";
    case kFractions:
      return "at most 64 ascending fractions of the training between 0 and 1, such as [0.5, 0.75]";
    case kBits:
      return "1 to 8, 16 or 32";
    case kLayerBits:
      return R"(a mapping of layers or patterns to bits, such as {"layer3.*": 2, "layer2.0.conv1": w1a4})";
    case kDuration:
      return "seconds or text such as \"90m\" or \"2h\", at most 366 days, 0 for unlimited";
    case kMemory:
      return "bytes or text such as \"8GiB\", 0 for any";
    case kTeacher:
      return "the name of a job, {artifact: FILE.safetensors, model: NAME}, a list of these, or "
             "none";
    case kInit:
      return "scratch, teacher, the name of a job, or {artifact: FILE.safetensors}";
    case kSource:
      return "the name of a job, {artifact: FILE.safetensors, model: NAME}, or none";
  }
  check_failed("a kind of option without a text", __FILE__, __LINE__);
}

namespace {

// Keys of an entry that make several jobs of it.
constexpr std::string_view kVariations = R"(
Keys of a job that are no options
sweep: {bits: [32, 4], seed: [1, 2]}
    One job for each combination of these values.
ladder: {bits: [32, 16, 8, 4]}
    One job for each rung, taught by the rung above.
paths: {bits: [32, 16, 8, 4]}
    One job for each way down from the first rung; ways that begin alike share their jobs.
search: best-path
    With paths: one job for each pair of rungs, taught by the best job at the upper rung.
)";

std::string method_reference(const train::MethodInfo& method) {
  std::string text =
      fmt::format("{}\n    {}.\n    Source: {}.\n", method.name, method.summary, method.source);
  std::vector<std::string> options;
  for (const train::MethodOption option : method.options) {
    options.emplace_back(info(option_of(option)).name);
  }
  if (!options.empty()) text += fmt::format("    Options: {}.\n", listed(options, "and"));
  if (!method.has_activations) text += "    For weights only.\n";
  if (!method.has_weights) text += "    For activations only.\n";
  if (!method.one_bit_weights.empty()) {
    text += fmt::format("    Not for 1-bit weights: {}.\n", method.one_bit_weights);
  }
  if (!method.one_bit_activations.empty()) {
    text += fmt::format("    Not for 1-bit activations: {}.\n", method.one_bit_activations);
  }
  if (method.wants_shortcut_per_convolution) {
    text += "    With shortcut: auto each convolution of a ResNet has a shortcut.\n";
  }
  return text;
}

}  // namespace

Option option_of(train::MethodOption option) {
  switch (option) {
    case train::MethodOption::kRange:
      return Option::kMethodRange;
    case train::MethodOption::kGranularity:
      return Option::kMethodGranularity;
    case train::MethodOption::kEmaDecay:
      return Option::kMethodEmaDecay;
    case train::MethodOption::kScale:
      return Option::kMethodScale;
    case train::MethodOption::kClipInit:
      return Option::kMethodClipInit;
    case train::MethodOption::kClipDecay:
      return Option::kMethodClipDecay;
  }
  check_failed("an option of a method without a row", __FILE__, __LINE__);
}

std::string option_reference() {
  std::string text;
  for (const OptionInfo& row : table()) {
    text += fmt::format("{} (default {})\n    {}\n    Allowed: {}.\n", row.name, row.default_text,
                        row.help, allowed_values(row));
  }
  text += kVariations;
  text += "\nMethods\n";
  for (const train::MethodInfo& method : train::methods()) text += method_reference(method);
  return text;
}

}  // namespace bitrung::client
