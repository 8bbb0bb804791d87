// What a fuzz target is: one function that takes any bytes and returns, or ends the process if what
// must hold does not. libFuzzer calls it (preset `fuzz`), or driver.cc does in every other build.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace bitrung::fuzz {

inline std::string_view as_text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace bitrung::fuzz
