// Helpers of the training tests: a folder that goes away, and small specs.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "worker/train/spec.h"

namespace bitrung::train {

// A fresh folder, removed at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "bitrung-train-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) {
      throw std::runtime_error("mkdtemp failed: " + pattern);
    }
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path make_folder(const std::string& name) const {
    std::filesystem::create_directories(path_ / name);
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline Bits bits_of(int weights, int activations) {
  Bits bits;
  bits.weights = weights;
  bits.activations = activations;
  return bits;
}
inline Bits bits_of(int both) {
  return bits_of(both, both);
}

// resnet8 on a few synthetic images: a step takes some 30 ms.
inline Spec tiny_spec() {
  Spec spec;
  spec.network.model = "resnet8";
  spec.dataset = "synthetic";
  spec.synthetic = SyntheticOptions{1, 160, 40};
  spec.network.bits = bits_of(4);
  spec.epochs = 3;
  spec.batch_size = 32;
  spec.seed = 20;
  spec.schedule.kind = ScheduleKind::kCosine;
  spec.augment_crop = true;
  spec.augment_flip = true;
  return spec;
}

}  // namespace bitrung::train
