// How well a network's logits fit the labels: accuracy, likelihood and calibration.
//
// Without gradients, on the host and in double precision whatever the network computes with. Not
// thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "worker/train/torch_compat.h"

namespace bitrung::train {

struct Evaluation {
  std::int64_t images = 0;
  double top1 = 0.0;   // Percent. Of equal logits the first class counts.
  double top5 = 0.0;   // Percent; with 5 classes or fewer always 100.
  double nll = 0.0;    // Mean of -log p(label), natural logarithm.
  double brier = 0.0;  // Mean of the sum over the classes of (p - [class is label])^2.
  double ece = 0.0;    // Expected calibration error in [0, 1] (Guo et al. 2017, arXiv 1706.04599).
  std::vector<double> per_class;                     // Percent; NaN for a class without images.
  std::vector<std::vector<std::int64_t>> confusion;  // [label][prediction]
};

// Collects batch by batch.
class Evaluator {
 public:
  // Equal bins of the confidence, each without its lower end and with its upper one.
  static constexpr int kBins = 15;

  explicit Evaluator(int classes);

  // logits: (N,classes), any device and type; labels: (N), int64.
  void add(const at::Tensor& logits, const at::Tensor& labels);

  // NaN everywhere if there are no images.
  Evaluation result() const;

 private:
  struct Bin {
    double images = 0.0;
    double confidence = 0.0;
    double correct = 0.0;
  };

  std::int64_t classes_;
  std::int64_t images_ = 0;
  std::int64_t in_first_five_ = 0;
  double nll_ = 0.0;
  double brier_ = 0.0;
  std::array<Bin, kBins> bins_{};
  std::vector<std::vector<std::int64_t>> confusion_;
};

}  // namespace bitrung::train
