// Any bytes as a safetensors file: refused, or read in a way that survives being written and read
// again.
#include <span>

#include "db/base/check.h"
#include "tests/fuzz/target.h"
#include "worker/train/safetensors.h"

namespace {

using bitrung::train::SafetensorsFile;

bool equal(const SafetensorsFile& a, const SafetensorsFile& b) {
  if (a.metadata != b.metadata || a.tensors.size() != b.tensors.size()) return false;
  for (auto left = a.tensors.begin(), right = b.tensors.begin(); left != a.tensors.end();
       ++left, ++right) {
    if (left->first != right->first || left->second.dtype != right->second.dtype ||
        left->second.shape != right->second.shape || left->second.bytes != right->second.bytes) {
      return false;
    }
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  SafetensorsFile file;
  try {
    file = bitrung::train::parse_safetensors(std::span(data, size));
  } catch (const bitrung::train::SafetensorsError& error) {
    BITRUNG_CHECK(error.what()[0] != '\0');
    return 0;
  }
  const auto bytes = bitrung::train::encode_safetensors(file);
  BITRUNG_CHECK(equal(bitrung::train::parse_safetensors(bytes), file));
  return 0;
}
