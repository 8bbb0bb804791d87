#include "client/experiment/spec_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <nlohmann/json.hpp>

#include "db/base/check.h"
#include "worker/train/numerics.h"

namespace bitrung::client {
namespace {

// An experiment may have 100,000 jobs, so the text is written directly. All words come from closed
// lists, so nothing needs an escape.
using Out = std::back_insert_iterator<std::string>;

std::string schedule_json(const Options& options) {
  std::string step;
  if (options.word(Option::kScheduleKind) == "step") {
    std::string at;
    for (const double fraction : options.fractions(Option::kScheduleAt)) {
      at += fmt::format("{}{}", at.empty() ? "" : ",", real_text(fraction));
    }
    step = fmt::format(R"("at":[{}],"factor":{},)", at,
                       real_text(options.real(Option::kScheduleFactor)));
  }
  return fmt::format(R"({{{}"kind":"{}","warmup_epochs":{}}})", step,
                     options.word(Option::kScheduleKind), options.integer(Option::kWarmupEpochs));
}

std::string augment_json(const Options& options) {
  std::string words;
  const auto all = info(Option::kAugment).words;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if ((options.integer(Option::kAugment) >> i & 1) == 0) continue;
    words += fmt::format(R"({}"{}")", words.empty() ? "" : ",", all[i]);
  }
  return fmt::format("[{}]", words);
}

std::string distill_json(const Options& options) {
  using enum Option;
  const auto real = [&options](Option option) { return real_text(options.real(option)); };
  const bool is_decoupled = options.word(kDistillKind) == "dkd";
  const double temperature = options.real(kDistillTemperature);
  const double weight = options.real(kDistillWeight);
  const double temperature_end = options.end(kDistillTemperatureEnd, temperature);
  const double weight_end = options.end(kDistillWeightEnd, weight);
  const bool is_constant = temperature == temperature_end && weight == weight_end;
  std::string text = "{";
  const auto out = std::back_inserter(text);
  if (is_decoupled) fmt::format_to(out, R"("alpha":{},)", real(kDistillAlpha));
  fmt::format_to(out, R"("attention":{},)", real(kDistillAttention));
  if (is_decoupled) fmt::format_to(out, R"("beta":{},)", real(kDistillBeta));
  fmt::format_to(out, R"("hint":{},"kind":"{}","schedule":"{}","self_study":{},"similarity":{},)",
                 real(kDistillHint), options.word(kDistillKind),
                 is_constant ? "constant" : options.word(kDistillSchedule), real(kDistillSelfStudy),
                 real(kDistillSimilarity));
  fmt::format_to(out, R"("temperature":{},"temperature_end":{},"weight":{},"weight_end":{}}})",
                 real_text(temperature), real_text(temperature_end), real_text(weight),
                 real_text(weight_end));
  return text;
}

std::string calibration_json(const Options& options) {
  using enum Option;
  const std::string_view clip = options.word(kCalibrationClip);
  std::string text =
      fmt::format(R"({{"batch_norm":{},"batch_size":{},"batches":{},"clip":"{}")",
                  options.integer(kCalibrationBatchNorm), options.integer(kCalibrationBatchSize),
                  options.integer(kCalibrationBatches), clip);
  if (clip == "percentile") {
    text += fmt::format(R"(,"percentile":{})", real_text(options.real(kCalibrationPercentile)));
  }
  if (clip == "sd") text += fmt::format(R"(,"sd":{})", real_text(options.real(kCalibrationSd)));
  return text + "}";
}

// "synthetic" where it belongs, and what every spec ends with.
void write_synthetic(const Options& options, Out out) {
  using enum Option;
  if (options.word(kDataset) != "synthetic") return;
  fmt::format_to(out, R"("synthetic":{{"seed":{},"test_images":{},"train_images":{}}},)",
                 options.integer(kSyntheticSeed), options.integer(kSyntheticTestImages),
                 options.integer(kSyntheticTrainImages));
}
void write_images(const Options& options, Out out) {
  fmt::format_to(out, R"("train_images":{},"validation":{}}})",
                 options.integer(Option::kTrainImages), options.integer(Option::kValidation));
}

std::string method_option_json(train::MethodOption option, const train::MethodOptions& values) {
  switch (option) {
    case train::MethodOption::kRange:
      return fmt::format(R"("range":"{}")", values.range);
    case train::MethodOption::kGranularity:
      return fmt::format(R"("granularity":"{}")", values.granularity);
    case train::MethodOption::kEmaDecay:
      return fmt::format(R"("ema_decay":{})", real_text(values.ema_decay));
    case train::MethodOption::kScale:
      return fmt::format(R"("scale":"{}")", values.scale);
    case train::MethodOption::kClipInit:
      return fmt::format(R"("clip_init":{})", real_text(values.clip_init));
    case train::MethodOption::kClipDecay:
      return fmt::format(R"("clip_decay":{})", real_text(values.clip_decay));
  }
  check_failed("an option of a method without a text", __FILE__, __LINE__);
}

}  // namespace

std::string real_text(double value) {
  // The trainer writes its canonical specs with the same function.
  return nlohmann::json(value).dump();
}

std::string bits_json(const BitsValue& bits) {
  std::string layers;
  for (const LayerBits& layer : bits.layers) {
    layers += fmt::format(R"({}["{}",{},{}])", layers.empty() ? "" : ",", layer.pattern,
                          layer.weights, layer.activations);
  }
  return fmt::format(
      R"({{"activations":{},"first":{},"gradients":{},"last":{},"layers":[{}],"shortcut":{},)"
      R"("weights":{}}})",
      bits.activations, bits.first, bits.gradients, bits.last, layers, bits.shortcut, bits.weights);
}

std::string method_json(const MethodValue& method) {
  using enum train::MethodOption;
  const train::MethodInfo* weights = train::find_method(method.weights);
  const train::MethodInfo* activations = train::find_method(method.activations);
  BITRUNG_CHECK(weights != nullptr && activations != nullptr);
  std::string text = fmt::format(R"({{"activations":"{}")", method.activations);
  // By name, as all keys.
  for (const auto option : {kClipDecay, kClipInit, kEmaDecay, kGranularity, kRange, kScale}) {
    if (!weights->has(option) && !activations->has(option)) continue;
    text += "," + method_option_json(option, method.options);
  }
  return fmt::format(R"({},"weights":"{}"}})", text, method.weights);
}

std::string teacher_json(std::string_view artifact, const TrainedAs& teacher) {
  return fmt::format(R"({{"artifact":"{}","bits":{},"method":{},"model":"{}","shortcut":"{}"}})",
                     artifact, bits_json(teacher.bits), method_json(teacher.method), teacher.model,
                     teacher.shortcut);
}

std::string train_spec(const Options& options, const BitsValue& bits, const MethodValue& method,
                       std::string_view shortcut, const SpecInputs& inputs) {
  using enum Option;
  std::string text;
  const auto out = std::back_inserter(text);
  fmt::format_to(out, R"({{"augment":{},"backend":"{}","batch_size":{},"bits":{},"dataset":"{}",)",
                 augment_json(options), options.word(kBackend), options.integer(kBatchSize),
                 bits_json(bits), options.word(kDataset));
  if (inputs.has_teacher) fmt::format_to(out, R"("distill":{},)", distill_json(options));
  fmt::format_to(out, R"("epochs":{},"init":"{}",)", options.integer(kEpochs), inputs.init);
  if (!inputs.init_artifact.empty()) {
    fmt::format_to(out, R"("init_artifact":"{}",)", inputs.init_artifact);
  }
  fmt::format_to(out, R"("kind":"train","method":{},"model":"{}","numerics":{},)",
                 method_json(method), options.word(kModel), train::kNumerics);
  fmt::format_to(
      out,
      R"("optimizer":{{"kind":"{}","learning_rate":{},"momentum":{},"nesterov":{},"weight_decay":{}}},)",
      options.word(kOptimizerKind), real_text(options.real(kLearningRate)),
      real_text(options.real(kMomentum)), options.integer(kNesterov) != 0,
      real_text(options.real(kWeightDecay)));
  fmt::format_to(out, R"("schedule":{},"seed":{},"shortcut":"{}",)", schedule_json(options),
                 options.integer(kSeed), shortcut);
  write_synthetic(options, out);
  if (!inputs.teacher_json.empty()) {
    fmt::format_to(out, R"("teachers":[{}],)", fmt::join(inputs.teacher_json, ","));
  }
  write_images(options, out);
  return text;
}

std::string quantize_spec(const Options& options, const TrainedAs& quantized) {
  using enum Option;
  std::string text = fmt::format(
      R"({{"bits":{},"calibration":{},"dataset":"{}","kind":"quantize","method":{},"model":"{}",)"
      R"("numerics":{},"seed":{},"shortcut":"{}",)",
      bits_json(quantized.bits), calibration_json(options), options.word(kDataset),
      method_json(quantized.method), quantized.model, train::kNumerics, options.integer(kSeed),
      quantized.shortcut);
  const auto out = std::back_inserter(text);
  write_synthetic(options, out);
  write_images(options, out);
  return text;
}

std::string evaluate_spec(const Options& options, const TrainedAs& source) {
  using enum Option;
  std::string text = fmt::format(
      R"({{"bits":{},"dataset":"{}","kind":"evaluate","method":{},"model":"{}","numerics":{},)"
      R"("seed":{},"shortcut":"{}",)",
      bits_json(source.bits), options.word(kDataset), method_json(source.method), source.model,
      train::kNumerics, options.integer(kSeed), source.shortcut);
  const auto out = std::back_inserter(text);
  write_synthetic(options, out);
  write_images(options, out);
  return text;
}

}  // namespace bitrung::client
