// A checksum against damage of files on a disk. Whoever means harm has to get past an artifact's
// SHA-256.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "worker/train/safetensors.h"

namespace bitrung::train {

// 64 bits over everything that is added, in order. Each step is a bijection of the state, so a
// change inside one word is always seen.
class Checksum {
 public:
  void add(std::span<const std::uint8_t> bytes);
  void add(std::string_view text);
  void add(std::uint64_t word);
  std::string text() const;  // 16 hexadecimal digits.

 private:
  std::uint64_t state_ = 0;
};

// Over everything that the file holds but what seal() adds.
std::string checksum_of(const SafetensorsFile& file);

// Writes checksum_of(file) into the metadata (`bitrung.checksum`).
void seal(SafetensorsFile& file);

// How the content differs from what was sealed; empty if it does not.
std::string damage_of(const SafetensorsFile& file);

}  // namespace bitrung::train
