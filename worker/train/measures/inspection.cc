#include "worker/train/measures/inspection.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <unordered_set>
#include <vector>

#include "db/base/check.h"

namespace bitrung::train {

namespace {

// Shares of a step. A value that differs less from a level is that level, rounded differently; one
// that exceeds the last level by less is its own level.
constexpr double kSameLevel = 0.1;
constexpr double kBeyond = 1e-3;

at::Tensor on_host(const at::Tensor& tensor) {
  return tensor.detach().to(at::kCPU, at::kDouble).contiguous();
}

// A grid in plain numbers, with the channel that each value of a tensor belongs to.
class PlainGrid {
 public:
  PlainGrid(const Grid& grid, const at::Tensor& tensor, int bits) : codebook_(grid.codebook) {
    const at::Tensor scale = on_host(grid.scale);
    for (std::int64_t i = 0; i < scale.numel(); ++i) {
      scale_.push_back(scale.data_ptr<double>()[i]);
    }
    if (codebook_.empty()) {
      const at::Tensor zero_point = on_host(grid.zero_point).expand_as(scale).contiguous();
      zero_point_.assign(zero_point.data_ptr<double>(),
                         zero_point.data_ptr<double>() + zero_point.numel());
      last_ = (std::int64_t{1} << bits) - 1;
    } else {
      zero_point_.assign(scale_.size(), 0.0);
      last_ = static_cast<std::int64_t>(codebook_.size()) - 1;
      for (std::size_t i = 1; i < codebook_.size(); ++i) {
        const double gap = codebook_[i] - codebook_[i - 1];
        step_ = i == 1 ? gap : std::min(step_, gap);
      }
    }
    inner_ = tensor.numel();
    if (scale_.size() > 1) {
      BITRUNG_CHECK(scale.dim() == tensor.dim());
      for (std::int64_t d = 0; d < scale.dim(); ++d) {
        if (scale.size(d) > 1) {
          BITRUNG_CHECK(scale.size(d) == scale.numel() && scale.size(d) == tensor.size(d));
          inner_ = 1;
          for (std::int64_t behind = d + 1; behind < tensor.dim(); ++behind) {
            inner_ *= tensor.size(behind);
          }
        }
      }
    }
  }

  std::size_t channels() const { return scale_.size(); }
  std::int64_t codes() const { return last_ + 1; }
  std::int64_t last() const { return last_; }
  const std::vector<double>& scales() const { return scale_; }
  const std::vector<double>& zero_points() const { return zero_point_; }
  bool has_codebook() const { return !codebook_.empty(); }

  // body(index, channel) for every value of the tensor.
  template <typename Body>
  void for_values(std::int64_t count, const Body& body) const {
    std::size_t channel = 0;
    for (std::int64_t first = 0; first < count; first += inner_) {
      for (std::int64_t index = first; index < first + inner_; ++index) {
        body(index, channel);
      }
      channel = channel + 1 == scale_.size() ? 0 : channel + 1;
    }
  }

  // The smallest distance between two levels.
  double step(std::size_t channel) const { return std::abs(scale_[channel]) * step_; }

  // The code of the level nearest to the value. All levels of a channel with scale 0 are 0.
  std::int64_t code_of(double value, std::size_t channel) const {
    const double scale = scale_[channel];
    const double place = scale == 0.0 ? 0.0 : value / scale;
    if (codebook_.empty()) {
      const double code = place + zero_point_[channel] + 0.5;
      return code > 0.0 ? static_cast<std::int64_t>(std::min(code, static_cast<double>(last_))) : 0;
    }
    const auto above = std::lower_bound(codebook_.begin(), codebook_.end(), place);
    if (above == codebook_.begin()) {
      return 0;
    }
    const std::int64_t upper = above - codebook_.begin();
    const bool is_lower = above == codebook_.end() || place - *(above - 1) <= *above - place;
    return is_lower ? upper - 1 : upper;
  }

 private:
  std::vector<double> scale_;
  std::vector<double> zero_point_;
  std::vector<double> codebook_;
  double step_ = 1.0;  // In units of the scale.
  std::int64_t last_ = 0;
  std::int64_t inner_ = 1;  // Values in a row that belong to one channel.
};

// The most different values in one channel, by looking at all of them.
std::int64_t count_values(const double* values, std::int64_t count, const PlainGrid& grid) {
  std::vector<std::unordered_set<std::uint64_t>> seen(grid.channels());
  std::vector<double> last(grid.channels(), std::nan(""));  // Spares most look-ups.
  grid.for_values(count, [&](std::int64_t i, std::size_t channel) {
    const double value = values[i] == 0.0 ? 0.0 : values[i];  // One zero.
    if (value != last[channel]) {
      seen[channel].insert(std::bit_cast<std::uint64_t>(value));
      last[channel] = value;
    }
  });
  std::int64_t most = 0;
  for (std::size_t channel = 0; channel < seen.size(); ++channel) {
    std::vector<double> sorted;
    for (const std::uint64_t bits : seen[channel]) {
      sorted.push_back(std::bit_cast<double>(bits));
    }
    std::sort(sorted.begin(), sorted.end());
    std::int64_t levels = 0;
    double first = 0.0;  // Of the values that are taken for one level.
    for (const double value : sorted) {
      if (levels == 0 || !(value - first <= kSameLevel * grid.step(channel))) {
        ++levels;
        first = value;
      }
    }
    most = std::max(most, levels);
  }
  return most;
}

// The same from the extremes of the values behind each code, which cost little. Nothing if there
// are too many codes, or if a code stands for values that are not one level.
class LevelCounter {
 public:
  explicit LevelCounter(const PlainGrid& grid)
      : grid_(grid), codes_(static_cast<std::size_t>(grid.codes())) {
    if (grid.channels() * codes_ <= kCodesMax) {
      extremes_.resize(grid.channels() * codes_);
    }
  }

  void add(double value, std::size_t channel, std::int64_t code) {
    if (!extremes_.empty()) {
      Extremes& extremes = extremes_[channel * codes_ + static_cast<std::size_t>(code)];
      extremes.low = std::min(extremes.low, value);
      extremes.high = std::max(extremes.high, value);
    }
  }

  std::optional<std::int64_t> result() const {
    if (extremes_.empty()) {
      return std::nullopt;
    }
    std::int64_t most = 0;
    for (std::size_t channel = 0; channel < grid_.channels(); ++channel) {
      std::int64_t levels = 0;
      for (std::size_t code = 0; code < codes_; ++code) {
        const Extremes& extremes = extremes_[channel * codes_ + code];
        if (extremes.low > extremes.high) {
          continue;  // No value.
        }
        if (extremes.high - extremes.low > kSameLevel * grid_.step(channel)) {
          return std::nullopt;
        }
        ++levels;
      }
      most = std::max(most, levels);
    }
    return most;
  }

 private:
  static constexpr std::size_t kCodesMax = 1 << 20;
  struct Extremes {
    double low = std::numeric_limits<double>::infinity();
    double high = -std::numeric_limits<double>::infinity();
  };

  const PlainGrid& grid_;
  std::size_t codes_;
  std::vector<Extremes> extremes_;
};

double entropy_of(const std::vector<std::int64_t>& counts, std::int64_t total) {
  double entropy = 0.0;
  for (const std::int64_t count : counts) {
    if (count > 0) {
      const double share = static_cast<double>(count) / static_cast<double>(total);
      entropy -= share * std::log2(share);
    }
  }
  return entropy;
}

}  // namespace

TensorStatistics inspect_tensor(const at::Tensor& real, const at::Tensor& quantized,
                                const std::optional<Grid>& grid, int bits,
                                std::string_view method) {
  BITRUNG_CHECK(real.sizes() == quantized.sizes() && real.numel() > 0);
  const at::NoGradGuard no_grad;
  const at::Tensor before = on_host(real);
  const at::Tensor after = real.is_same(quantized) ? before : on_host(quantized);
  const double* const r = before.data_ptr<double>();
  const double* const q = after.data_ptr<double>();
  const std::int64_t count = before.numel();

  TensorStatistics result;
  result.bits = bits;
  result.method = method;
  result.min = after.min().item<double>();
  result.max = after.max().item<double>();
  result.histogram_from = before.min().item<double>();
  result.histogram_to = before.max().item<double>();
  const double width = result.histogram_to - result.histogram_from;
  const double bins_per_unit =
      width > 0.0 ? static_cast<double>(TensorStatistics::kHistogramBins) / width : 0.0;
  double signal = 0.0;
  double noise = 0.0;
  for (std::int64_t i = 0; i < count; ++i) {
    signal += r[i] * r[i];
    noise += (r[i] - q[i]) * (r[i] - q[i]);
    const double place = (r[i] - result.histogram_from) * bins_per_unit;
    const auto bin = place > 0.0 ? static_cast<std::size_t>(std::min(
                                       place, static_cast<double>(result.histogram.size() - 1)))
                                 : 0;
    ++result.histogram[bin];
  }
  if (signal > 0.0 && noise > 0.0) {
    result.sqnr_db = 10.0 * std::log10(signal / noise);
  }
  if (!grid) {
    return result;
  }

  const PlainGrid plain(*grid, before, bits);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(plain.codes()), 0);
  std::int64_t saturated = 0;
  LevelCounter levels(plain);
  plain.for_values(count, [&](std::int64_t i, std::size_t channel) {
    const std::int64_t code = plain.code_of(q[i], channel);
    ++counts[static_cast<std::size_t>(code)];
    const double step = plain.step(channel);
    const double above = r[i] - q[i];
    // A method with 2^bits - 1 levels leaves the last code out; what exceeds the one before it by
    // more than rounding does has met the bound as well.
    const bool is_saturated =
        (code == 0 && above < -kBeyond * step) ||
        (code == plain.last() && above > kBeyond * step) ||
        (code == plain.last() - 1 && above > (0.5 + kBeyond) * step && !plain.has_codebook());
    saturated += is_saturated ? 1 : 0;
    levels.add(q[i], channel, code);
  });
  const std::optional<std::int64_t> counted = levels.result();
  result.levels = counted ? *counted : count_values(q, count, plain);
  result.saturated = static_cast<double>(saturated) / static_cast<double>(count);
  result.entropy = entropy_of(counts, count);
  const auto [least, most] = std::minmax_element(plain.scales().begin(), plain.scales().end());
  if (plain.channels() == 1) {
    result.scale = *least;
  } else {
    result.scale_min = *least;
    result.scale_max = *most;
  }
  const std::vector<double>& zero_points = plain.zero_points();
  if (!plain.has_codebook() &&
      std::all_of(zero_points.begin(), zero_points.end(),
                  [&](double zero_point) { return zero_point == zero_points.front(); })) {
    result.zero_point = zero_points.front();
  }
  result.scales = static_cast<std::int64_t>(plain.channels());
  return result;
}

}  // namespace bitrung::train
