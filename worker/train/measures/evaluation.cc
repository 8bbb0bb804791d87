#include "worker/train/measures/evaluation.h"

#include <algorithm>
#include <cmath>

#include "db/base/check.h"

namespace bitrung::train {

namespace {

constexpr std::int64_t kTop = 5;

}  // namespace

Evaluator::Evaluator(int classes)
    : classes_(classes),
      confusion_(static_cast<std::size_t>(classes),
                 std::vector<std::int64_t>(static_cast<std::size_t>(classes), 0)) {}

void Evaluator::add(const at::Tensor& logits, const at::Tensor& labels) {
  BITRUNG_CHECK(logits.dim() == 2 && logits.size(1) == classes_);
  BITRUNG_CHECK(labels.dim() == 1 && labels.size(0) == logits.size(0));
  const at::NoGradGuard no_grad;
  const at::Tensor values = logits.to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor truth = labels.to(at::kCPU, at::kLong).contiguous();
  for (std::int64_t i = 0; i < values.size(0); ++i) {
    const double* const row = values.data_ptr<double>() + i * classes_;
    const std::int64_t label = truth.data_ptr<std::int64_t>()[i];
    BITRUNG_CHECK(label >= 0 && label < classes_);
    const std::int64_t prediction = std::max_element(row, row + classes_) - row;
    const double peak = row[prediction];
    double sum = 0.0;
    std::int64_t before_label = 0;
    for (std::int64_t c = 0; c < classes_; ++c) {
      sum += std::exp(row[c] - peak);
      before_label += row[c] > row[label] || (row[c] == row[label] && c < label) ? 1 : 0;
    }
    double squares = 0.0;
    for (std::int64_t c = 0; c < classes_; ++c) {
      const double p = std::exp(row[c] - peak) / sum;
      squares += (p - (c == label ? 1.0 : 0.0)) * (p - (c == label ? 1.0 : 0.0));
    }
    nll_ += std::log(sum) + peak - row[label];
    brier_ += squares;
    in_first_five_ += before_label < kTop ? 1 : 0;
    ++confusion_[static_cast<std::size_t>(label)][static_cast<std::size_t>(prediction)];
    const double confidence = 1.0 / sum;
    // NaN goes into the first bin and makes its sum NaN.
    const double place = std::ceil(confidence * kBins) - 1.0;
    Bin& bin =
        bins_[place > 0.0 ? std::min<std::size_t>(static_cast<std::size_t>(place), kBins - 1) : 0];
    bin.images += 1.0;
    bin.confidence += confidence;
    bin.correct += prediction == label ? 1.0 : 0.0;
  }
  images_ += values.size(0);
}

Evaluation Evaluator::result() const {
  Evaluation result;
  const auto images = static_cast<double>(images_);
  std::int64_t correct = 0;
  for (std::size_t label = 0; label < confusion_.size(); ++label) {
    std::int64_t of_class = 0;
    for (const std::int64_t count : confusion_[label]) {
      of_class += count;
    }
    const std::int64_t hits = confusion_[label][label];
    correct += hits;
    result.per_class.push_back(100.0 * static_cast<double>(hits) / static_cast<double>(of_class));
  }
  result.images = images_;
  result.top1 = 100.0 * static_cast<double>(correct) / images;
  result.top5 = 100.0 * static_cast<double>(in_first_five_) / images;
  result.nll = nll_ / images;
  result.brier = brier_ / images;
  for (const Bin& bin : bins_) {
    // The share of the images times the gap between mean confidence and accuracy.
    result.ece += std::abs(bin.confidence - bin.correct) / images;
  }
  result.confusion = confusion_;
  return result;
}

}  // namespace bitrung::train
