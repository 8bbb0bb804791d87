#include "client/experiment/quantization.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "client/experiment/text.h"
#include "db/base/check.h"
#include "db/base/status.h"
#include "worker/train/nn/architecture.h"

namespace bitrung::client {
namespace {

using train::Part;

class Resolver {
 public:
  Resolver(const Options& options, std::string_view model, const MethodValue& method,
           const JobPlace& job, const Source& source)
      : options_(options),
        model_(model),
        architecture_(train::parse_architecture(model)),
        job_(job),
        source_(source),
        result_{.bits = options.bits(), .method = method, .shortcut = "block"},
        weights_(train::find_method(method.weights)),
        activations_(train::find_method(method.activations)) {
    BITRUNG_CHECK(architecture_ && weights_ != nullptr && activations_ != nullptr);
  }

  absl::StatusOr<Quantization> run() {
    BITRUNG_RETURN_IF_ERROR(check_method_options());
    BITRUNG_RETURN_IF_ERROR(check_gradients());
    BITRUNG_RETURN_IF_ERROR(check_bits());
    BITRUNG_RETURN_IF_ERROR(check_layers());
    BITRUNG_RETURN_IF_ERROR(choose_shortcut());
    return std::move(result_);
  }

 private:
  absl::Status invalid(Location where, std::string_view what) const {
    return source_.invalid(where, fmt::format("{}: {}", job_.name, what));
  }

  std::string method_names() const {
    return weights_ == activations_ ? std::string(weights_->name)
                                    : fmt::format("{}/{}", weights_->name, activations_->name);
  }

  absl::Status check_method_options() const {
    using enum train::MethodOption;
    for (const auto option : {kRange, kGranularity, kEmaDecay, kScale, kClipInit, kClipDecay}) {
      const Option row = option_of(option);
      if (options_.layer(row) != Layer::kJob || weights_->has(option) ||
          activations_->has(option)) {
        continue;
      }
      std::vector<std::string> owners;
      for (const train::MethodInfo& method : train::methods()) {
        if (method.has(option)) owners.emplace_back(method.name);
      }
      return invalid(options_.where(row),
                     fmt::format("{} is set, but method {} has no such option; remove it, or take "
                                 "{}",
                                 info(row).name, method_names(), listed(owners, "or")));
    }
    return absl::OkStatus();
  }

  absl::Status check_gradients() {
    constexpr std::string_view kQuantizesGradients = "dorefa-paper";
    if (result_.bits.gradients == 32 || weights_->name == kQuantizesGradients ||
        activations_->name == kQuantizesGradients) {
      return absl::OkStatus();
    }
    if (options_.layer(Option::kBitsGradients) != Layer::kJob) {
      result_.bits.gradients = 32;
      return absl::OkStatus();
    }
    return invalid(options_.where(Option::kBitsGradients),
                   fmt::format("bits.gradients is {}, but method {} leaves gradients as they are; "
                               "remove it, or take {}",
                               result_.bits.gradients, method_names(), kQuantizesGradients));
  }

  absl::Status check_part(Part part, int bits, Option of) const {
    const bool is_weights = part == Part::kWeights;
    const auto reason =
        train::refusal(is_weights ? *weights_ : *activations_, part, bits, result_.method.options);
    if (!reason) return absl::OkStatus();
    const Option method = is_weights ? Option::kMethodWeights : Option::kMethodActivations;
    return invalid(place_of(options_, job_, {of, method}), *reason);
  }

  absl::Status check_bits() const {
    using enum Option;
    const BitsValue& bits = result_.bits;
    BITRUNG_RETURN_IF_ERROR(check_part(Part::kWeights, bits.weights, kBitsWeights));
    BITRUNG_RETURN_IF_ERROR(check_part(Part::kActivations, bits.activations, kBitsActivations));
    BITRUNG_RETURN_IF_ERROR(check_part(Part::kWeights, bits.first, kBitsFirst));
    BITRUNG_RETURN_IF_ERROR(check_part(Part::kWeights, bits.shortcut, kBitsShortcut));
    BITRUNG_RETURN_IF_ERROR(check_part(Part::kWeights, bits.last, kBitsLast));
    return check_part(Part::kActivations, bits.last, kBitsLast);
  }

  absl::Status check_layers() const {
    if (result_.bits.layers.empty()) return absl::OkStatus();
    // The names do not depend on the number of classes.
    const std::vector<train::LayerPlan> plans = train::layer_plans(*architecture_, 10);
    for (const LayerBits& layer : result_.bits.layers) {
      const bool is_met = std::ranges::any_of(plans, [&layer](const train::LayerPlan& plan) {
        return train::matches(layer.pattern, plan.name);
      });
      if (!is_met) {
        std::vector<std::string> names;
        for (const train::LayerPlan& plan : plans) names.push_back(plan.name);
        const auto meant = nearest(layer.pattern, names);
        return invalid(
            options_.where(Option::kBitsLayers),
            fmt::format(
                "bits.layers has {}, which is no layer of {}; {}", in_quotes(layer.pattern), model_,
                meant ? fmt::format("did you mean {}?", in_quotes(*meant))
                      : fmt::format("its layers are {} to {}", names.front(), names.back())));
      }
      BITRUNG_RETURN_IF_ERROR(check_part(Part::kWeights, layer.weights, Option::kBitsLayers));
      BITRUNG_RETURN_IF_ERROR(
          check_part(Part::kActivations, layer.activations, Option::kBitsLayers));
    }
    return absl::OkStatus();
  }

  // Whether a method that was published with a shortcut round each convolution quantizes anything.
  bool wants_shortcut_per_convolution() const {
    const BitsValue& bits = result_.bits;
    bool quantizes_weights = bits.weights < 32;
    bool quantizes_activations = bits.activations < 32;
    for (const LayerBits& layer : bits.layers) {
      quantizes_weights |= layer.weights < 32;
      quantizes_activations |= layer.activations < 32;
    }
    return (weights_->wants_shortcut_per_convolution && quantizes_weights) ||
           (activations_->wants_shortcut_per_convolution && quantizes_activations);
  }

  absl::Status choose_shortcut() {
    const std::string_view word = options_.word(Option::kShortcut);
    const bool can_have =
        architecture_->family == train::Family::kResNet && !architecture_->bottleneck;
    if (word == "convolution" && !can_have && options_.layer(Option::kShortcut) == Layer::kJob) {
      return invalid(
          options_.where(Option::kShortcut),
          fmt::format("shortcut is convolution, but {} has {}; say shortcut: block", model_,
                      architecture_->bottleneck ? "bottleneck blocks" : "no shortcuts"));
    }
    const bool is_wanted =
        word == "convolution" || (word == "auto" && wants_shortcut_per_convolution());
    result_.shortcut = can_have && is_wanted ? "convolution" : "block";
    return absl::OkStatus();
  }

  const Options& options_;
  const std::string_view model_;
  const std::optional<train::Architecture> architecture_;
  const JobPlace& job_;
  const Source& source_;
  Quantization result_;
  const train::MethodInfo* weights_;
  const train::MethodInfo* activations_;
};

}  // namespace

absl::StatusOr<Quantization> resolve_quantization(const Options& options, std::string_view model,
                                                  const MethodValue& method, const JobPlace& job,
                                                  const Source& source) {
  return Resolver(options, model, method, job, source).run();
}

Location place_of(const Options& options, const JobPlace& job,
                  std::initializer_list<Option> candidates) {
  for (const Option option : candidates) {
    if (options.layer(option) != Layer::kBuiltIn) return options.where(option);
  }
  return job.where;
}

}  // namespace bitrung::client
