#include "client/experiment/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "client/experiment/text.h"
#include "db/base/check.h"

namespace bitrung::client {
namespace {

constexpr std::array<std::string_view, 8> kModels = {
    "resnet8", "resnet14", "resnet20", "resnet26", "resnet32", "resnet44", "resnet56", "resnet110"};
constexpr std::array<std::string_view, 3> kDatasets = {"cifar10", "cifar100", "synthetic"};
constexpr std::array<std::string_view, 1> kMethods = {"dorefa"};
constexpr std::array<std::string_view, 1> kOptimizers = {"sgd"};
constexpr std::array<std::string_view, 3> kSchedules = {"step", "cosine", "constant"};
constexpr std::array<std::string_view, 2> kAugmentations = {"crop", "flip"};

// Readers of JSON that keep numbers as doubles, such as a browser, hold integers exactly up to
// here.
constexpr double kSeedMax = 9007199254740991;
// The trainer keeps a synthetic data set in memory, 3 KiB an image.
constexpr double kSyntheticImagesMax = 200'000;
constexpr double kTimeoutSecondsMax = 366.0 * 86'400;

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

// clang-format off
constexpr std::array<OptionInfo, kOptionCount> kTable = {{
    {Option::kModel, "model", kWord, "resnet20", {}, kModels,
     "Network: a CIFAR ResNet of this depth."},
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
    {Option::kMethodWeights, "method.weights", kWord, "dorefa", {}, kMethods,
     "How weights are quantized; \"method: NAME\" sets both."},
    {Option::kMethodActivations, "method.activations", kWord, "dorefa", {}, kMethods,
     "How activations are quantized."},
    {Option::kBitsWeights, "bits.weights", kBits, "32", {}, {},
     "Bits of a weight; \"bits: 4\" sets both, \"bits: w1a32\" each."},
    {Option::kBitsActivations, "bits.activations", kBits, "32", {}, {},
     "Bits of an activation."},
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
    {Option::kInit, "init", kInit, "scratch", {}, {},
     "Where the weights start: random, the teacher's, another job's, a file's."},
    {Option::kDistillTemperature, "distill.temperature", kReal, "1", from(0.001, 1'000'000), {},
     "Softens the teacher's answers; only with a teacher."},
    {Option::kDistillWeight, "distill.weight", kReal, "0.5", from(0, 1), {},
     "Share of the teacher in the loss, the labels have the rest; only with a teacher."},
    {Option::kTeacher, "teacher", kTeacher, "none", {}, {},
     "Trained network whose answers the job learns from."},
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
// clang-format on

constexpr bool is_in_order() {
  for (std::size_t i = 0; i < kTable.size(); ++i) {
    if (static_cast<std::size_t>(kTable[i].option) != i) return false;
  }
  return true;
}
static_assert(is_in_order(), "info() indexes the table by Option");

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
  return kTable;
}

const OptionInfo& info(Option option) {
  return kTable.at(static_cast<std::size_t>(option));
}

const OptionInfo* find_option(std::string_view name) {
  const auto* found = std::ranges::find(kTable, name, &OptionInfo::name);
  return found == kTable.end() ? nullptr : found;
}

bool is_option_group(std::string_view name) {
  return !name.empty() &&
         std::ranges::any_of(kTable, [name](const OptionInfo& row) { return row.group() == name; });
}

std::string allowed_values(const OptionInfo& row) {
  switch (row.kind) {
    case kWord:
      return words_of(row, "or");
    case kWordList:
      return fmt::format("a list of {}, or [] for none", words_of(row, "and"));
    case kInteger:
      if (row.range.minimum == row.range.maximum) return bound(row.range.minimum);
      return fmt::format("an integer {}", interval(row.range));
    case kReal:
      return fmt::format("a number {}", interval(row.range));
    case kBoolean:
      return "true or false";
    case kFractions:
      return "at most 64 ascending fractions of the training between 0 and 1, such as [0.5, 0.75]";
    case kBits:
      return "1 to 8, 16 or 32";
    case kDuration:
      return "seconds or text such as \"90m\" or \"2h\", at most 366 days, 0 for unlimited";
    case kMemory:
      return "bytes or text such as \"8GiB\", 0 for any";
    case kTeacher:
      return "the name of a job, {artifact: FILE.safetensors, model: NAME}, or none";
    case kInit:
      return "scratch, teacher, the name of a job, or {artifact: FILE.safetensors}";
  }
  check_failed("a kind of option without a text", __FILE__, __LINE__);
}

std::string option_reference() {
  std::string text;
  for (const OptionInfo& row : kTable) {
    text += fmt::format("{} (default {})\n    {}\n    Allowed: {}.\n", row.name, row.default_text,
                        row.help, allowed_values(row));
  }
  return text;
}

}  // namespace bitrung::client
