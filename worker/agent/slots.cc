#include "worker/agent/slots.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace bitrung::agent {

absl::StatusOr<Inventory> parse_inventory(std::string_view json) {
  try {
    const nlohmann::json root = nlohmann::json::parse(json);
    Inventory inventory;
    inventory.numerics = root.at("numerics").get<std::uint32_t>();
    inventory.torch = root.at("torch").get<std::string>();
    for (const nlohmann::json& device : root.at("devices")) {
      inventory.devices.push_back({device.at("device").get<std::string>(),
                                   device.at("name").get<std::string>(),
                                   device.at("memory_bytes").get<std::uint64_t>()});
    }
    return inventory;
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(
        fmt::format("the trainer's inventory cannot be read: {}", error.what()));
  }
}

absl::StatusOr<Layout> lay_out_slots(const Inventory& inventory, const Cores& usable,
                                     std::optional<std::uint32_t> count) {
  if (count && (*count == 0 || *count > kSlotsMax)) {
    return absl::InvalidArgumentError(
        fmt::format("{} slots asked for; a worker has 1 to {}", *count, kSlotsMax));
  }
  std::vector<Device> cuda;
  std::optional<Device> cpu;
  for (const Device& device : inventory.devices) {
    if (device.device.starts_with("cuda:")) {
      cuda.push_back(device);
    } else if (device.device == "cpu") {
      cpu = device;
    }
  }
  if (cuda.empty() && !cpu) {
    return absl::InvalidArgumentError(
        "the trainer's inventory names neither a CPU nor a CUDA device");
  }

  const std::vector<int>& cores = usable.numbers;
  if (!count && cuda.empty() && usable.count > 0) {
    Layout layout;
    layout.shared_cores = std::min(usable.count, kSlotsMax);
    if (usable.may_bind()) {
      layout.core_numbers.assign(cores.begin(), cores.begin() + layout.shared_cores);
    }
    layout.slots.assign(layout.shared_cores, Slot{*cpu, 1, {}});
    return layout;
  }
  const std::size_t slot_count = count ? *count : std::max<std::size_t>(cuda.size(), 1);
  const std::size_t share = cores.size() / slot_count;
  const auto threads = static_cast<std::uint32_t>(std::max<std::size_t>(share, 1));
  const bool bind = cuda.empty() && share > 0 && cores.size() % slot_count == 0;
  Layout layout;
  layout.slots.reserve(slot_count);
  for (std::size_t i = 0; i < slot_count; ++i) {
    Slot slot{cuda.empty() ? *cpu : cuda[i % cuda.size()], threads, {}};
    if (bind) {
      const auto first = cores.begin() + static_cast<std::ptrdiff_t>(i * share);
      slot.cores.assign(first, first + static_cast<std::ptrdiff_t>(share));
    }
    layout.slots.push_back(std::move(slot));
  }
  return layout;
}

}  // namespace bitrung::agent
