// Pieces of files for the tests of client/interop.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "worker/train/safetensors.h"

namespace bitrung::interop {

// A file that PyTorch wrote; fixtures/make_fixtures.py says what is in it.
inline std::string fixture(const std::string& name) {
  std::ifstream stream(std::string(BITRUNG_FIXTURE_DIR) + "/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

inline void put_u32(std::string& bytes, std::size_t at, std::uint32_t value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

template <typename T>
train::TensorBytes tensor_of(train::Dtype dtype, std::vector<std::int64_t> shape,
                             const std::vector<T>& values) {
  train::TensorBytes tensor{dtype, std::move(shape), {}};
  tensor.bytes.resize(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

template <typename T>
std::vector<T> values_of(const train::TensorBytes& tensor) {
  std::vector<T> values(tensor.bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

}  // namespace bitrung::interop
