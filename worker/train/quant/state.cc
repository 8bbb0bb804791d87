#include "worker/train/quant/state.h"

#include <cmath>

#include "worker/train/failure.h"

namespace bitrung::train {

void fail_no_range(const QuantizerSite& site, std::string_view method) {
  fail_user_error(site.layer + ": method " + std::string(method) +
                  " has no range for its activations yet; train the network, or calibrate it "
                  "(a job of kind quantize), before it is evaluated");
}

at::Tensor make_learned(const QuantizerSite& site, double value, std::int64_t channels) {
  return (channels == 0 ? at::full({}, value, site.tensors)
                        : at::full({channels}, value, site.tensors))
      .set_requires_grad(true);
}

TrackedRange::TrackedRange(const QuantizerSite& site)
    : decay_(site.options.ema_decay), range_(at::zeros({2}, site.tensors)) {}

void TrackedRange::update(const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  batches_.increase();
  const auto [low, high] = at::aminmax(x.detach());
  const double weight =
      (1.0 - decay_) / (1.0 - std::pow(decay_, static_cast<double>(batches_.value())));
  range_.add_(at::stack({low, high}).sub_(range_).mul_(weight));
}

void TrackedRange::set(double low, double high) {
  const at::NoGradGuard no_grad;
  range_[0].fill_(low);
  range_[1].fill_(high);
  batches_.set(1);
}

std::vector<NamedTensor> TrackedRange::buffers() const {
  return {{"range", range_}, {"batches", batches_.tensor()}};
}

Extremes extremes(const at::Tensor& x, bool by_channel) {
  const at::Tensor values = by_channel ? x.detach().reshape({x.size(0), -1}) : x.detach();
  if (by_channel) {
    return {values.amin(1).to(at::kDouble), values.amax(1).to(at::kDouble)};
  }
  const auto [low, high] = at::aminmax(values);
  return {low.to(at::kDouble), high.to(at::kDouble)};
}

at::Tensor mean_of(const at::Tensor& x, bool by_channel) {
  const at::Tensor values = x.detach().to(at::kDouble);
  return by_channel ? values.reshape({values.size(0), -1}).mean(1) : values.mean();
}

bool is_by_channel(const QuantizerSite& site) {
  return site.options.granularity == "channel";
}

}  // namespace bitrung::train
