#include "worker/train/distill.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/worker/train/test_files.h"

namespace bitrung::train {
namespace {

using Rows = std::vector<std::vector<double>>;

const Rows kLogits = {{0.3, -1.2, 2.0}, {1.0, 0.0, -0.5}};
const Rows kTeacher = {{1.0, 0.5, -2.0}, {3.0, -1.0, 0.0}};
const Rows kOther = {{0.0, 2.5, 1.0}, {-1.0, -1.0, 0.7}};
const std::vector<std::int64_t> kLabels = {2, 0};

at::Tensor tensor_of(const Rows& rows) {
  at::Tensor result = at::empty({2, 3}, at::kDouble);
  for (std::int64_t i = 0; i < 2; ++i) {
    for (std::int64_t j = 0; j < 3; ++j) {
      result[i][j] = rows[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)];
    }
  }
  return result;
}

std::vector<double> softmax(const std::vector<double>& row, double temperature) {
  double sum = 0.0;
  std::vector<double> result;
  for (const double value : row) {
    result.push_back(std::exp(value / temperature));
    sum += result.back();
  }
  for (double& value : result) {
    value /= sum;
  }
  return result;
}

// Central differences of a function of the logits.
template <typename Function>
Rows slopes(const Rows& at_rows, const Function& function) {
  constexpr double kStep = 1e-5;
  Rows result = at_rows;
  for (std::size_t i = 0; i < at_rows.size(); ++i) {
    for (std::size_t j = 0; j < at_rows[i].size(); ++j) {
      Rows up = at_rows;
      Rows down = at_rows;
      up[i][j] += kStep;
      down[i][j] -= kStep;
      result[i][j] = (function(up) - function(down)) / (2 * kStep);
    }
  }
  return result;
}

void expect_gradient(const at::Tensor& logits, const Rows& expected, double tolerance) {
  for (std::int64_t i = 0; i < 2; ++i) {
    for (std::int64_t j = 0; j < 3; ++j) {
      EXPECT_NEAR(logits.grad()[i][j].item<double>(),
                  expected[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)], tolerance);
    }
  }
}

double mean_divergence(const Rows& logits, double temperature, const std::vector<Rows>& teachers) {
  double sum = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const auto q = softmax(logits[i], temperature);
    for (std::size_t j = 0; j < q.size(); ++j) {
      double p = 0.0;
      for (const Rows& teacher : teachers) {
        p += softmax(teacher[i], temperature)[j] / static_cast<double>(teachers.size());
      }
      sum += p * std::log(p / q[j]) / static_cast<double>(logits.size());
    }
  }
  return sum;
}

TEST(Kd, LossAndGradient_AreTheClosedForm) {
  const double temperature = 5.0;
  for (const std::vector<Rows>& teachers : {std::vector<Rows>{kTeacher}, {kTeacher, kOther}}) {
    at::Tensor logits = tensor_of(kLogits).set_requires_grad(true);
    std::vector<at::Tensor> outputs;
    for (const Rows& teacher : teachers) {
      outputs.push_back(tensor_of(teacher));
    }
    const at::Tensor loss = kd_loss(logits, mean_probabilities(outputs, temperature), temperature);
    loss.backward();
    EXPECT_NEAR(loss.item<double>(),
                temperature * temperature * mean_divergence(kLogits, temperature, teachers), 1e-12);
    for (std::size_t i = 0; i < 2; ++i) {
      const auto q = softmax(kLogits[i], temperature);
      for (std::size_t j = 0; j < 3; ++j) {
        double p = 0.0;
        for (const Rows& teacher : teachers) {
          p += softmax(teacher[i], temperature)[j] / static_cast<double>(teachers.size());
        }
        EXPECT_NEAR(logits.grad()[static_cast<std::int64_t>(i)][static_cast<std::int64_t>(j)]
                        .item<double>(),
                    temperature * (q[j] - p) / 2, 1e-12);
      }
    }
  }
}

// TCKD and NCKD from their definitions, with sums over the classes.
double dkd_by_hand(const Rows& logits, double temperature, double alpha, double beta) {
  double sum = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const auto label = static_cast<std::size_t>(kLabels[i]);
    const auto q = softmax(logits[i], temperature);
    const auto p = softmax(kTeacher[i], temperature);
    sum += alpha * (p[label] * std::log(p[label] / q[label]) +
                    (1 - p[label]) * std::log((1 - p[label]) / (1 - q[label])));
    for (std::size_t j = 0; j < q.size(); ++j) {
      if (j != label) {
        const double p_hat = p[j] / (1 - p[label]);
        const double q_hat = q[j] / (1 - q[label]);
        sum += beta * p_hat * std::log(p_hat / q_hat);
      }
    }
  }
  return sum * temperature * temperature / static_cast<double>(logits.size());
}

TEST(Dkd, LossAndGradient_AreThoseOfTheDefinition) {
  at::Tensor logits = tensor_of(kLogits).set_requires_grad(true);
  const std::vector<at::Tensor> teacher = {tensor_of(kTeacher)};
  const at::Tensor loss =
      dkd_loss(logits, at::tensor(kLabels), mean_probabilities(teacher, 4.0), 4.0, 1.0, 8.0);
  loss.backward();
  EXPECT_NEAR(loss.item<double>(), dkd_by_hand(kLogits, 4.0, 1.0, 8.0), 1e-9);
  expect_gradient(
      logits, slopes(kLogits, [](const Rows& rows) { return dkd_by_hand(rows, 4.0, 1.0, 8.0); }),
      1e-7);
}

// With alpha = 1 and beta = 1 - p(target) for each sample it is the plain divergence; one sample
// shows it.
TEST(Dkd, WithTheTeachersOwnWeights_IsKd) {
  const double p_target = softmax(kTeacher[0], 2.0)[2];
  const at::Tensor one = tensor_of(kLogits).narrow(0, 0, 1);
  const std::vector<at::Tensor> teacher = {tensor_of(kTeacher).narrow(0, 0, 1)};
  const at::Tensor p = mean_probabilities(teacher, 2.0);
  const at::Tensor label = at::tensor(kLabels).narrow(0, 0, 1);
  EXPECT_NEAR(dkd_loss(one, label, p, 2.0, 1.0, 1.0 - p_target).item<double>(),
              kd_loss(one, p, 2.0).item<double>(), 1e-9);
}

at::Tensor waves(at::IntArrayRef shape, double factor) {
  std::int64_t count = 1;
  for (const std::int64_t side : shape) {
    count *= side;
  }
  return (at::arange(count, at::kDouble) * factor).sin().reshape(shape);
}

TEST(Features, AttentionLoss_IsTheDefinition) {
  const at::Tensor student = waves({2, 3, 2, 2}, 1.7);
  const at::Tensor teacher = waves({2, 5, 2, 2}, 0.9);
  double expected = 0.0;
  for (std::int64_t n = 0; n < 2; ++n) {
    std::vector<std::vector<double>> maps;
    for (const at::Tensor& x : {student, teacher}) {
      std::vector<double> map;
      double length = 0.0;
      for (std::int64_t i = 0; i < 4; ++i) {
        double mean = 0.0;
        for (std::int64_t c = 0; c < x.size(1); ++c) {
          mean +=
              std::pow(x[n][c][i / 2][i % 2].item<double>(), 2) / static_cast<double>(x.size(1));
        }
        map.push_back(mean);
        length += mean * mean;
      }
      for (double& value : map) {
        value /= std::sqrt(length);
      }
      maps.push_back(map);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      expected += std::pow(maps[0][i] - maps[1][i], 2) / 8.0;
    }
  }
  EXPECT_NEAR(attention_loss(student, teacher).item<double>(), expected, 1e-12);
  // A teacher of twice the resolution is averaged down.
  EXPECT_EQ(attention_loss(student, student).item<double>(), 0.0);
  EXPECT_GT(attention_loss(student, waves({2, 5, 4, 4}, 0.9)).item<double>(), 0.0);
}

TEST(Features, SimilarityLoss_IsTheDefinition) {
  const at::Tensor student = waves({3, 2, 2, 2}, 1.3);
  const at::Tensor teacher = waves({3, 4, 1, 1}, 0.4);
  const auto gram = [](const at::Tensor& x) {
    std::vector<std::vector<double>> g(3, std::vector<double>(3));
    const at::Tensor flat = x.reshape({3, -1});
    for (std::int64_t i = 0; i < 3; ++i) {
      double length = 0.0;
      for (std::int64_t j = 0; j < 3; ++j) {
        const double product = (flat[i] * flat[j]).sum().item<double>();
        g[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] = product;
        length += product * product;
      }
      for (double& value : g[static_cast<std::size_t>(i)]) {
        value /= std::sqrt(length);
      }
    }
    return g;
  };
  const auto s = gram(student);
  const auto t = gram(teacher);
  double expected = 0.0;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      expected += std::pow(t[i][j] - s[i][j], 2) / 9.0;
    }
  }
  EXPECT_NEAR(similarity_loss(student, teacher).item<double>(), expected, 1e-12);
}

TEST(Features, HintLoss_ComparesThroughTheRegressor) {
  const at::Tensor student = waves({2, 3, 2, 2}, 1.3);
  const at::Tensor regressor = waves({4, 3, 1, 1}, 2.1);
  const at::Tensor teacher = at::einsum("nchw,kc->nkhw", {student, regressor.reshape({4, 3})});
  EXPECT_NEAR(hint_loss(student, regressor, teacher).item<double>(), 0.0, 1e-20);
  EXPECT_NEAR(hint_loss(student, regressor, teacher + 0.5).item<double>(), 0.25, 1e-12);
}

TEST(Schedule, Distillation_BeginsAfterTheSelfStudyAndGoesToItsEnd) {
  Distillation distill;
  distill.self_study = 0.3;
  distill.temperature = 5.0;
  distill.temperature_end = 1.0;
  distill.weight = 0.9;
  distill.weight_end = 0.1;
  distill.ramp = Ramp::kLinear;
  EXPECT_FALSE(distillation_at(distill, 2, 10).is_on);
  EXPECT_TRUE(distillation_at(distill, 3, 10).is_on);
  EXPECT_EQ(distillation_at(distill, 3, 10).temperature, 5.0);
  EXPECT_NEAR(distillation_at(distill, 6, 10).temperature, 3.0, 1e-12);
  EXPECT_NEAR(distillation_at(distill, 9, 10).weight, 0.1, 1e-12);
  distill.ramp = Ramp::kCosine;
  EXPECT_NEAR(distillation_at(distill, 6, 10).temperature, 3.0, 1e-12);
  EXPECT_NEAR(distillation_at(distill, 4, 10).weight, 0.9 - 0.8 * (1 - std::cos(M_PI / 6)) / 2,
              1e-12);
  distill.ramp = Ramp::kConstant;
  EXPECT_EQ(distillation_at(distill, 9, 10).weight, 0.9);
  // One epoch has no end.
  distill.self_study = 0.0;
  distill.ramp = Ramp::kLinear;
  EXPECT_EQ(distillation_at(distill, 0, 1).weight, 0.9);
}

std::unique_ptr<Network> network(const std::string& model, std::uint64_t seed) {
  NetworkChoice choice;
  choice.model = model;
  choice.bits = bits_of(4);
  return make_network({choice, 10}, seed, at::kDouble);
}

// The whole of Distiller::loss() against its parts.
TEST(Distiller, Loss_IsTheWeightedSumOfItsParts) {
  Distillation options;
  options.attention = 3.0;
  options.hint = 0.2;
  options.similarity = 0.7;
  std::vector<std::unique_ptr<Network>> teachers;
  teachers.push_back(network("resnet14x2", 1));
  teachers.push_back(network("plane4", 2));
  Network& first = *teachers[0];
  Network& second = *teachers[1];
  Distiller distiller(options, std::move(teachers));
  const auto student = network("resnet8", 3);
  distiller.begin(*student, 20, at::kDouble);
  ASSERT_EQ(distiller.parameters().size(), 2U);

  const at::Tensor images = waves({4, 3, 32, 32}, 12.9898);
  const at::Tensor labels = at::tensor(std::vector<std::int64_t>{1, 5, 9, 0});
  std::vector<at::Tensor> stages;
  const at::Tensor logits = student->forward(images, kEvaluationPass, Taps{&stages, nullptr});
  const Distiller::Lesson lesson = distiller.teach(images);
  const DistillationNow now{true, 2.0, 0.4};
  const Loss loss = distiller.loss(logits, labels, stages, lesson, now);

  std::vector<at::Tensor> a;
  std::vector<at::Tensor> b;
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> outputs = {
      first.forward(images, kEvaluationPass, Taps{&a, nullptr}),
      second.forward(images, kEvaluationPass, Taps{&b, nullptr})};
  ASSERT_EQ(a.size(), 3U);
  ASSERT_EQ(b.size(), 2U);
  const double kd = kd_loss(logits, mean_probabilities(outputs, 2.0), 2.0).item<double>();
  double features = 0.0;
  for (std::size_t i = 0; i < 3; ++i) {
    features += 3.0 / 3.0 * attention_loss(stages[i], a[i]).item<double>() / 2.0;
  }
  for (std::size_t i = 0; i < 2; ++i) {
    features += 3.0 / 2.0 * attention_loss(stages[i + 1], b[i]).item<double>() / 2.0;
  }
  features += 0.2 / 2.0 *
              (hint_loss(stages[1], distiller.parameters()[0].tensor, a[1]).item<double>() +
               hint_loss(stages[1], distiller.parameters()[1].tensor, b[1]).item<double>());
  features += 0.7 / 2.0 *
              (similarity_loss(stages[2], a[2]).item<double>() +
               similarity_loss(stages[2], b[1]).item<double>());
  EXPECT_NEAR(loss.distillation.item<double>(), kd + features, 1e-9);
  EXPECT_NEAR(loss.total.item<double>(),
              0.6 * at::cross_entropy_loss(logits, labels).item<double>() + 0.4 * kd + features,
              1e-9);
}

}  // namespace
}  // namespace bitrung::train
