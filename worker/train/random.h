// Random numbers that are the same on every machine: integer arithmetic only, no standard
// distribution.
//
// A stream is a pure function of a key (seed, purpose, epoch, position, …), so no generator state
// is kept between epochs or in resume files. Not for cryptography. Values; no shared state, so any
// thread may use its own.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace bitrung::train {

// Finalizer of splitmix64 (Steele, Lea, Flood 2014; constants by Stafford, variant 13).
constexpr std::uint64_t mix_bits(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

// What a stream is for; the first word of every key, so that streams of different uses never meet.
enum class Purpose : std::uint64_t {
  kInitialWeights = 1,
  kShuffle = 2,
  kAugment = 3,
  kValidationSplit = 4,
  kSyntheticClass = 5,
  kSyntheticImage = 6,
  kGradientNoise = 7,
};

// FNV-1a of a name, to stand in a key.
constexpr std::uint64_t hash_of(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : name) {
    hash = (hash ^ static_cast<std::uint64_t>(static_cast<unsigned char>(c))) * 0x100000001b3U;
  }
  return hash;
}

// splitmix64 whose start is a hash of the key.
class RandomStream {
 public:
  RandomStream(Purpose purpose, std::initializer_list<std::uint64_t> key)
      : state_(mix_bits(static_cast<std::uint64_t>(purpose) * kGolden)) {
    for (const std::uint64_t word : key) {
      state_ = mix_bits((state_ ^ word) + kGolden);
    }
  }

  std::uint64_t next() {
    state_ += kGolden;
    return mix_bits(state_);
  }

  // Uniform in [0, bound), bound >= 1: the high half of a 32 x 32 bit product. Its bias is below
  // bound / 2^32.
  std::uint32_t below(std::uint32_t bound) {
    return static_cast<std::uint32_t>(((next() >> 32) * bound) >> 32);
  }

  // Uniform in [0, 1), 53 bits, exact.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

 private:
  static constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15U;
  std::uint64_t state_;
};

}  // namespace bitrung::train
