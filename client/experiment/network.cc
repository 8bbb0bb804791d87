#include "client/experiment/network.h"

#include <charconv>
#include <system_error>

#include "db/base/check.h"

namespace bitrung::client {

DatasetInfo dataset_info(std::string_view dataset) {
  if (dataset == "cifar10") return {.classes = 10, .image_size = 32, .train_images = 50'000};
  if (dataset == "cifar100") return {.classes = 100, .image_size = 32, .train_images = 50'000};
  BITRUNG_CHECK(dataset == "synthetic");
  return {.classes = 10, .image_size = 32, .train_images = 0};
}

std::int64_t forward_macs(std::string_view model, const DatasetInfo& dataset) {
  constexpr std::string_view kPrefix = "resnet";
  constexpr std::int64_t kKernelArea = 9;
  constexpr std::int64_t kColours = 3;
  constexpr std::int64_t kFirstWidth = 16;
  BITRUNG_CHECK(model.starts_with(kPrefix));
  int depth = 0;
  const auto [end, error] =
      std::from_chars(model.data() + kPrefix.size(), model.data() + model.size(), depth);
  BITRUNG_CHECK(error == std::errc() && end == model.data() + model.size());
  // A first convolution, three stages of blocks with two convolutions each, a linear layer.
  BITRUNG_CHECK(depth >= 8 && depth % 6 == 2);
  const int blocks = (depth - 2) / 6;

  std::int64_t edge = dataset.image_size;
  std::int64_t width = kFirstWidth;
  std::int64_t macs = edge * edge * kKernelArea * kColours * width;
  for (int stage = 0; stage < 3; ++stage) {
    for (int block = 0; block < blocks; ++block) {
      std::int64_t input_width = width;
      if (stage > 0 && block == 0) {
        width *= 2;
        edge /= 2;
        macs += edge * edge * input_width * width;  // The 1x1 convolution of the short cut.
      }
      macs += edge * edge * kKernelArea * (input_width * width + width * width);
    }
  }
  return macs + width * dataset.classes;
}

}  // namespace bitrung::client
