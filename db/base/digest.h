// SHA-256 digests: the names of artifacts, of canonical options and of data sets.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace bitrung {

// 32 bytes; a value type usable as a key.
struct Digest {
  std::array<std::uint8_t, 32> bytes{};

  auto operator<=>(const Digest&) const = default;

  // 64 lower-case hex digits.
  std::string hex() const;
  // The raw 32 bytes as text, for hashing and for storage.
  std::string_view raw() const;

  // From 64 hex digits of either case; nothing for any other text.
  static std::optional<Digest> from_hex(std::string_view text);
  // From exactly 32 raw bytes; nothing for any other length.
  static std::optional<Digest> from_raw(std::string_view bytes);
};

struct DigestHash {
  std::size_t operator()(const Digest& digest) const;
};

// Incremental SHA-256. Not thread-safe; one object hashes one message.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(std::string_view bytes);
  // Ends the message. The object must not be used afterwards.
  Digest finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

// SHA-256 of one piece of text.
Digest sha256(std::string_view bytes);

// `count` bytes from the operating system's random source, as 2·count hex digits.
std::string random_hex(std::size_t count);

}  // namespace bitrung
