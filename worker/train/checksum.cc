#include "worker/train/checksum.h"

#include <array>
#include <bit>
#include <cstdio>
#include <cstring>

namespace bitrung::train {

namespace {

constexpr const char* kChecksumKey = "bitrung.checksum";

}  // namespace

void Checksum::add(std::uint64_t word) {
  state_ = std::rotl((state_ ^ word) * 0x9e37'79b9'7f4a'7c15, 29);
}

void Checksum::add(std::span<const std::uint8_t> bytes) {
  std::uint64_t word = 0;
  while (bytes.size() >= sizeof word) {
    std::memcpy(&word, bytes.data(), sizeof word);
    add(word);
    bytes = bytes.subspan(sizeof word);
  }
  word = 0;
  if (!bytes.empty()) std::memcpy(&word, bytes.data(), bytes.size());
  add(word);
  add(std::uint64_t{bytes.size()});
}

void Checksum::add(std::string_view text) {
  add(std::uint64_t{text.size()});
  add({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

std::string Checksum::text() const {
  std::array<char, 17> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(state_));
  return digits.data();
}

std::string checksum_of(const SafetensorsFile& file) {
  Checksum sum;
  for (const auto& [key, value] : file.metadata) {
    if (key == kChecksumKey) continue;
    sum.add(key);
    sum.add(value);
  }
  for (const auto& [name, tensor] : file.tensors) {
    sum.add(name);
    sum.add(dtype_name(tensor.dtype));
    for (const std::int64_t size : tensor.shape) sum.add(static_cast<std::uint64_t>(size));
    sum.add(tensor.bytes);
  }
  return sum.text();
}

void seal(SafetensorsFile& file) {
  file.metadata[kChecksumKey] = checksum_of(file);
}

std::string damage_of(const SafetensorsFile& file) {
  const auto found = file.metadata.find(kChecksumKey);
  const std::string said = found == file.metadata.end() ? "" : found->second;
  const std::string has = checksum_of(file);
  if (said == has) return "";
  return "its checksum is \"" + said + "\", its content has " + has + "; it was damaged on a disk";
}

}  // namespace bitrung::train
