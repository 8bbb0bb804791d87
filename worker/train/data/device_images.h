// A set of images in the memory of a device, and batches of it that are made there.
//
// For devices to which a step's images would have to be sent: the set goes once, as bytes, and a
// step sends 32 bytes an image. Only launches operations and never waits for the device, so that
// the operations can be recorded (cuda/step_graph.h).
#pragma once

#include <cstdint>

#include "worker/train/data/batch.h"
#include "worker/train/data/dataset.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

class DeviceImages {
 public:
  // Takes 4,801 bytes of the device an image: each is padded by 4 zero bytes on all sides.
  DeviceImages(const ImageSet& set, const at::Device& device);

  // A row of `picks` below.
  static constexpr std::int64_t kPickColumns = 4;
  static void write_pick(std::uint32_t index, const Placement& placement, std::int64_t* row);

  // picks: (N,4) int64 on the device, rows of write_pick(). Result: (N,3,32,32) float,
  // channels_last, the very numbers of write_image().
  at::Tensor images(const at::Tensor& picks) const;
  // (N) int64.
  at::Tensor labels(const at::Tensor& picks) const;

 private:
  at::Tensor pixels_;   // (images * 4800) uint8, each image (3,40,40).
  at::Tensor labels_;   // (images) uint8.
  at::Tensor table_;    // (3 * 256) float: what a byte of a channel becomes.
  at::Tensor channel_;  // (1,1,1,3) int64: 0, 1, 2.
  at::Tensor column_;   // (1,1,32,1) int64: 0 … 31.
  at::Tensor row_;      // (1,32,1,1) int64: 0 … 31.
};

}  // namespace bitrung::train
