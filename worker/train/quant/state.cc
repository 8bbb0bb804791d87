#include "worker/train/quant/state.h"

#include <algorithm>
#include <cmath>

#include "worker/train/failure.h"
#include "worker/train/quant/uniform_kernels.h"

namespace bitrung::train {

namespace {

// Values that one thread looks at.
constexpr std::int64_t kValuesPerBlock = 32768;

// LibTorch's aminmax is one loop of scalars: as long as a convolution.
template <typename Real>
Extremes extremes_by_loops(const at::Tensor& x) {
  const Real* const values = x.data_ptr<Real>();
  const std::int64_t count = x.numel();
  const std::int64_t blocks = (count + kValuesPerBlock - 1) / kValuesPerBlock;
  std::vector<Real> lows(static_cast<std::size_t>(blocks), values[0]);
  std::vector<Real> highs(static_cast<std::size_t>(blocks), values[0]);
  at::parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kValuesPerBlock;
      const auto i = static_cast<std::size_t>(block);
      widen_range(values + first, std::min(kValuesPerBlock, count - first), lows[i], highs[i]);
    }
  });
  Real low = values[0];
  Real high = values[0];
  widen_range(lows.data(), blocks, low, high);
  widen_range(highs.data(), blocks, low, high);
  return {scalar_tensor(static_cast<double>(low)), scalar_tensor(static_cast<double>(high))};
}

}  // namespace

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
  const Extremes batch = extremes(x, /*by_channel=*/false);
  const double weight =
      (1.0 - decay_) / (1.0 - std::pow(decay_, static_cast<double>(batches_.value())));
  range_.add_(at::stack({batch.low, batch.high}).sub_(range_).mul_(weight));
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
  if (!by_channel && x.numel() > 0 && x.device().is_cpu() && x.is_non_overlapping_and_dense()) {
    if (x.scalar_type() == at::kFloat) {
      return extremes_by_loops<float>(x);
    }
    if (x.scalar_type() == at::kDouble) {
      return extremes_by_loops<double>(x);
    }
  }
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
