// A batch of images and labels on the host, filled again and again.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "db/base/check.h"
#include "worker/train/data/batch.h"
#include "worker/train/data/dataset.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

class HostBatch {
 public:
  explicit HostBatch(std::int64_t size)
      : images_(at::empty({size, kImageChannels, kImageSide, kImageSide},
                          at::TensorOptions().dtype(at::kFloat), at::MemoryFormat::ChannelsLast)),
        labels_(at::empty({size}, at::kLong)) {}

  // Fills the first indices.size() places; place(i) says how image i is moved.
  template <typename Place>
  void fill(const ImageSet& set, std::span<const std::uint32_t> indices, const Place& place) {
    float* const pixels = images_.data_ptr<float>();  // channels_last: (N,32,32,3) in memory.
    std::int64_t* const labels = labels_.data_ptr<std::int64_t>();
    const auto count = static_cast<std::int64_t>(indices.size());
    BITRUNG_CHECK(count <= labels_.size(0));
    at::parallel_for(0, count, kImagesPerTask, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::uint32_t index = indices[static_cast<std::size_t>(i)];
        write_image(set.image(index), place(i),
                    pixels + i * static_cast<std::int64_t>(kImageBytes));
        labels[i] = set.labels[index];
      }
    });
  }

  at::Tensor images(std::int64_t count) const {
    return images_.narrow(0, 0, count);
  }  // (count,3,32,32)
  at::Tensor labels(std::int64_t count) const { return labels_.narrow(0, 0, count); }  // (count)

 private:
  // Images that one thread writes at a time: 16 take about 35 us.
  static constexpr std::int64_t kImagesPerTask = 16;

  at::Tensor images_;
  at::Tensor labels_;
};

// 0, 1, 2, …
inline std::vector<std::uint32_t> all_indices(const ImageSet& set) {
  std::vector<std::uint32_t> indices(set.labels.size());
  for (std::size_t i = 0; i < indices.size(); ++i) {
    indices[i] = static_cast<std::uint32_t>(i);
  }
  return indices;
}

}  // namespace bitrung::train
