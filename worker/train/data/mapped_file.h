// The bytes of a file, read-only and shared: all processes that map it have one copy in memory, the
// page cache's.
//
// What the file holds may not change while it is mapped, and it may not be cut short; replacing it
// under its name is fine. No LibTorch. Immutable; safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace bitrung::train {

class MappedFile {
 public:
  // Throws Failure(kUserError), naming the file and what to do, unless it has this many bytes and
  // all of them can be read now. A file system that cannot map gives a copy of its own.
  MappedFile(const std::filesystem::path& path, std::uint64_t size_bytes);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::uint8_t> bytes() const { return bytes_; }

 private:
  std::span<const std::uint8_t> bytes_;
  bool is_mapped_ = false;
  std::vector<std::uint8_t> copy_;  // Unless it is mapped.
};

}  // namespace bitrung::train
