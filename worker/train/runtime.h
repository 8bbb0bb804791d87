// Process-wide settings of LibTorch and the allocator, and the list of devices. No LibTorch type
// appears here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bitrung::train {

struct DeviceInfo {
  std::string device;  // "cpu" or "cuda:N".
  std::string name;    // "NVIDIA H100 80GB HBM3".
  std::uint64_t memory_bytes = 0;
};

// Call once, in main(), before any tensor is made. threads >= 1: LibTorch's own default is half the
// hardware threads, and the number changes results, so it is always set.
void prepare_process(int threads);

// From now on, in the calling thread: what it computes next uses so many. threads >= 1.
void use_threads(int threads);

std::string libtorch_version();

// Whether "cpu" or "cuda:N" is there to be used. Starts CUDA only for the latter.
bool has_device(const std::string& device);

// The CPU first, then each CUDA device that LibTorch can use.
std::vector<DeviceInfo> list_devices();

}  // namespace bitrung::train
