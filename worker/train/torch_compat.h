// What the trainer takes from LibTorch, and everything that differs between its versions 1.13
// to 2.x.
//
// ATen and autograd only: torch/torch.h costs 16 s in each file that includes it, and the networks
// here need none of its modules. Include only in .cc files and in the few headers whose types are
// tensors.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/version.h>

#include <string>
#include <vector>

namespace bitrung::train {

// "1.13.0": what the headers say; Debian's 1.13.1 calls itself 1.13.0.
inline std::string torch_version() {
  return TORCH_VERSION;
}

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

// Whether this is memory that ran out, on the host or on a device. The CPU allocator throws a plain
// c10::Error.
inline bool is_out_of_memory(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  return text.find("out of memory") != std::string::npos ||
         text.find("can't allocate memory") != std::string::npos ||
         text.find("not enough memory") != std::string::npos;
}

// Whether the device or its libraries failed. LibTorch has no type for it; these prefixes are its
// own macros'.
inline bool is_device_fault(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  for (const char* const mark :
       {"CUDA error", "CUDA driver error", "cuDNN error", "CUBLAS", "cuBLAS", "NCCL error"}) {
    if (text.find(mark) != std::string::npos) {
      return true;
    }
  }
  return false;
}

}  // namespace bitrung::train
