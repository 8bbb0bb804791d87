#include "worker/train/final_report.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "worker/train/evaluate.h"
#include "worker/train/measures/evaluation.h"
#include "worker/train/measures/inspection.h"
#include "worker/train/measures/report.h"

namespace bitrung::train {

namespace {

// Images whose activations are looked at.
constexpr std::size_t kInspectedImages = kEvaluationBatch;

class ActivationStatistics : public Probe {
 public:
  void activation(const Layer& layer, const at::Tensor& real,
                  const at::Tensor& quantized) override {
    const std::optional<Grid> grid = layer.input == nullptr ? std::nullopt : layer.input->grid();
    statistics_.emplace(
        layer.plan.name,
        inspect_tensor(real, quantized, grid, layer.bits.activations, layer.activation_method));
  }

  std::optional<TensorStatistics> of(const std::string& layer) const {
    const auto found = statistics_.find(layer);
    return found == statistics_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  std::map<std::string, TensorStatistics> statistics_;
};

// Bits of what the layer computes with.
int input_bits(const Network& network, const Layer& layer) {
  const std::size_t shortcut = layer.plan.name.find("downsample");
  if (shortcut != std::string::npos && !network.shape().choice.shortcut_per_convolution) {
    const std::string first =
        layer.plan.name.substr(0, shortcut) + "conv1";  // It shares its input.
    for (const std::unique_ptr<Layer>& other : network.layers()) {
      if (other->plan.name == first) {
        return input_bits(network, *other);
      }
    }
  }
  return layer.input == nullptr ? kFullPrecisionBits : layer.bits.activations;
}

std::vector<LayerReport> inspect_layers(Network& network, const Dataset& dataset,
                                        std::span<const std::uint32_t> images,
                                        const at::Device& device, HostBatch& batch) {
  const at::NoGradGuard no_grad;
  ActivationStatistics activations;
  const std::span<const std::uint32_t> some =
      images.first(std::min(kInspectedImages, images.size()));
  batch.fill(dataset.training, some, [](std::int64_t) { return Placement{}; });
  network.forward(batch.images(static_cast<std::int64_t>(some.size())).to(device), kEvaluationPass,
                  Taps{nullptr, &activations});

  std::vector<LayerReport> reports;
  for (const std::unique_ptr<Layer>& layer : network.layers()) {
    const std::optional<Grid> grid =
        layer->quantizer == nullptr ? std::nullopt : layer->quantizer->grid(layer->weight);
    LayerReport report;
    report.plan = layer->plan;
    report.weights = inspect_tensor(layer->weight, layer->effective_weight(kEvaluationPass), grid,
                                    layer->bits.weights, layer->weight_method);
    report.activation_bits = input_bits(network, *layer);
    report.activations = activations.of(layer->plan.name);
    reports.push_back(std::move(report));
  }
  return reports;
}

}  // namespace

std::optional<FinalReport> final_report(Network& network, const std::string& backend_reason,
                                        const Dataset& dataset, const Split& split,
                                        const at::Device& device, HostBatch& batch,
                                        const std::function<StopRequest()>& stop_requested) {
  FinalReport report;
  const auto evaluate = [&](const ImageSet& set, std::span<const std::uint32_t> indices) {
    Evaluator evaluator(network.shape().classes);
    const StopRequest stop =
        evaluate_images(network, set, indices, device, batch,
                        {[&] {
                           return stop_requested() == StopRequest::kCancel ? StopRequest::kCancel
                                                                           : StopRequest::kNone;
                         },
                         [&](const at::Tensor& logits, const at::Tensor& labels) {
                           evaluator.add(logits, labels);
                         }});
    report.images += static_cast<std::int64_t>(indices.size());
    return stop == StopRequest::kNone ? std::optional(evaluator.result()) : std::nullopt;
  };

  const std::optional<Evaluation> test = evaluate(dataset.test, all_indices(dataset.test));
  if (!test) {
    return std::nullopt;
  }
  std::optional<Evaluation> validation;
  if (!split.validation.empty()) {
    validation = evaluate(dataset.training, split.validation);
    if (!validation) {
      return std::nullopt;
    }
    report.validation_accuracy = validation->top1;
  }
  const std::vector<LayerReport> layers =
      inspect_layers(network, dataset, split.training, device, batch);
  std::int64_t parameters = 0;
  for (const LearnedTensor& parameter : network.parameters()) {
    parameters += parameter.tensor.numel();
  }
  report.test_accuracy = test->top1;
  report.test_loss = test->nll;
  report.json = report_json({network.backend(), backend_reason, at::get_num_threads()}, *test,
                            validation, layers, parameters);
  return report;
}

}  // namespace bitrung::train
