#include "client/experiment/network.h"

#include "db/base/check.h"
#include "worker/train/nn/architecture.h"

namespace bitrung::client {

DatasetInfo dataset_info(std::string_view dataset) {
  if (dataset == "cifar10")
    return {.classes = 10, .image_size = 32, .train_images = 50'000, .test_images = 10'000};
  if (dataset == "cifar100")
    return {.classes = 100, .image_size = 32, .train_images = 50'000, .test_images = 10'000};
  BITRUNG_CHECK(dataset == "synthetic");
  return {.classes = 10, .image_size = 32, .train_images = 0, .test_images = 0};
}

std::int64_t forward_macs(std::string_view model, const DatasetInfo& dataset) {
  const auto architecture = train::parse_architecture(model);
  BITRUNG_CHECK(architecture.has_value());
  std::int64_t macs = 0;
  for (const train::LayerPlan& layer : train::layer_plans(*architecture, dataset.classes)) {
    macs += layer.macs();
  }
  return macs;
}

}  // namespace bitrung::client
