#include "worker/train/data/device_images.h"

#include <algorithm>

namespace bitrung::train {

namespace {

constexpr std::int64_t kPaddedSide = kImageSide + 2 * kPadding;
constexpr std::int64_t kPaddedPlane = kPaddedSide * kPaddedSide;
constexpr std::int64_t kPaddedImage = kPaddedPlane * kImageChannels;

// Columns of a pick.
enum Column : std::int64_t { kIndex, kDown, kRight, kFlip };

at::Tensor padded(const ImageSet& set) {
  at::Tensor result = at::zeros({set.size() * kPaddedImage}, at::kByte);
  std::uint8_t* const out = result.data_ptr<std::uint8_t>();
  at::parallel_for(0, set.size(), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint8_t* const image = set.image(i);
      for (std::int64_t c = 0; c < kImageChannels; ++c) {
        for (std::int64_t y = 0; y < kImageSide; ++y) {
          std::copy_n(
              image + (c * kImageSide + y) * kImageSide, kImageSide,
              out + i * kPaddedImage + c * kPaddedPlane + (y + kPadding) * kPaddedSide + kPadding);
        }
      }
    }
  });
  return result;
}

at::Tensor table() {
  at::Tensor result = at::empty({kImageChannels * 256}, at::kFloat);
  for (int c = 0; c < kImageChannels; ++c) {
    for (int byte = 0; byte < 256; ++byte) {
      result.data_ptr<float>()[c * 256 + byte] = normal_value(c, static_cast<std::uint8_t>(byte));
    }
  }
  return result;
}

at::Tensor labels_of(const ImageSet& set) {
  at::Tensor result = at::empty({set.size()}, at::kByte);
  std::copy_n(set.labels.data(), set.size(), result.data_ptr<std::uint8_t>());
  return result;
}

// (N) as (N,1,1,1).
at::Tensor column(const at::Tensor& picks, Column which) {
  return picks.select(1, which).view({-1, 1, 1, 1});
}

}  // namespace

DeviceImages::DeviceImages(const ImageSet& set, const at::Device& device)
    : pixels_(padded(set).to(device)),
      labels_(labels_of(set).to(device)),
      table_(table().to(device)),
      channel_(at::arange(kImageChannels, at::kLong).view({1, 1, 1, kImageChannels}).to(device)),
      column_(at::arange(kImageSide, at::kLong).view({1, 1, kImageSide, 1}).to(device)),
      row_(at::arange(kImageSide, at::kLong).view({1, kImageSide, 1, 1}).to(device)) {}

void DeviceImages::write_pick(std::uint32_t index, const Placement& placement, std::int64_t* row) {
  row[kIndex] = index;
  row[kDown] = placement.dy;
  row[kRight] = placement.dx;
  row[kFlip] = placement.flip ? 1 : 0;
}

at::Tensor DeviceImages::images(const at::Tensor& picks) const {
  const at::Tensor flip = column(picks, kFlip);
  // Of the padded image, in the order (N, row, column, channel).
  const at::Tensor x = column_ + flip * (kImageSide - 1 - 2 * column_) + column(picks, kRight);
  const at::Tensor y = row_ + column(picks, kDown);
  const at::Tensor place =
      column(picks, kIndex) * kPaddedImage + channel_ * kPaddedPlane + y * kPaddedSide + x;
  const at::Tensor bytes = pixels_.take(place).to(at::kLong);
  return table_.take(bytes + channel_ * 256).permute({0, 3, 1, 2});
}

at::Tensor DeviceImages::labels(const at::Tensor& picks) const {
  return labels_.take(picks.select(1, kIndex)).to(at::kLong);
}

}  // namespace bitrung::train
