#include "worker/train/measures/report.h"

#include <nlohmann/json.hpp>

#include "db/base/check.h"

namespace bitrung::train {

namespace {

using Json = nlohmann::json;

constexpr int kFullBits = 32;
constexpr std::int64_t kFloatBytes = 4;

// The library writes NaN and infinity as null.
template <typename Value>
Json or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json to_json(const Evaluation& evaluation) {
  return {{"images", evaluation.images},       {"top1", evaluation.top1},
          {"top5", evaluation.top5},           {"nll", evaluation.nll},
          {"brier", evaluation.brier},         {"ece", evaluation.ece},
          {"per_class", evaluation.per_class}, {"confusion", evaluation.confusion}};
}

Json to_json(const TensorStatistics& tensor) {
  return {{"bits", tensor.bits},
          {"method", tensor.method},
          {"levels", or_null(tensor.levels)},
          {"min", tensor.min},
          {"max", tensor.max},
          {"scale", or_null(tensor.scale)},
          {"scale_min", or_null(tensor.scale_min)},
          {"scale_max", or_null(tensor.scale_max)},
          {"zero_point", or_null(tensor.zero_point)},
          {"sqnr_db", or_null(tensor.sqnr_db)},
          {"saturated", tensor.saturated},
          {"entropy", or_null(tensor.entropy)},
          {"histogram",
           {{"from", tensor.histogram_from},
            {"to", tensor.histogram_to},
            {"counts", tensor.histogram}}}};
}

Json to_json(const LayerReport& layer) {
  const LayerPlan& plan = layer.plan;
  Json shape = {plan.out, plan.in};
  if (plan.is_convolution) {
    shape.push_back(plan.kernel);
    shape.push_back(plan.kernel);
  }
  return {{"name", plan.name},
          {"kind", plan.is_convolution ? "convolution" : "linear"},
          {"role", name(plan.role)},
          {"shape", std::move(shape)},
          {"macs", plan.macs()},
          {"weights", to_json(layer.weights)},
          {"activations", layer.activations ? to_json(*layer.activations) : Json(nullptr)}};
}

Json to_json(const NetworkCost& cost) {
  return {{"parameters", cost.parameters},         {"macs", cost.macs},
          {"bit_operations", cost.bit_operations}, {"bytes_float", cost.bytes_float},
          {"bytes_packed", cost.bytes_packed},     {"compression", cost.compression}};
}

}  // namespace

NetworkCost network_cost(std::span<const LayerReport> layers, std::int64_t parameters) {
  NetworkCost cost;
  cost.parameters = parameters;
  cost.bytes_float = parameters * kFloatBytes;
  cost.bytes_packed = cost.bytes_float;
  for (const LayerReport& layer : layers) {
    const std::int64_t macs = layer.plan.macs();
    cost.macs += macs;
    cost.bit_operations += macs * layer.weights.bits * layer.activation_bits;
    if (layer.weights.bits < kFullBits) {
      const std::int64_t weights = layer.plan.weight_count();
      cost.bytes_packed += (weights * layer.weights.bits + 7) / 8 +
                           layer.weights.scales * kFloatBytes - weights * kFloatBytes;
    }
  }
  cost.compression = static_cast<double>(cost.bytes_float) / static_cast<double>(cost.bytes_packed);
  return cost;
}

std::string report_json(const Computation& computation, const Evaluation& test,
                        const std::optional<Evaluation>& validation,
                        std::span<const LayerReport> layers, std::int64_t parameters) {
  Json list = Json::array();
  for (const LayerReport& layer : layers) {
    list.push_back(to_json(layer));
  }
  const Json report = {
      {"backend", computation.backend},
      {"backend_reason", computation.reason.empty() ? Json(nullptr) : Json(computation.reason)},
      {"threads", computation.threads},
      {"evaluation", to_json(test)},
      {"validation", validation ? to_json(*validation) : Json(nullptr)},
      {"network", to_json(network_cost(layers, parameters))},
      {"layers", std::move(list)}};
  std::string text = report.dump();
  BITRUNG_CHECK(text.size() <= kReportBytesMax);
  return text;
}

}  // namespace bitrung::train
