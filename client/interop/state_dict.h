// Tensors by name as another program left them: views into the bytes of its file, not yet copied
// or converted.
//
// Reads what PyTorch's torch.save writes (the zip format and the one before it) and safetensors.
// Nothing in a file is executed. Pure functions of their arguments, thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/train/safetensors.h"

namespace bitrung::interop {

// Elements of a storage: element (i, j, …) is number offset + i strides[0] + j strides[1] + … of
// it.
struct TensorView {
  train::Dtype dtype = train::Dtype::kF32;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // In elements; as many as dimensions.
  std::int64_t offset = 0;
  std::string_view storage;  // Holds every element (checked when it was read).

  std::uint64_t elements() const;
};

// The tensor's elements in row-major order.
train::TensorBytes to_rows(const TensorView& view);

struct StateDict {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;  // Of safetensors.
  std::string form;                   // "PyTorch", "PyTorch (before 1.6)" or "safetensors".
  std::vector<std::string> notes;     // What was done to get here, e.g. which entry was taken.
  std::shared_ptr<const void> owner;  // Keeps the views alive.
};

// Recognises the form by its first bytes. A dictionary that wraps the state dict as
// "model_state_dict", "state_dict", "model" or "net" is unwrapped, and a prefix that all names
// share
// ("module.", "model.", "net.", "_orig_mod.") is removed; notes say so. INVALID_ARGUMENT says what
// is wrong, without the file's name.
absl::StatusOr<StateDict> read_state_dict(std::string bytes);

// The zip format with an OrderedDict of tensors, in the order of their names, as torch.load reads
// it with weights_only=True. Equal tensors give equal bytes.
std::string encode_torch_file(const std::map<std::string, train::TensorBytes>& tensors);

}  // namespace bitrung::interop
