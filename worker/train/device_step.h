// Steps of a training on a device with its own memory: the images are made there, and where it can
// be done, a step is recorded once and then launched as a whole.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "worker/train/cuda/step_graph.h"
#include "worker/train/data/device_images.h"
#include "worker/train/torch_compat.h"

namespace bitrung::train {

// What a step says of itself, on the device: means over the batch, and how many were right.
struct StepValues {
  at::Tensor loss;          // ()
  at::Tensor distillation;  // () or undefined.
  at::Tensor correct;       // () int64.
};

class DeviceStep {
 public:
  // Launches a step: images (N,3,32,32), labels (N), the learning rate as a () float.
  using Work = std::function<StepValues(const at::Tensor& images, const at::Tensor& labels,
                                        const at::Tensor& rate)>;

  // why_not_recorded: empty if every step launches the same operations and reads nothing back.
  DeviceStep(const ImageSet& set, const at::Device& device, std::int64_t batch_size,
             std::string why_not_recorded);

  // place(i) says how image i is moved. indices.size() must be the batch size. The values are the
  // caller's own.
  template <typename Place>
  StepValues run(std::span<const std::uint32_t> indices, const Place& place, double rate,
                 const Work& work) {
    at::Tensor picks = host_picks();
    for (std::size_t i = 0; i < indices.size(); ++i) {
      DeviceImages::write_pick(indices[i], place(static_cast<std::int64_t>(i)),
                               picks.data_ptr<std::int64_t>() +
                                   static_cast<std::ptrdiff_t>(i) * DeviceImages::kPickColumns);
    }
    return run(picks, rate, work);
  }

  // The work launches other operations from now on.
  void forget();

  // Why steps are launched operation by operation; empty if they are not, or not yet.
  const std::string& why_not_recorded() const { return why_not_recorded_; }

 private:
  // Libraries choose and allocate in the first passes; these cannot be recorded.
  static constexpr int kFirstSteps = 3;

  at::Tensor host_picks() const;
  StepValues run(const at::Tensor& picks, double rate, const Work& work);
  StepValues launch(const Work& work) const;

  const at::Device device_;
  const DeviceImages images_;
  at::Tensor picks_;  // (N,4) int64
  at::Tensor rate_;   // () float
  std::string why_not_recorded_;
  int steps_ = 0;  // Since forget().
  std::optional<StepGraph> graph_;
  StepValues recorded_;  // Where the graph leaves its values.
};

}  // namespace bitrung::train
