// The report of a finished job as JSON text: PROTOCOL.md, "Report". Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "worker/train/measures/evaluation.h"
#include "worker/train/measures/inspection.h"
#include "worker/train/nn/architecture.h"

namespace bitrung::train {

// No report is longer.
inline constexpr std::size_t kReportBytesMax = std::size_t{768} * 1024;

struct LayerReport {
  LayerPlan plan;
  TensorStatistics weights;
  int activation_bits = 32;                     // Of the layer's input.
  std::optional<TensorStatistics> activations;  // Of the layer's input, if it was looked at.
};

// What a network costs.
struct NetworkCost {
  std::int64_t parameters = 0;
  std::int64_t macs = 0;            // Multiply-accumulates of convolutions and linear layers.
  std::int64_t bit_operations = 0;  // Sum over the layers of MACs x weight bits x activation bits.
  std::int64_t bytes_float = 0;     // Every parameter in 4 bytes.
  // Weights of quantized layers in their bits with a scale of 4 bytes for each grid, everything
  // else in 4 bytes.
  std::int64_t bytes_packed = 0;
  double compression = 1.0;  // bytes_float / bytes_packed
};

// parameters: all learned values of the network.
NetworkCost network_cost(std::span<const LayerReport> layers, std::int64_t parameters);

// What the network was computed with.
struct Computation {
  std::string backend;  // As Network::backend().
  std::string reason;   // Why not with the fused loops; empty if it was, or nobody asked.
  int threads = 1;
};

// Numbers that are not finite become null.
std::string report_json(const Computation& computation, const Evaluation& test,
                        const std::optional<Evaluation>& validation,
                        std::span<const LayerReport> layers, std::int64_t parameters);

}  // namespace bitrung::train
