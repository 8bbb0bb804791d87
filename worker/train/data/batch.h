// From raw bytes to the float input of the network: order of the images, augmentation,
// normalisation.
//
// Plain memory; no LibTorch. Everything random is a pure function of (seed, epoch, position), so
// that training resumes anywhere without any generator's state. No shared mutable state: any thread
// may fill its own batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/train/data/dataset.h"

namespace bitrung::train {

// The images of one epoch in the order of training: a permutation of `indices` for (seed, epoch).
std::vector<std::uint32_t> epoch_order(std::span<const std::uint32_t> indices, std::uint64_t seed,
                                       std::int64_t epoch);

// Bytes of zeros that an image is padded with on each side before it is cropped.
inline constexpr int kPadding = 4;

// How one image is moved: `dx`, `dy` in [0, 8] choose a 32 x 32 window of the image padded by 4
// zero bytes on each side (4, 4 is the image itself), and `flip` mirrors the window left to right.
struct Placement {
  int dy = 4;
  int dx = 4;
  bool flip = false;
  bool operator==(const Placement&) const = default;
};

// Placement of the image at `position` (0-based) of an epoch.
Placement augmentation_at(bool crop, bool flip, std::uint64_t seed, std::int64_t epoch,
                          std::int64_t position);

// What the networks see for a byte of a channel (red, green, blue): ((byte / 255) - mean) /
// deviation with the channel means .507 .487 .441 and deviations .267 .256 .276 that
// teacher-assistant distillation uses for both CIFARs.
float normal_value(int channel, std::uint8_t byte);

// Writes one image as 32 x 32 x 3 floats (row, column, channel), normal_value() of its bytes.
// Padding is byte 0, which is black, not the mean.
void write_image(const std::uint8_t* image, const Placement& placement, float* out);

}  // namespace bitrung::train
