// The container of all checkpoints: safetensors (8-byte little-endian header length, JSON header,
// raw tensors).
//
// Own reader and writer, bounded and strict, since files come from other machines: a file is either
// wholly valid or refused, and reading one never runs anything from it. No LibTorch; checkpoint.h
// turns tensors into LibTorch's. Values without shared state; any thread may use its own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace bitrung::train {

// Ample for a header: resnet110 with momentum and best weights needs a sixth of it.
inline constexpr std::uint64_t kHeaderBytesMax = 1024 * 1024;
inline constexpr std::size_t kTensorRankMax = 8;
inline constexpr std::size_t kTensorNameBytesMax = 256;
// Some fifty times the largest resume state.
inline constexpr std::uint64_t kFileBytesMax = std::uint64_t{1} << 30;

// The element types that a file may hold; the format's own names are in dtype_name().
enum class Dtype { kBool, kU8, kI8, kI16, kI32, kI64, kF16, kBF16, kF32, kF64 };

std::string_view dtype_name(Dtype dtype);  // "F32"
std::uint64_t dtype_bytes(Dtype dtype);

struct TensorBytes {
  Dtype dtype = Dtype::kF32;
  std::vector<std::int64_t> shape;  // Empty for a scalar.
  std::vector<std::uint8_t> bytes;  // Row-major, little-endian.
};

struct SafetensorsFile {
  std::map<std::string, TensorBytes> tensors;
  std::map<std::string, std::string> metadata;
};

// Why bytes are not a safetensors file; the message does not name the file.
class SafetensorsError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Accepts exactly: a header of at most kHeaderBytesMax that is one JSON object without duplicate
// keys; names of [A-Za-z0-9_.], 1 to 256 bytes; known types; at most 8 dimensions; byte ranges that
// match shape and type, lie in the file, do not overlap and leave no gap. Throws SafetensorsError
// otherwise.
SafetensorsFile parse_safetensors(std::span<const std::uint8_t> bytes);

// The one encoding of a file: tensors by falling element size, then name (so that each is aligned),
// metadata sorted by key. Equal files give equal bytes. Names and shapes must be valid (checked).
std::vector<std::uint8_t> encode_safetensors(const SafetensorsFile& file);

// Reads a whole file. Throws SafetensorsError; an unreadable file is one as well, with the system's
// reason.
SafetensorsFile read_safetensors(const std::filesystem::path& path);

// Writes beside the path, syncs, renames over it and syncs the directory: after a crash there is
// the old file or the whole new one. Throws Failure(kDeviceFault) with the system's reason, for
// instance a full disk.
void write_safetensors(const std::filesystem::path& path, const SafetensorsFile& file);

}  // namespace bitrung::train
