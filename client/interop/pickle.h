// A reader of pickles that executes nothing.
//
// A pickle is a program for a stack machine that may call any function by name. This reader knows
// the instructions that lists, dictionaries, texts and numbers need, and the names that PyTorch
// writes for a state dict of tensors. These are recognised as data, not called; anything else is
// refused by name. Sizes and counts are bounded; nothing recurses. A pure function of its argument,
// thread-safe. Instructions: CPython, Lib/pickletools.py; tensors: PyTorch, torch/serialization.py
// and torch/_utils.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/train/safetensors.h"

namespace bitrung::interop {

// A state dict of 700 tensors needs a hundredth of either.
inline constexpr std::size_t kPickleBytesMax = 16 * 1024 * 1024;
inline constexpr std::size_t kPickleValuesMax = 1024 * 1024;

// Index of a value in Pickle::values.
using ValueId = std::uint32_t;

enum class ValueKind : std::uint8_t {
  kNone,
  kBool,
  kInteger,
  kReal,
  kText,
  kTuple,
  kList,
  kDictionary,
  kStorage,
  kTensor,
  kGlobal,  // One of the known names; stands for itself.
};

// "a tensor", "a number", ….
std::string_view name(ValueKind kind);

// Elements in a row that tensors are views of.
struct PickledStorage {
  std::string key;  // Names the bytes elsewhere in the file.
  train::Dtype dtype = train::Dtype::kF32;
  std::int64_t elements = 0;  // Not negative.
};

// Not yet checked against its storage.
struct PickledTensor {
  PickledStorage storage;
  std::int64_t offset = 0;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // As many as dimensions.
};

struct PickleValue {
  ValueKind kind = ValueKind::kNone;
  std::int64_t integer = 0;    // Of kBool and kInteger.
  std::uint32_t index = 0;     // Of kStorage and kTensor: in Pickle::storages or tensors.
  std::string text;            // Of kText, and "module name" of kGlobal.
  std::vector<ValueId> items;  // Of kTuple and kList; of kDictionary keys and values in turn.
};

// What a pickle holds. Values may be shared and may contain themselves: whoever walks them bounds
// the depth.
struct Pickle {
  std::vector<PickleValue> values;
  std::vector<PickledStorage> storages;
  std::vector<PickledTensor> tensors;
  ValueId root = 0;
  std::size_t bytes = 0;  // Up to and with the instruction that ends the pickle.

  const PickleValue& at(ValueId id) const { return values[id]; }
};

// Reads the pickle at the front of `bytes`; more may follow it. INVALID_ARGUMENT says what is not
// understood, without the file's name.
absl::StatusOr<Pickle> read_pickle(std::string_view bytes);

// The type whose storage PyTorch calls e.g. "FloatStorage".
std::string_view storage_name(train::Dtype dtype);

}  // namespace bitrung::interop
