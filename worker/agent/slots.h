// Which slots a host offers: the trainer's inventory of devices divided by a rule.
//
// Pure: reads no machine state.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/agent/cores.h"

namespace bitrung::agent {

// More trainers than this on one host are a typing error.
inline constexpr std::uint32_t kSlotsMax = 1024;

struct Device {
  std::string device;  // "cpu", "cuda:0"
  std::string name;
  std::uint64_t memory_bytes = 0;
};

// What `bitrung-trainer --inventory` prints.
struct Inventory {
  std::uint32_t numerics = 0;
  std::string torch;
  std::vector<Device> devices;
};
absl::StatusOr<Inventory> parse_inventory(std::string_view json);

struct Slot {
  Device device;
  std::uint32_t threads = 1;
  // Cores the trainer is bound to; empty leaves it on all of them.
  std::vector<int> cores;
};

// Slot numbers are positions.
struct Layout {
  std::vector<Slot> slots;
  // Above 0: so many cores, with one slot for each, and none of them is the slot's own. The server
  // says with each offer how many of them its trainer gets.
  std::uint32_t shared_cores = 0;
  // Their numbers: the trainer is bound to free ones. Empty where the kernel chooses.
  std::vector<int> core_numbers;
};

// Without `count`: one slot per CUDA device, or, when there is none, one for each core of the CPU,
// which share the cores. With it: `count` slots, round-robin over the CUDA devices, or the CPU's
// cores divided among them once and for all. Such a CPU slot is bound to its share when the cores
// divide evenly; otherwise binding would leave cores idle. INVALID_ARGUMENT for a count of 0 or
// above kSlotsMax, or for an inventory without devices.
absl::StatusOr<Layout> lay_out_slots(const Inventory& inventory, const Cores& cores,
                                     std::optional<std::uint32_t> count);

}  // namespace bitrung::agent
