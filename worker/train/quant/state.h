// What quantizers keep between the steps of a training: whether a first batch was seen, and the
// range of a layer's activations.
//
// Everything is in tensors that checkpoints hold, so a resumed training continues bit for bit.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "worker/train/quant/levels.h"
#include "worker/train/quant/quantizer.h"

namespace bitrung::train {

// A count in a checkpoint. It lies in the host's memory, so that reading it never waits for a
// device.
class Counter {
 public:
  std::int64_t value() const { return *tensor_.data_ptr<std::int64_t>(); }
  void increase() { ++*tensor_.data_ptr<std::int64_t>(); }
  void set(std::int64_t value) { *tensor_.data_ptr<std::int64_t>() = value; }
  const at::Tensor& tensor() const { return tensor_; }

 private:
  at::Tensor tensor_ = at::zeros({}, at::kLong);
};

// Throws Failure(kUserError): the activations of this layer were asked for before any training
// batch or calibration batch gave them a range.
[[noreturn]] void fail_no_range(const QuantizerSite& site, std::string_view method);

// A new learned tensor; () without channels.
at::Tensor make_learned(const QuantizerSite& site, double value, std::int64_t channels = 0);

// The range of a layer's activations: the moving average of the batches' minima and maxima,
// corrected for its start at zero (Jacob et al. 2017, arXiv 1712.05877, with the correction of
// Kingma and Ba 2014). With d = ema_decay and v_t the t-th batch's minimum or maximum
//
//   e_t = d e_{t-1} + (1 - d) v_t,  e_0 = 0,  range_t = e_t / (1 - d^t)
//
// which is the same as range_t = range_{t-1} + (v_t - range_{t-1}) (1 - d) / (1 - d^t). Only the
// range and t are kept, so a calibration can set both.
class TrackedRange {
 public:
  explicit TrackedRange(const QuantizerSite& site);

  bool is_set() const { return batches_.value() > 0; }
  void update(const at::Tensor& x);
  void update(double low, double high) { update(at::tensor({low, high}, range_.options())); }
  // As if it were the range of a first batch.
  void set(double low, double high);
  at::Tensor low() const { return range_[0].to(at::kDouble); }   // ()
  at::Tensor high() const { return range_[1].to(at::kDouble); }  // ()

  // "range" (2) and "batches" (), int64.
  std::vector<NamedTensor> buffers() const;

 private:
  double decay_;
  at::Tensor range_;  // (2)
  Counter batches_;
};

// Minimum and maximum of the tensor (), or of each output channel (C).
struct Extremes {
  at::Tensor low;
  at::Tensor high;
};
Extremes extremes(const at::Tensor& x, bool by_channel);

// Means over the tensor () or over each output channel (C).
at::Tensor mean_of(const at::Tensor& x, bool by_channel);

bool is_by_channel(const QuantizerSite& site);

}  // namespace bitrung::train
