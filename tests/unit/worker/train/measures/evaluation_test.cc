#include "worker/train/measures/evaluation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace bitrung::train {
namespace {

struct Batch {
  std::vector<std::vector<double>> logits;
  std::vector<std::int64_t> labels;
};

// Logits that are right about half of the time, with all degrees of confidence.
Batch sample_batch(int images, int classes, int seed) {
  Batch batch;
  for (int i = 0; i < images; ++i) {
    const int label = (i * 7 + seed) % classes;
    std::vector<double> row;
    for (int c = 0; c < classes; ++c) {
      row.push_back(3.0 * std::sin(static_cast<double>(i * classes + c) * 1.7 + seed) +
                    (c == label ? static_cast<double>(i % 9) : 0.0));
    }
    batch.logits.push_back(row);
    batch.labels.push_back(label);
  }
  return batch;
}

void add(Evaluator& evaluator, const Batch& batch, at::ScalarType type) {
  const auto images = static_cast<std::int64_t>(batch.labels.size());
  const auto classes = static_cast<std::int64_t>(batch.logits.front().size());
  at::Tensor logits = at::empty({images, classes}, at::kDouble);
  at::Tensor labels = at::empty({images}, at::kLong);
  for (std::int64_t i = 0; i < images; ++i) {
    const auto& row = batch.logits[static_cast<std::size_t>(i)];
    std::copy(row.begin(), row.end(), logits.data_ptr<double>() + i * classes);
    labels.data_ptr<std::int64_t>()[i] = batch.labels[static_cast<std::size_t>(i)];
  }
  evaluator.add(logits.to(type), labels);
}

// By the definitions, image by image and bin by bin.
Evaluation brute_force(const Batch& batch) {
  const std::size_t classes = batch.logits.front().size();
  const auto images = static_cast<double>(batch.labels.size());
  Evaluation result;
  result.images = static_cast<std::int64_t>(batch.labels.size());
  result.confusion.assign(classes, std::vector<std::int64_t>(classes, 0));
  std::vector<double> confidences;
  std::vector<bool> hits;
  for (std::size_t i = 0; i < batch.labels.size(); ++i) {
    const std::vector<double>& row = batch.logits[i];
    const auto label = static_cast<std::size_t>(batch.labels[i]);
    double sum = 0.0;
    for (const double logit : row) {
      sum += std::exp(logit);
    }
    std::vector<std::size_t> order(classes);
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return row[a] > row[b]; });
    const std::size_t prediction = order.front();
    ++result.confusion[label][prediction];
    result.top1 += prediction == label ? 100.0 / images : 0.0;
    const auto first_five_end =
        order.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(5, classes));
    result.top5 +=
        std::find(order.begin(), first_five_end, label) != first_five_end ? 100.0 / images : 0.0;
    result.nll -= std::log(std::exp(row[label]) / sum) / images;
    for (std::size_t c = 0; c < classes; ++c) {
      const double p = std::exp(row[c]) / sum;
      result.brier += std::pow(p - (c == label ? 1.0 : 0.0), 2.0) / images;
    }
    confidences.push_back(std::exp(row[prediction]) / sum);
    hits.push_back(prediction == label);
  }
  for (int bin = 0; bin < 15; ++bin) {
    double count = 0.0;
    double confidence = 0.0;
    double correct = 0.0;
    for (std::size_t i = 0; i < confidences.size(); ++i) {
      if (confidences[i] > bin / 15.0 && confidences[i] <= (bin + 1) / 15.0) {
        count += 1.0;
        confidence += confidences[i];
        correct += hits[i] ? 1.0 : 0.0;
      }
    }
    if (count > 0.0) {
      result.ece += count / images * std::abs(confidence / count - correct / count);
    }
  }
  for (std::size_t label = 0; label < classes; ++label) {
    double count = 0.0;
    for (const std::int64_t cell : result.confusion[label]) {
      count += static_cast<double>(cell);
    }
    result.per_class.push_back(100.0 * static_cast<double>(result.confusion[label][label]) / count);
  }
  return result;
}

void expect_equal(const Evaluation& found, const Evaluation& expected, double tolerance) {
  EXPECT_EQ(found.images, expected.images);
  EXPECT_NEAR(found.top1, expected.top1, 1e-9);
  EXPECT_NEAR(found.top5, expected.top5, 1e-9);
  EXPECT_NEAR(found.nll, expected.nll, tolerance);
  EXPECT_NEAR(found.brier, expected.brier, tolerance);
  EXPECT_NEAR(found.ece, expected.ece, tolerance);
  EXPECT_EQ(found.confusion, expected.confusion);
  ASSERT_EQ(found.per_class.size(), expected.per_class.size());
  for (std::size_t c = 0; c < found.per_class.size(); ++c) {
    EXPECT_NEAR(found.per_class[c], expected.per_class[c], 1e-9) << c;
  }
}

TEST(Evaluator, Batches_AreEvaluatedByTheDefinitions) {
  for (const int classes : {3, 10, 100}) {
    for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
      const Batch first = sample_batch(3 * classes, classes, 1);
      const Batch second = sample_batch(classes + 7, classes, 2);
      Batch all = first;
      all.logits.insert(all.logits.end(), second.logits.begin(), second.logits.end());
      all.labels.insert(all.labels.end(), second.labels.begin(), second.labels.end());
      Evaluator evaluator(classes);
      add(evaluator, first, type);
      add(evaluator, second, type);
      const Evaluation found = evaluator.result();
      expect_equal(found, brute_force(all), type == at::kDouble ? 1e-12 : 1e-6);
      EXPECT_GT(found.top1, 20.0);
      EXPECT_LT(found.top1, 95.0);
      EXPECT_EQ(found.top5 == 100.0, classes == 3);
    }
  }
}

TEST(Evaluator, UpperEndOfABin_BelongsToIt) {
  // Confidences 1/5, the end of the third bin, and 1/6, which lies inside it.
  constexpr double kNever = -1000.0;
  Evaluator evaluator(6);
  add(evaluator, {{{0, 0, 0, 0, 0, kNever}, {0, 0, 0, 0, 0, 0}}, {0, 1}}, at::kDouble);
  EXPECT_NEAR(evaluator.result().ece, std::abs(1.0 / 5.0 + 1.0 / 6.0 - 1.0) / 2.0, 1e-12);
}

TEST(Evaluator, LargeLogits_DoNotOverflow) {
  Evaluator evaluator(2);
  add(evaluator, {{{2000.0, 0.0}, {-3000.0, 0.0}}, {0, 0}}, at::kFloat);
  const Evaluation found = evaluator.result();
  EXPECT_DOUBLE_EQ(found.nll, 1500.0);
  EXPECT_DOUBLE_EQ(found.brier, 1.0);
  EXPECT_DOUBLE_EQ(found.ece, 0.5);
}

TEST(Evaluator, EqualLogits_PredictTheFirstClass) {
  Evaluator evaluator(10);
  Batch batch;
  for (int label = 0; label < 10; ++label) {
    batch.logits.emplace_back(10, 1.0);
    batch.labels.push_back(label);
  }
  add(evaluator, batch, at::kFloat);
  const Evaluation found = evaluator.result();
  EXPECT_DOUBLE_EQ(found.top1, 10.0);
  EXPECT_DOUBLE_EQ(found.top5, 50.0);
  EXPECT_DOUBLE_EQ(found.per_class[0], 100.0);
  EXPECT_DOUBLE_EQ(found.nll, std::log(10.0));
}

TEST(Evaluator, ClassWithoutImages_HasNoAccuracy) {
  Evaluator evaluator(3);
  add(evaluator, {{{1.0, 0.0, 0.0}}, {0}}, at::kFloat);
  const Evaluation found = evaluator.result();
  EXPECT_DOUBLE_EQ(found.per_class[0], 100.0);
  EXPECT_TRUE(std::isnan(found.per_class[1]));
}

TEST(Evaluator, NotANumber_ShowsInTheLikelihood) {
  Evaluator evaluator(2);
  add(evaluator, {{{std::nan(""), 0.0}, {1.0, 0.0}}, {0, 0}}, at::kDouble);
  EXPECT_TRUE(std::isnan(evaluator.result().nll));
  EXPECT_TRUE(std::isnan(evaluator.result().ece));
}

}  // namespace
}  // namespace bitrung::train
