// What the client must know of networks and data sets to check an experiment and to estimate its
// cost: classes, images, multiply-accumulates. The trainer owns the networks themselves. Pure.
#pragma once

#include <cstdint>
#include <string_view>

namespace bitrung::client {

struct DatasetInfo {
  int classes = 10;
  int image_size = 32;            // Pixels of an edge; three channels.
  std::int64_t train_images = 0;  // 0 where an option says it (synthetic).
  std::int64_t test_images = 0;   // Likewise.
};

// Of a data set that the option table knows.
DatasetInfo dataset_info(std::string_view dataset);

// Multiply-accumulates of one image's way forward: convolutions and linear layers, as the trainer's
// own table of layers has them. The model is one that the option table knows.
std::int64_t forward_macs(std::string_view model, const DatasetInfo& dataset);

}  // namespace bitrung::client
