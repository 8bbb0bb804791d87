#include "worker/train/runtime.h"

#include <dlfcn.h>
#include <malloc.h>
#include <torch/cuda.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>
#include <fstream>

#include "db/base/check.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

namespace {

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) {
      const std::size_t colon = line.find(": ");
      return colon == std::string::npos ? "cpu" : line.substr(colon + 2);
    }
  }
  return "cpu";
}

// Physical memory, or less where the control group allows less.
std::uint64_t host_memory_bytes() {
  const auto pages = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES));
  const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  std::uint64_t bytes = pages * page_bytes;
  std::ifstream limit_file("/sys/fs/cgroup/memory.max");
  std::uint64_t limit = 0;
  if (limit_file >> limit && limit > 0 && limit < bytes) {  // The text "max" leaves limit alone.
    bytes = limit;
  }
  return bytes;
}

// Names and sizes come from the driver library by hand, since LibTorch offers them only through
// headers that need the CUDA toolkit. These three calls have had the same form since CUDA 3.2.
class CudaDriver {
 public:
  CudaDriver() : library_(::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) {
      return;
    }
    init_ = find<int(unsigned)>("cuInit");
    name_ = find<int(char*, int, int)>("cuDeviceGetName");
    memory_ = find<int(std::size_t*, int)>("cuDeviceTotalMem_v2");
    ready_ = init_ != nullptr && name_ != nullptr && memory_ != nullptr && init_(0) == 0;
  }

  DeviceInfo describe(int index) const {
    DeviceInfo info{"cuda:" + std::to_string(index), "CUDA device", 0};
    std::array<char, 256> name{};
    std::size_t bytes = 0;
    if (ready_ && name_(name.data(), static_cast<int>(name.size()) - 1, index) == 0) {
      info.name = name.data();
    }
    if (ready_ && memory_(&bytes, index) == 0) {
      info.memory_bytes = bytes;
    }
    return info;
  }

 private:
  template <typename Call>
  Call* find(const char* symbol) const {
    return reinterpret_cast<Call*>(::dlsym(library_, symbol));
  }

  void* library_;  // Never closed: the driver stays for the life of the process.
  int (*init_)(unsigned) = nullptr;
  int (*name_)(char*, int, int) = nullptr;
  int (*memory_)(std::size_t*, int) = nullptr;
  bool ready_ = false;
};

}  // namespace

void prepare_process(int threads) {
  // An activation of a batch is some megabytes. glibc would map and unmap each one, and the page
  // faults would cost a fifth of the time. INT_MAX keeps 2 GiB of freed memory at most.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, INT_MAX);
  use_threads(threads);
  at::set_num_interop_threads(1);
  // cuBLAS repeats its sums bit for bit only with this; it reads it when it is first used.
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setBenchmarkCuDNN(false);
  at::globalContext().setDeterministicCuDNN(true);
}

void use_threads(int threads) {
  BITRUNG_CHECK(threads >= 1);
  at::set_num_threads(threads);
}

std::string libtorch_version() {
  return torch_version();
}

bool has_device(const std::string& device) {
  if (device == "cpu") {
    return true;
  }
  for (const DeviceInfo& info : list_devices()) {
    if (info.device == device) {
      return true;
    }
  }
  return false;
}

std::vector<DeviceInfo> list_devices() {
  std::vector<DeviceInfo> devices = {{"cpu", cpu_name(), host_memory_bytes()}};
  if (torch::cuda::is_available()) {
    const CudaDriver driver;
    for (int i = 0; i < static_cast<int>(torch::cuda::device_count()); ++i) {
      devices.push_back(driver.describe(i));
    }
  }
  return devices;
}

}  // namespace bitrung::train
