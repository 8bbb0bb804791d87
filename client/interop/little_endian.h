// Unsigned numbers of the file formats, least significant byte first. Reading checks nothing: the
// caller knows that the bytes are there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace bitrung::interop {

inline std::uint64_t unsigned_at(std::string_view bytes, std::size_t at, std::size_t count) {
  std::uint64_t value = 0;
  for (std::size_t i = count; i > 0; --i) {
    value = value << 8 | static_cast<unsigned char>(bytes[at + i - 1]);
  }
  return value;
}

inline std::uint16_t u16_at(std::string_view bytes, std::size_t at) {
  return static_cast<std::uint16_t>(unsigned_at(bytes, at, 2));
}
inline std::uint32_t u32_at(std::string_view bytes, std::size_t at) {
  return static_cast<std::uint32_t>(unsigned_at(bytes, at, 4));
}
inline std::uint64_t u64_at(std::string_view bytes, std::size_t at) {
  return unsigned_at(bytes, at, 8);
}

inline void append_unsigned(std::string& bytes, std::uint64_t value, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    bytes += static_cast<char>(static_cast<unsigned char>(value >> (8 * i)));
  }
}
inline void append_u16(std::string& bytes, std::uint32_t value) {
  append_unsigned(bytes, value, 2);
}
inline void append_u32(std::string& bytes, std::uint32_t value) {
  append_unsigned(bytes, value, 4);
}

}  // namespace bitrung::interop
