// Steps on a device, here the CPU: the images are those that the host would make.
#include "worker/train/device_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/train/data/host_batch.h"

namespace bitrung::train {
namespace {

Dataset images() {
  SyntheticOptions options;
  options.train_images = 64;
  options.test_images = 1;
  options.seed = 3;
  return make_synthetic(options);
}

// Every position of the window, mirrored and not.
Placement placement(std::int64_t i) {
  return {static_cast<int>(i % 9), static_cast<int>(i / 9 % 9), i % 2 == 1};
}

TEST(DeviceImages, AreThoseOfTheHostBitForBit) {
  const Dataset dataset = images();
  constexpr std::int64_t kCount = 162;
  std::vector<std::uint32_t> indices;
  at::Tensor picks = at::empty({kCount, DeviceImages::kPickColumns}, at::kLong);
  for (std::int64_t i = 0; i < kCount; ++i) {
    indices.push_back(static_cast<std::uint32_t>((i * 7) % 64));
    DeviceImages::write_pick(indices.back(), placement(i),
                             picks.data_ptr<std::int64_t>() + i * DeviceImages::kPickColumns);
  }
  HostBatch batch(kCount);
  batch.fill(dataset.training, indices, placement);
  const DeviceImages device(dataset.training, at::kCPU);
  EXPECT_TRUE(device.images(picks).equal(batch.images(kCount)));
  EXPECT_TRUE(device.images(picks).is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(device.labels(picks).equal(batch.labels(kCount)));
}

TEST(DeviceStep, GivesTheWorkItsBatchAndRate) {
  const Dataset dataset = images();
  DeviceStep step(dataset.training, at::kCPU, 4, "it is a test");
  EXPECT_EQ(step.why_not_recorded(), "it is a test");
  const std::vector<std::uint32_t> indices = {5, 63, 0, 5};
  HostBatch batch(4);
  batch.fill(dataset.training, indices, placement);
  const StepValues values = step.run(
      indices, placement, 0.25,
      [&](const at::Tensor& x, const at::Tensor& labels, const at::Tensor& rate) -> StepValues {
        EXPECT_TRUE(x.equal(batch.images(4)));
        EXPECT_TRUE(labels.equal(batch.labels(4)));
        return {rate * 2, {}, labels.sum()};
      });
  EXPECT_EQ(values.loss.item<double>(), 0.5);
  EXPECT_FALSE(values.distillation.defined());
  EXPECT_EQ(values.correct.item<std::int64_t>(), batch.labels(4).sum().item<std::int64_t>());
}

TEST(DeviceStep, SaysWhereNothingCanBeRecorded) {
  const DeviceStep step(images().training, at::kCPU, 4, "");
  EXPECT_THAT(step.why_not_recorded(), testing::HasSubstr("for cpu"));
}

}  // namespace
}  // namespace bitrung::train
