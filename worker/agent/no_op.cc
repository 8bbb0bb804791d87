#include "worker/agent/no_op.h"

#include <array>
#include <cmath>
#include <string>

namespace bitrung::agent {
namespace {

constexpr std::array<const char*, 4> kSeries = {"train_loss", "train_accuracy", "learning_rate",
                                                "gradient_norm"};

}  // namespace

std::vector<Slot> no_op_slots(std::uint32_t count) {
  Slot slot;
  slot.device = {.device = "no-op", .name = "computes nothing", .memory_bytes = 0};
  return std::vector<Slot>(count, slot);
}

std::string no_op_model() {
  // safetensors: the length of the header in 8 bytes, the header.
  std::string model("\x02\0\0\0\0\0\0\0", 8);
  model += "{}";
  return model;
}

std::vector<Point> no_op_points(std::uint64_t first, std::uint64_t count) {
  std::vector<Point> points;
  points.reserve(count);
  for (std::uint64_t number = first; number < first + count; ++number) {
    const std::uint64_t step = (number - 1) / kSeries.size();
    const std::uint64_t series = (number - 1) % kSeries.size();
    const auto value = static_cast<float>(
        std::exp(-1e-4 * static_cast<double>(step)) +
        0.1 * std::sin(12.9898 * static_cast<double>(step) + static_cast<double>(series)));
    points.push_back(
        {kSeries[series], static_cast<std::int64_t>(step), static_cast<double>(value)});
  }
  return points;
}

}  // namespace bitrung::agent
