// Every multi-bit method against its formulas, written in double and without tensors.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>

#include "tests/unit/worker/train/quant/subject.h"
#include "worker/train/quant/apot.h"

namespace bitrung::train {
namespace {

constexpr std::size_t kChannels = 4;
constexpr std::size_t kPerChannel = 25;

double rint_even(double v) {
  return std::nearbyint(v);
}
double clamp(double v, double low, double high) {
  return std::min(std::max(v, low), high);
}
double level_count(int bits) {
  return std::pow(2.0, bits) - 1.0;
}

// A gradient's sum, and how large a rounding error of one unit in it may be.
struct Sum {
  double value = 0.0;
  double size = 0.0;
  void add(double term, double size_of_term) {
    value += term;
    size += std::abs(size_of_term);
  }
};

struct Expected {
  Numbers y = Numbers(kChannels * kPerChannel);
  Numbers dx = Numbers(kChannels * kPerChannel);
  // So near a tie or an end that rounding decides; exact ties in double are no such place.
  std::vector<bool> unsure = std::vector<bool>(kChannels * kPerChannel, false);
  std::map<std::string, std::vector<Sum>> learned;
};

struct Given {
  Numbers x;
  Numbers g;
  std::map<std::string, Numbers> learned;  // As they are in this pass.
  at::ScalarType type;

  bool is_near(double v, double place, double size) const {
    const double distance = std::abs(v - place);
    if (v == 0.0 && place == 0.0) {
      return false;  // Only x = 0 gives it, and without rounding.
    }
    return type == at::kFloat ? distance < 5e-7 * size : distance > 0 && distance < 1e-13 * size;
  }
  // size: of the numbers that v was computed from.
  bool is_near_tie(double v, double size) const {
    return is_near(v, std::floor(v) + 0.5, size + std::abs(v));
  }
};

using Formula = std::function<Expected(const Given&)>;

// A spread of values with the special ones among them. `positive`: as behind a ReLU.
Numbers sample(bool positive) {
  Numbers x = {0.0, 0.5, 1.0, -1.0, 1.5, -0.25, 1e-8, -1e-8, 3.0, 1.0 / 6.0, 2.0, -3.25};
  for (std::size_t i = x.size(); i < kChannels * kPerChannel; ++i) {
    // The channels differ in size.
    x.push_back((0.4 + 0.5 * static_cast<double>(i / kPerChannel)) *
                std::sin(1.0 + 0.7 * static_cast<double>(i)));
  }
  if (positive) {
    for (double& value : x) {
      value = std::max(value, 0.0);
    }
  }
  return x;
}

void compare(Subject& subject, const std::string& what, const Numbers& values, const Pass& pass,
             const Formula& formula) {
  const at::ScalarType type = subject.type();
  const at::Tensor x = tensor_of(values, {kChannels, kPerChannel}, type);
  Given given;
  given.type = type;
  given.x = numbers_of(x);
  for (std::size_t i = 0; i < given.x.size(); ++i) {
    given.g.push_back(0.5 + static_cast<double>((i * 37) % 64) / 64.0);
  }
  subject.quantize(x, pass);  // What begins with a first batch has begun.
  for (const LearnedTensor& learned : subject.state().parameters()) {
    given.learned[learned.name] = numbers_of(learned.tensor);
  }
  // Where rounding decides, no gradient comes from above.
  const std::vector<bool> unsure = formula(given).unsure;
  for (std::size_t i = 0; i < given.g.size(); ++i) {
    given.g[i] = unsure[i] ? 0.0 : given.g[i];
  }
  const Expected expected = formula(given);
  const Outcome found = run(subject, x, tensor_of(given.g, {kChannels, kPerChannel}, type), pass);
  const double tolerance = type == at::kFloat ? 1e-6 : 1e-9;
  std::size_t sure = 0;
  for (std::size_t i = 0; i < given.x.size(); ++i) {
    if (unsure[i]) {
      continue;
    }
    ++sure;
    EXPECT_NEAR(found.y[i], expected.y[i], tolerance * std::max(1.0, std::abs(expected.y[i])))
        << what << ": value of " << given.x[i];
    EXPECT_NEAR(found.dx[i], expected.dx[i], tolerance * std::max(1.0, std::abs(expected.dx[i])))
        << what << ": gradient of " << given.x[i];
  }
  EXPECT_GT(sure, 60U) << what;
  ASSERT_EQ(found.learned.size(), expected.learned.size()) << what;
  for (const auto& [name, sums] : expected.learned) {
    const Numbers& gradients = found.learned.at(name);
    ASSERT_EQ(gradients.size(), sums.size()) << what << ": " << name;
    for (std::size_t c = 0; c < sums.size(); ++c) {
      EXPECT_NEAR(gradients[c], sums[c].value, tolerance * std::max(1.0, sums[c].size))
          << what << ": gradient of " << name << " " << c;
    }
  }
}

using MakeFormula = std::function<Formula(int bits)>;
using Prepare = std::function<void(Subject&)>;

// At every number of bits that the method allows, in double and in float.
void check(SubjectOptions options, const MakeFormula& make, const Prepare& prepare = {}) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    for (const int bits : kAllBits) {
      options.bits = bits;
      options.type = type;
      options.channels = kChannels;
      if (bits == 32 ||
          !is_allowed(*find_method(options.method), options.part, bits, options.options)) {
        continue;  // 32 bits are the identity, every_method_test.cc.
      }
      Subject subject(options);
      if (prepare) {
        subject.quantize(tensor_of(sample(false), {kChannels, kPerChannel}, type), kTrainingPass);
        const at::NoGradGuard no_grad;
        prepare(subject);
      }
      compare(subject, name_of(options), sample(options.part == Part::kActivations), kTrainingPass,
              make(bits));
    }
  }
}

SubjectOptions weights(const std::string& method) {
  return {.method = method, .part = Part::kWeights};
}
SubjectOptions activations(const std::string& method) {
  return {.method = method, .part = Part::kActivations};
}

// The values that belong to a parameter of one value, or of one for each channel.
template <typename Body>
void for_groups(std::size_t groups, const Body& body) {
  const std::size_t count = kChannels * kPerChannel / groups;
  for (std::size_t group = 0; group < groups; ++group) {
    body(group, group * count, (group + 1) * count);
  }
}

// ---- dorefa-paper

Formula paper_weights(int bits) {
  return [bits](const Given& given) {
    Expected e;
    const std::size_t count = given.x.size();
    const double n = level_count(bits);
    if (bits == 1) {
      double mean = 0.0;
      for (const double w : given.x) {
        mean += std::abs(w) / static_cast<double>(count);
      }
      for (std::size_t i = 0; i < count; ++i) {
        e.y[i] = given.x[i] >= 0.0 ? mean : -mean;
        e.dx[i] = given.g[i];
      }
      return e;
    }
    std::size_t j = 0;
    for (std::size_t i = 0; i < count; ++i) {
      j = std::abs(given.x[i]) > std::abs(given.x[j]) ? i : j;
    }
    const double peak = std::abs(std::tanh(given.x[j]));
    double along = 0.0;
    for (std::size_t i = 0; i < count; ++i) {
      const double t = std::tanh(given.x[i]);
      const double v = n * (t / (2.0 * peak) + 0.5);
      e.unsure[i] = given.is_near_tie(v, n);
      e.y[i] = 2.0 * rint_even(v) / n - 1.0;
      e.dx[i] = given.g[i] * (1.0 - t * t) / peak;
      along += given.g[i] * t;
    }
    const double top = std::tanh(given.x[j]);
    e.dx[j] -= along * std::copysign(1.0, top) * (1.0 - top * top) / (peak * peak);
    return e;
  };
}

Formula unit_activations(int bits) {
  return [bits](const Given& given) {
    Expected e;
    const double n = level_count(bits);
    for (std::size_t i = 0; i < given.x.size(); ++i) {
      const double v = n * clamp(given.x[i], 0.0, 1.0);
      e.unsure[i] = given.is_near_tie(v, 0.0);
      e.y[i] = rint_even(v) / n;
      e.dx[i] = given.x[i] >= 0.0 && given.x[i] <= 1.0 ? given.g[i] : 0.0;
    }
    return e;
  };
}

TEST(DorefaPaper, Weights_AreTheClosedForm) {
  check(weights("dorefa-paper"), paper_weights);
}

TEST(DorefaPaper, Activations_AreTheClosedForm) {
  check(activations("dorefa-paper"), unit_activations);
}

TEST(DorefaPaper, EqualMaxima_ShareTheGradientOfTheMaximum) {
  Subject subject({.method = "dorefa-paper", .part = Part::kWeights, .bits = 3});
  const double w = 0.75;
  const Outcome found = run(subject, tensor_of({w, -w, 0.25}, {3}, at::kDouble),
                            tensor_of({1.0, 2.0, 4.0}, {3}, at::kDouble), kTrainingPass);
  const double t = std::tanh(w);
  const double s = std::tanh(0.25);
  const double along = 1.0 * t - 2.0 * t + 4.0 * s;
  const double slope = (1.0 - t * t) / t;
  EXPECT_NEAR(found.dx[0], slope - 0.5 * along * slope / t, 1e-12);
  EXPECT_NEAR(found.dx[1], 2.0 * slope + 0.5 * along * slope / t, 1e-12);
  EXPECT_NEAR(found.dx[2], 4.0 * (1.0 - s * s) / t, 1e-12);
}

// ---- dorefa

Formula dorefa_weights(int bits) {
  return [bits](const Given& given) {
    Expected e;
    const double n = level_count(bits);
    double mean = 0.0;
    double peak = 0.0;
    for (const double w : given.x) {
      mean += std::abs(w) / static_cast<double>(given.x.size());
      peak = std::max(peak, std::abs(std::tanh(w)));
    }
    for (std::size_t i = 0; i < given.x.size(); ++i) {
      const double w = given.x[i];
      if (bits == 1) {
        e.y[i] = w > 0.0 ? mean : w < 0.0 ? -mean : 0.0;
        e.dx[i] = given.g[i];
        continue;
      }
      const double t = std::tanh(w);
      const double v = n * (t / (2.0 * peak) + 0.5);
      e.unsure[i] = given.is_near_tie(v, n);
      e.y[i] = peak * (2.0 * rint_even(v) / n - 1.0);
      e.dx[i] = given.g[i] * (1.0 - t * t);
    }
    return e;
  };
}

Formula dorefa_activations(int bits) {
  return [bits](const Given& given) {
    Expected e = unit_activations(bits)(given);
    for (std::size_t i = 0; bits == 1 && i < given.x.size(); ++i) {
      e.y[i] = given.x[i] > 0.0 ? 1.0 : 0.0;
    }
    return e;
  };
}

TEST(Dorefa, WeightsAndActivations_AreTheClosedForm) {
  check(weights("dorefa"), dorefa_weights);
  check(activations("dorefa"), dorefa_activations);
}

// ---- linear

enum class Range { kAsymmetric, kSymmetric, kRestricted };

Range range_of(const std::string& name) {
  return name == "asymmetric"  ? Range::kAsymmetric
         : name == "symmetric" ? Range::kSymmetric
                               : Range::kRestricted;
}

// The value, and how near it is to a tie.
struct Linear {
  double s;
  double z;
  double lowest;
  double highest;

  Linear(Range range, int bits, double low, double high) {
    const double n = level_count(bits);
    const double half = std::pow(2.0, bits - 1);
    if (range == Range::kAsymmetric) {
      const double a = std::min(low, 0.0);
      const double b = std::max(high, 0.0);
      s = b > a ? n / (b - a) : 1.0;
      z = rint_even(s * a);
      lowest = 0.0;
      highest = n;
      return;
    }
    const double m = std::max(std::abs(low), std::abs(high));
    const double top = range == Range::kSymmetric ? n / 2.0 : half - 1.0;
    s = m > 0 ? top / m : 1.0;
    z = 0.0;
    lowest = range == Range::kSymmetric ? -half : 1.0 - half;
    highest = half - 1.0;
  }
  double code(double x) const { return s * x - z; }
  double value(double x) const { return (clamp(rint_even(code(x)), lowest, highest) + z) / s; }
  double size() const { return highest - lowest + std::abs(z); }
};

Formula linear_weights(Range range, std::size_t groups, int bits) {
  return [=](const Given& given) {
    Expected e;
    for_groups(groups, [&](std::size_t, std::size_t begin, std::size_t end) {
      const auto [low, high] = std::minmax_element(given.x.begin() + static_cast<long>(begin),
                                                   given.x.begin() + static_cast<long>(end));
      const Linear linear(range, bits, *low, *high);
      for (std::size_t i = begin; i < end; ++i) {
        e.unsure[i] = given.is_near_tie(linear.code(given.x[i]), linear.size());
        e.y[i] = linear.value(given.x[i]);
        e.dx[i] = given.g[i];
      }
    });
    return e;
  };
}

// On a given range.
Formula linear_activations(Range range, int bits, double low, double high) {
  return [=](const Given& given) {
    Expected e;
    const Linear linear(range, bits, low, high);
    const double m = std::max(std::abs(low), std::abs(high));
    const double first = range == Range::kAsymmetric ? low : -m;
    const double last = range == Range::kAsymmetric ? high : m;
    for (std::size_t i = 0; i < given.x.size(); ++i) {
      const double x = clamp(given.x[i], first, last);
      e.unsure[i] = given.is_near_tie(linear.code(x), linear.size());
      e.y[i] = linear.value(x);
      e.dx[i] = given.x[i] >= first && given.x[i] <= last ? given.g[i] : 0.0;
    }
    return e;
  };
}

TEST(Linear, Weights_AreTheClosedForm) {
  for (const std::string range : {"asymmetric", "symmetric", "symmetric-restricted"}) {
    for (const std::string granularity : {"tensor", "channel"}) {
      SubjectOptions options = weights("linear");
      options.options.range = range;
      options.options.granularity = granularity;
      check(options, [&](int bits) {
        return linear_weights(range_of(range), granularity == "channel" ? kChannels : 1, bits);
      });
    }
  }
}

TEST(Linear, Activations_OfTheFirstBatch_UseItsRange) {
  for (const std::string range : {"asymmetric", "symmetric", "symmetric-restricted"}) {
    SubjectOptions options = activations("linear");
    options.options.range = range;
    // The largest value, 3, is exact in float as well.
    check(options, [&](int bits) { return linear_activations(range_of(range), bits, 0.0, 3.0); });
  }
}

TEST(Linear, Range_IsTheCorrectedMovingAverageAndChangesWithTrainingBatchesOnly) {
  const double d = 0.9;
  const std::vector<Numbers> batches = {{-1.0, 4.0}, {-0.5, 2.0}, {-3.0, 1.0}};
  for (const std::string range : {"asymmetric", "symmetric"}) {
    SubjectOptions options = activations("linear");
    options.bits = 3;
    options.options.range = range;
    options.options.ema_decay = d;
    Subject subject(options);
    double low = 0.0;
    double high = 0.0;
    double t = 0.0;
    for (const Numbers& batch : batches) {
      low = d * low + (1.0 - d) * batch[0];
      high = d * high + (1.0 - d) * batch[1];
      t += 1.0;
      subject.quantize(tensor_of(batch, {2, 1}, at::kDouble), kTrainingPass);
      const double correction = 1.0 - std::pow(d, t);
      // Values beyond the range on both sides.
      compare(subject, range + " after batch " + std::to_string(static_cast<int>(t)), sample(false),
              kEvaluationPass,
              linear_activations(range_of(range), 3, low / correction, high / correction));
    }
  }
}

TEST(Linear, ZeroOfASymmetricRange_IsALevelAndItsLargestValueIsNot) {
  SubjectOptions options = weights("linear");
  options.bits = 8;
  Subject subject(options);
  const Numbers y =
      numbers_of(subject.quantize(tensor_of({0.0, 1.0, -1.0}, {3}, at::kDouble), kTrainingPass));
  EXPECT_EQ(y[0], 0.0);
  // 127.5 rounds to the even 128, which is clamped; -127.5 rounds to -128, which is not.
  EXPECT_NEAR(y[1], 127.0 / 127.5, 1e-12);
  EXPECT_NEAR(y[2], -128.0 / 127.5, 1e-12);
}

// ---- pact, sawb, wrpn

Formula pact_activations(int bits) {
  return [bits](const Given& given) {
    Expected e;
    const double n = level_count(bits);
    const double a = std::max(given.learned.at("clip")[0], 1e-4);
    Sum da;
    for (std::size_t i = 0; i < given.x.size(); ++i) {
      const double x = given.x[i];
      const double v = clamp(x, 0.0, a) * n / a;
      e.unsure[i] = given.is_near_tie(v, 0.0);
      e.y[i] = rint_even(v) * a / n;
      e.dx[i] = x > 0.0 && x < a ? given.g[i] : 0.0;
      da.add(x >= a ? given.g[i] : 0.0, given.g[i]);
    }
    e.learned["clip"] = {da};
    return e;
  };
}

TEST(Pact, Activations_AreTheClosedForm) {
  check(activations("pact"), pact_activations);
  for (const double clip : {1.5, 1.0, 0.37, 2.0}) {
    check(activations("pact"), pact_activations,
          [clip](Subject& subject) { subject.learned("clip").fill_(clip); });
  }
}

TEST(Pact, ClipThatIsNotPositive_CountsAsASmallOne) {
  for (const double clip : {0.0, -2.0}) {
    check(activations("pact"), pact_activations,
          [clip](Subject& subject) { subject.learned("clip").fill_(clip); });
  }
}

TEST(Pact, Clip_HasItsOptions) {
  SubjectOptions options = activations("pact");
  options.options.clip_init = 6.5;
  options.options.clip_decay = 0.25;
  Subject subject(options);
  const std::vector<LearnedTensor> learned = subject.state().parameters();
  ASSERT_EQ(learned.size(), 1U);
  EXPECT_EQ(learned[0].tensor.item<double>(), 6.5);
  EXPECT_EQ(learned[0].rate_factor, 1.0);
  EXPECT_EQ(learned[0].weight_decay, 0.25);
  EXPECT_TRUE(learned[0].tensor.requires_grad());
}

TEST(Pact, Weights_AreThoseOfDorefa) {
  for (const int bits : kAllBits) {
    Subject pact({.method = "pact", .part = Part::kWeights, .bits = bits});
    Subject dorefa({.method = "dorefa", .part = Part::kWeights, .bits = bits});
    const at::Tensor w = tensor_of(sample(false), {kChannels, kPerChannel}, at::kDouble);
    EXPECT_TRUE(at::equal(pact.quantize(w, kTrainingPass), dorefa.quantize(w, kTrainingPass)));
  }
}

Formula sawb_weights(int bits) {
  const std::map<int, std::pair<double, double>> coefficients = {{2, {3.12, -2.064}},
                                                                 {3, {7.509, -6.892}},
                                                                 {4, {12.68, -12.80}},
                                                                 {5, {17.74, -18.64}},
                                                                 {8, {31.76, -35.04}}};
  return [=](const Given& given) {
    Expected e;
    const double n = level_count(bits);
    double squares = 0.0;
    double sizes = 0.0;
    double a = 0.0;
    for (const double w : given.x) {
      squares += w * w / static_cast<double>(given.x.size());
      sizes += std::abs(w) / static_cast<double>(given.x.size());
      a = std::max(a, std::abs(w));
    }
    if (const auto c = coefficients.find(bits); c != coefficients.end()) {
      const double fitted = c->second.first * std::sqrt(squares) + c->second.second * sizes;
      a = fitted > 0.0 ? fitted : a;
    }
    for (std::size_t i = 0; i < given.x.size(); ++i) {
      const double w = given.x[i];
      const double v = n * ((clamp(w, -a, a) + a) / (2.0 * a));
      e.unsure[i] =
          given.is_near_tie(v, n) || given.is_near(w, a, 1.0) || given.is_near(w, -a, 1.0);
      e.y[i] = rint_even(v) * 2.0 * a / n - a;
      e.dx[i] = w >= -a && w <= a ? given.g[i] : 0.0;
    }
    return e;
  };
}

TEST(Sawb, Weights_AreTheClosedForm) {
  check(weights("sawb"), sawb_weights);
}

TEST(Sawb, NegativeClip_IsReplacedByTheLargestWeight) {
  // All of one size: sqrt(mean w^2) = mean |w|, and c1 + c2 < 0 at 5 and 8 bits and nearly 0 at 4.
  for (const int bits : {4, 5, 8}) {
    Subject subject({.method = "sawb", .part = Part::kWeights, .bits = bits});
    const Numbers y = numbers_of(
        subject.quantize(tensor_of({0.5, -0.5, 0.5, -0.5}, {4}, at::kDouble), kTrainingPass));
    EXPECT_NEAR(y[0], 0.5, 1e-12) << bits;
    EXPECT_NEAR(y[1], -0.5, 1e-12) << bits;
  }
}

Formula wrpn_weights(int bits) {
  return [bits](const Given& given) {
    Expected e;
    const double r = std::pow(2.0, bits - 1) - 1.0;
    for (std::size_t i = 0; i < given.x.size(); ++i) {
      const double v = clamp(given.x[i], -1.0, 1.0) * r;
      e.unsure[i] = given.is_near_tie(v, 0.0);
      e.y[i] = rint_even(v) / r;
      e.dx[i] = std::abs(given.x[i]) <= 1.0 ? given.g[i] : 0.0;
    }
    return e;
  };
}

TEST(Wrpn, WeightsAndActivations_AreTheClosedForm) {
  check(weights("wrpn"), wrpn_weights);
  check(activations("wrpn"), unit_activations);
}

// ---- affine

struct Affine {
  double s;
  double z;
};

Affine affine_of(const Given& given, double low, double high, int bits) {
  const double n = level_count(bits);
  const double a = std::min(low, 0.0);
  double s = std::max((std::max(high, 0.0) - a) / n, std::pow(2.0, -23));
  s = given.type == at::kFloat ? static_cast<double>(static_cast<float>(s)) : s;
  return {s, clamp(rint_even(-a / s), 0.0, n)};
}

// One value; adds to the sums if there are any.
void affine_value(const Given& given, Expected& e, std::size_t i, const Affine& affine, int bits,
                  double factor, Sum* ds, Sum* dz) {
  const double n = level_count(bits);
  const double v = given.x[i] / affine.s;
  const double q = rint_even(v) + affine.z;
  const double code = clamp(q, 0.0, n);
  const bool is_inside = q >= 0.0 && q <= n;
  e.unsure[i] = given.is_near_tie(clamp(v, -affine.z - 1.0, n - affine.z + 1.0), 0.0);
  e.y[i] = (code - affine.z) * affine.s;
  e.dx[i] = is_inside ? given.g[i] : 0.0;
  if (ds != nullptr) {
    const double g = given.g[i] * factor;
    ds->add(g * (is_inside ? q - affine.z - v : code - affine.z), g * (1.0 + std::abs(v)));
    dz->add(is_inside ? 0.0 : -g * affine.s, g * affine.s);
  }
}

Formula affine_weights(std::size_t groups, int bits) {
  return [=](const Given& given) {
    Expected e;
    for_groups(groups, [&](std::size_t, std::size_t begin, std::size_t end) {
      const auto [low, high] = std::minmax_element(given.x.begin() + static_cast<long>(begin),
                                                   given.x.begin() + static_cast<long>(end));
      const Affine affine = affine_of(given, *low, *high, bits);
      for (std::size_t i = begin; i < end; ++i) {
        affine_value(given, e, i, affine, bits, 1.0, nullptr, nullptr);
      }
    });
    return e;
  };
}

Formula affine_activations(double low, double high, int bits) {
  return [=](const Given& given) {
    Expected e;
    const Affine affine = affine_of(given, low, high, bits);
    for (std::size_t i = 0; i < given.x.size(); ++i) {
      affine_value(given, e, i, affine, bits, 1.0, nullptr, nullptr);
    }
    return e;
  };
}

Formula learned_affine(std::size_t groups, int bits) {
  return [=](const Given& given) {
    Expected e;
    const double n = level_count(bits);
    const double factor = 1.0 / std::sqrt(static_cast<double>(given.x.size()) * n);
    e.learned["scale"].resize(groups);
    e.learned["zero_point"].resize(groups);
    for_groups(groups, [&](std::size_t group, std::size_t begin, std::size_t end) {
      const Affine affine{std::max(given.learned.at("scale")[group], std::pow(2.0, -23)),
                          clamp(rint_even(given.learned.at("zero_point")[group]), 0.0, n)};
      for (std::size_t i = begin; i < end; ++i) {
        affine_value(given, e, i, affine, bits, factor, &e.learned["scale"][group],
                     &e.learned["zero_point"][group]);
      }
    });
    return e;
  };
}

TEST(Affine, FixedWeights_AreTheClosedForm) {
  for (const std::string granularity : {"tensor", "channel"}) {
    SubjectOptions options = weights("affine");
    options.options.granularity = granularity;
    check(options,
          [&](int bits) { return affine_weights(granularity == "channel" ? kChannels : 1, bits); });
  }
}

TEST(Affine, FixedActivations_AreTheClosedForm) {
  check(activations("affine"), [](int bits) { return affine_activations(0.0, 3.0, bits); });
}

TEST(Affine, Learned_IsTheClosedFormFromItsFirstValuesAndFromOthers) {
  for (const std::string granularity : {"tensor", "channel"}) {
    for (const Part part : {Part::kWeights, Part::kActivations}) {
      if (part == Part::kActivations && granularity == "channel") {
        continue;
      }
      SubjectOptions options{.method = "affine", .part = part};
      options.options.granularity = granularity;
      options.options.scale = "learned";
      const std::size_t groups = granularity == "channel" ? kChannels : 1;
      const auto formula = [&](int bits) { return learned_affine(groups, bits); };
      check(options, formula);
      check(options, formula, [](Subject& subject) {
        subject.learned("scale").fill_(0.25);
        subject.learned("zero_point").fill_(1.75);
      });
      check(options, formula, [](Subject& subject) {
        subject.learned("scale").fill_(-1.0);  // Counts as 2^-23.
        subject.learned("zero_point").fill_(-3.0);
      });
    }
  }
}

TEST(Affine, LearnedPair_BeginsWithTheFirstRange) {
  SubjectOptions options = activations("affine");
  options.options.scale = "learned";
  Subject subject(options);
  subject.quantize(tensor_of({-0.5, 1.0, 2.5}, {3, 1}, at::kDouble), kTrainingPass);
  EXPECT_NEAR(subject.learned("scale").item<double>(), 3.0 / 15.0, 1e-12);
  EXPECT_EQ(subject.learned("zero_point").item<double>(), 2.0);  // 2.5 is a tie.
  subject.quantize(tensor_of({-9.0, 1.0, 9.0}, {3, 1}, at::kDouble), kTrainingPass);
  EXPECT_NEAR(subject.learned("scale").item<double>(), 3.0 / 15.0, 1e-12);
}

// ---- lsq, lsq-plus

Formula lsq(Part part, std::size_t groups, int bits) {
  return [=](const Given& given) {
    Expected e;
    const bool is_signed = part == Part::kWeights;
    const bool is_sign = is_signed && bits == 1;
    const double low = is_sign ? -1.0 : is_signed ? -std::pow(2.0, bits - 1) : 0.0;
    const double high = is_sign     ? 1.0
                        : is_signed ? std::pow(2.0, bits - 1) - 1.0
                                    : level_count(bits);
    const double count =
        is_signed ? static_cast<double>(given.x.size()) : static_cast<double>(kPerChannel);
    e.learned["step"].resize(groups);
    for_groups(groups, [&](std::size_t group, std::size_t begin, std::size_t end) {
      const double s = std::max(given.learned.at("step")[group], 1e-8);
      for (std::size_t i = begin; i < end; ++i) {
        const double v = given.x[i] / s;
        const double level = is_sign ? (v >= 0.0 ? 1.0 : -1.0) : rint_even(clamp(v, low, high));
        e.unsure[i] =
            (is_sign ? given.is_near(v, 0.0, 3.0) : given.is_near_tie(clamp(v, low, high), 0.0)) ||
            given.is_near(v, low, 2.0 + std::abs(low)) || given.is_near(v, high, 2.0 + high);
        e.y[i] = level * s;
        const bool is_inside = v > low && v < high;
        e.dx[i] = is_inside ? given.g[i] : 0.0;
        const double slope = is_inside ? level - v : v <= low ? low : high;
        const double g = given.g[i] / std::sqrt(count * high);
        e.learned["step"][group].add(g * slope, g * (1.0 + std::min(std::abs(v), high - low)));
      }
    });
    return e;
  };
}

TEST(Lsq, WeightsAndActivations_AreTheClosedFormFromTheFirstStepAndFromOthers) {
  for (const auto& [part, granularity] :
       std::vector<std::pair<Part, std::string>>{{Part::kWeights, "tensor"},
                                                 {Part::kWeights, "channel"},
                                                 {Part::kActivations, "tensor"}}) {
    SubjectOptions options{.method = "lsq", .part = part};
    options.options.granularity = granularity;
    const std::size_t groups = granularity == "channel" ? kChannels : 1;
    const auto formula = [&, p = part](int bits) { return lsq(p, groups, bits); };
    check(options, formula);
    for (const double step : {0.25, 0.1, 1.0, -0.5}) {
      check(options, formula, [step](Subject& subject) { subject.learned("step").fill_(step); });
    }
  }
}

TEST(LsqPlus, Weights_AreThoseOfLsqBesidesTheFirstStep) {
  for (const std::string granularity : {"tensor", "channel"}) {
    SubjectOptions options = weights("lsq-plus");
    options.options.granularity = granularity;
    const std::size_t groups = granularity == "channel" ? kChannels : 1;
    check(options, [&](int bits) { return lsq(Part::kWeights, groups, bits); });
  }
}

TEST(Lsq, FirstSteps_AreTheClosedForm) {
  const Numbers x = sample(false);
  const at::Tensor tensor = tensor_of(x, {kChannels, kPerChannel}, at::kDouble);
  for (const std::string granularity : {"tensor", "channel"}) {
    const std::size_t groups = granularity == "channel" ? kChannels : 1;
    for (const int bits : {1, 2, 3, 8, 16}) {
      SubjectOptions options = weights("lsq");
      options.bits = bits;
      options.options.granularity = granularity;
      Subject lsq_weights(options);
      lsq_weights.quantize(tensor, kTrainingPass);
      options.method = "lsq-plus";
      Subject plus_weights(options);
      plus_weights.quantize(tensor, kTrainingPass);
      const Numbers steps = numbers_of(lsq_weights.learned("step"));
      const Numbers plus_steps = numbers_of(plus_weights.learned("step"));
      for_groups(groups, [&](std::size_t group, std::size_t begin, std::size_t end) {
        const double count = static_cast<double>(end - begin);
        double size = 0.0;
        double mean = 0.0;
        double square = 0.0;
        for (std::size_t i = begin; i < end; ++i) {
          size += std::abs(x[i]) / count;
          mean += x[i] / count;
          square += x[i] * x[i] / count;
        }
        const double deviation = std::sqrt(square - mean * mean);
        const double highest = std::pow(2.0, bits - 1) - 1.0;
        EXPECT_NEAR(steps[group], bits == 1 ? size : 2.0 * size / std::sqrt(highest), 1e-9);
        EXPECT_NEAR(plus_steps[group],
                    bits == 1 ? size
                              : std::max(std::abs(mean - 3.0 * deviation),
                                         std::abs(mean + 3.0 * deviation)) /
                                    std::pow(2.0, bits - 1),
                    1e-9);
      });
    }
  }
  for (const int bits : {1, 2, 8}) {
    Subject subject({.method = "lsq", .part = Part::kActivations, .bits = bits});
    subject.quantize(tensor_of({0.0, 1.0, 0.5, 2.5}, {2, 2}, at::kDouble), kTrainingPass);
    EXPECT_NEAR(subject.learned("step").item<double>(), 2.0 / std::sqrt(level_count(bits)), 1e-12);
  }
}

Formula lsq_plus_activations(int bits) {
  return [bits](const Given& given) {
    Expected e;
    const double n = level_count(bits);
    const double s = std::max(given.learned.at("step")[0], 1e-8);
    const double b = given.learned.at("offset")[0];
    Sum ds;
    Sum db;
    for (std::size_t i = 0; i < given.x.size(); ++i) {
      const double v = (given.x[i] - b) / s;
      const double level = rint_even(clamp(v, 0.0, n));
      e.unsure[i] = given.is_near_tie(clamp(v, 0.0, n), std::abs(b) / s) ||
                    given.is_near(v, 0.0, 1.0 + std::abs(b) / s) ||
                    given.is_near(v, n, n + std::abs(b) / s);
      e.y[i] = level * s + b;
      const bool is_inside = v > 0.0 && v < n;
      e.dx[i] = is_inside ? given.g[i] : 0.0;
      const double g = given.g[i] / std::sqrt(static_cast<double>(kPerChannel) * n);
      ds.add(g * (is_inside ? level - v : v <= 0.0 ? 0.0 : n), g * (1.0 + n + std::abs(b) / s));
      db.add(is_inside ? 0.0 : g, g);
    }
    e.learned["step"] = {ds};
    e.learned["offset"] = {db};
    return e;
  };
}

TEST(LsqPlus, Activations_AreTheClosedFormFromTheFirstGridAndFromOthers) {
  check(activations("lsq-plus"), lsq_plus_activations);
  for (const auto& [step, offset] :
       std::vector<std::pair<double, double>>{{0.25, 0.5}, {0.1, -0.32}, {1.0, 0.0}, {-1.0, 0.0}}) {
    check(activations("lsq-plus"), lsq_plus_activations, [s = step, b = offset](Subject& subject) {
      subject.learned("step").fill_(s);
      subject.learned("offset").fill_(b);
    });
  }
}

TEST(LsqPlus, FirstGrid_HasTheSmallestErrorOfAHundred) {
  const Numbers x = sample(false);
  const double low = *std::min_element(x.begin(), x.end());
  const double high = *std::max_element(x.begin(), x.end());
  for (const int bits : {1, 2, 4}) {
    const double n = level_count(bits);
    double best_error = 1e300;
    double best = 0.0;
    for (int i = 1; i <= 100; ++i) {
      const double r = i / 100.0;
      const double step = r * (high - low) / n;
      double error = 0.0;
      for (const double value : x) {
        const double y = rint_even(clamp((value - r * low) / step, 0.0, n)) * step + r * low;
        error += (value - y) * (value - y);
      }
      if (error < best_error) {
        best_error = error;
        best = r;
      }
    }
    Subject subject({.method = "lsq-plus", .part = Part::kActivations, .bits = bits});
    subject.quantize(tensor_of(x, {kChannels, kPerChannel}, at::kDouble), kTrainingPass);
    EXPECT_NEAR(subject.learned("step").item<double>(), best * (high - low) / n, 1e-12) << bits;
    EXPECT_NEAR(subject.learned("offset").item<double>(), best * low, 1e-12) << bits;
  }
}

// ---- apot

// The authors' sets of terms, as exponents.
const std::map<int, std::vector<std::vector<int>>> kAuthorsSets = {
    {1, {{1}}},
    {2, {{1, 2, 3}}},
    {3, {{1, 2, 4}, {3}}},
    {4, {{1, 3, 5}, {2, 4, 6}}},
    {5, {{1, 3, 6}, {2, 4, 7}, {5}}},
    {6, {{1, 4, 7}, {2, 5, 8}, {3, 6, 9}}}};

TEST(Apot, Magnitudes_AreTheAuthors) {
  EXPECT_EQ(apot_magnitudes(2), (Numbers{0.0, 0.25, 0.5, 1.0}));
  for (const auto& [bits, sets] : kAuthorsSets) {
    std::set<double> sums = {0.0};
    for (const std::vector<int>& exponents : sets) {
      std::set<double> next = sums;
      for (const double sum : sums) {
        for (const int exponent : exponents) {
          next.insert(sum + std::pow(2.0, -exponent));
        }
      }
      sums = next;
    }
    Numbers expected;
    for (const double sum : sums) {
      expected.push_back(sum / *sums.rbegin());
    }
    EXPECT_EQ(apot_magnitudes(bits), expected) << bits;
  }
}

TEST(Apot, Magnitudes_AreAsManyAsTheBitsSay) {
  for (int bits = 1; bits <= 16; ++bits) {
    const Numbers magnitudes = apot_magnitudes(bits);
    EXPECT_EQ(magnitudes.size(), std::size_t{1} << bits);
    EXPECT_EQ(magnitudes.front(), 0.0);
    EXPECT_EQ(magnitudes.back(), 1.0);
    EXPECT_TRUE(std::is_sorted(magnitudes.begin(), magnitudes.end()));
    EXPECT_EQ(std::adjacent_find(magnitudes.begin(), magnitudes.end()), magnitudes.end());
  }
}

// Nearest by looking at all of them; of two equally near the smaller.
double nearest(const Numbers& magnitudes, double u, double& second) {
  double best = magnitudes[0];
  double distance = std::abs(u - best);
  second = 1e300;
  for (const double magnitude : magnitudes) {
    const double other = std::abs(u - magnitude);
    if (other < distance) {
      second = distance;
      distance = other;
      best = magnitude;
    } else if (magnitude != best) {
      second = std::min(second, other);
    }
  }
  second -= distance;
  return best;
}

Formula apot(Part part, int bits) {
  return [=](const Given& given) {
    Expected e;
    const bool is_signed = part == Part::kWeights;
    const Numbers magnitudes = apot_magnitudes(is_signed ? bits - 1 : bits);
    const double a = std::max(given.learned.at("clip")[0], 1e-4);
    const double count = static_cast<double>(given.x.size());
    double mean = 0.0;
    double deviation = 1.0;
    if (is_signed) {
      mean = std::accumulate(given.x.begin(), given.x.end(), 0.0) / count;
      double squares = 0.0;
      for (const double w : given.x) {
        squares += (w - mean) * (w - mean);
      }
      deviation = std::sqrt(squares / (count - 1.0));
    }
    Sum da;
    for (std::size_t i = 0; i < given.x.size(); ++i) {
      const double u = (given.x[i] - mean) / deviation / a;
      const double size = is_signed ? std::abs(u) : std::max(u, 0.0);
      double margin = 0.0;
      const double level = nearest(magnitudes, std::min(size, 1.0), margin);
      const double q = is_signed ? std::copysign(level, u) : level;
      const bool is_beyond = size > 1.0;
      const double rounded = (std::abs(given.x[i]) + std::abs(mean)) / deviation / a;
      // Far beyond the last level, rounding decides nothing.
      e.unsure[i] = (size < 1.001 && given.is_near(margin, 0.0, rounded)) ||
                    given.is_near(size, 1.0, 1.0 + rounded);
      e.y[i] = a * q;
      e.dx[i] = is_signed ? given.g[i] / deviation : (is_beyond ? 0.0 : given.g[i]);
      da.add(given.g[i] * (is_beyond ? std::copysign(1.0, u) : q - u), given.g[i]);
    }
    e.learned["clip"] = {da};
    return e;
  };
}

TEST(Apot, WeightsAndActivations_AreTheClosedForm) {
  for (const Part part : {Part::kWeights, Part::kActivations}) {
    const SubjectOptions options{.method = "apot", .part = part};
    const auto formula = [part](int bits) { return apot(part, bits); };
    check(options, formula);
    for (const double clip : {1.0, 1.5, 2.0, -1.0}) {
      check(options, formula, [clip](Subject& subject) { subject.learned("clip").fill_(clip); });
    }
  }
}

TEST(Apot, Clip_BeginsAndLearnsAsTheAuthorsLetIt) {
  Subject w({.method = "apot", .part = Part::kWeights});
  Subject a({.method = "apot", .part = Part::kActivations});
  EXPECT_EQ(w.learned("clip").item<double>(), 3.0);
  EXPECT_EQ(a.learned("clip").item<double>(), 8.0);
  EXPECT_EQ(w.state().parameters()[0].rate_factor, 0.2);
  EXPECT_EQ(a.state().parameters()[0].rate_factor, 1.0);
  EXPECT_EQ(w.state().parameters()[0].weight_decay, 1e-4);
}

// ---- exact ties, for which every step of the computation is exact in float too

struct Tie {
  std::string method;
  Part part;
  int bits;
  std::string learned;  // Set to `value`; empty: nothing is.
  double value;
  double peak;  // Largest input, for ranges.
  Numbers x;
  Numbers y;
};

TEST(Ties, GoToTheEvenLevel) {
  const std::vector<Tie> ties = {
      {"dorefa", Part::kActivations, 1, "", 0, 1.0, {0.5, 0.0}, {1.0, 0.0}},
      {"dorefa", Part::kActivations, 2, "", 0, 1.0, {0.5}, {2.0 / 3.0}},
      {"dorefa-paper", Part::kActivations, 1, "", 0, 1.0, {0.5}, {0.0}},
      {"wrpn", Part::kActivations, 1, "", 0, 1.0, {0.5}, {0.0}},
      {"wrpn", Part::kWeights, 2, "", 0, 1.0, {0.5, -0.5}, {0.0, 0.0}},
      {"pact", Part::kActivations, 2, "clip", 3.0, 3.0, {0.5, 1.5, 2.5}, {0.0, 2.0, 2.0}},
      {"pact", Part::kActivations, 1, "clip", 2.0, 2.0, {1.0, 2.0}, {0.0, 2.0}},
      {"linear", Part::kActivations, 2, "", 0, 3.0, {0.5, 1.5, 2.5}, {0.0, 2.0, 2.0}},
      {"affine", Part::kActivations, 2, "", 0, 3.0, {0.5, 1.5, 2.5}, {0.0, 2.0, 2.0}},
      {"lsq", Part::kActivations, 2, "step", 0.25, 1.0, {0.125, 0.375, 0.625}, {0, 0.5, 0.5}},
      {"lsq", Part::kWeights, 3, "step", 0.25, 1.0, {-0.125, -0.375, 0.625}, {0, -0.5, 0.5}},
      {"lsq", Part::kWeights, 1, "step", 0.25, 1.0, {0.0, 0.25}, {0.25, 0.25}},
      {"lsq-plus", Part::kActivations, 2, "step", 0.5, 2.0, {0.25, 0.75, 1.25}, {0.0, 1.0, 1.0}},
      // Between 1/2 and 1 of the clip, and between 1/4 and 1/2: the smaller.
      {"apot", Part::kActivations, 2, "clip", 4.0, 4.0, {3.0, 1.5, 0.5}, {2.0, 1.0, 0.0}},
      {"apot", Part::kActivations, 16, "clip", 4.0, 4.0, {4.0, 0.0}, {4.0, 0.0}},
  };
  for (const Tie& tie : ties) {
    for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
      SubjectOptions options{
          .method = tie.method, .part = tie.part, .bits = tie.bits, .options = {}, .type = type};
      options.options.range = "asymmetric";
      Subject subject(options);
      Numbers x = tie.x;
      x.push_back(tie.peak);
      const at::Tensor input = tensor_of(x, {static_cast<std::int64_t>(x.size()), 1}, type);
      subject.quantize(input, kTrainingPass);
      {
        const at::NoGradGuard no_grad;
        if (!tie.learned.empty()) {
          subject.learned(tie.learned).fill_(tie.value);
        }
        if (subject.has_learned("offset")) {
          subject.learned("offset").zero_();
        }
      }
      Numbers y = numbers_of(subject.quantize(input, kEvaluationPass));
      y.pop_back();
      EXPECT_EQ(y, numbers_of(at::tensor(tie.y, at::kDouble).to(type))) << name_of(options);
    }
  }
}

// The level between two others is a tie for w = 0.
TEST(Ties, ZeroWeightBetweenTwoLevels_GoesToTheUpperOne) {
  for (const std::string method : {"dorefa", "dorefa-paper", "sawb"}) {
    for (const int bits : {2, 3, 4, 8, 16}) {
      for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
        Subject subject(
            {.method = method, .part = Part::kWeights, .bits = bits, .options = {}, .type = type});
        const at::Tensor w = tensor_of({0.0, 0.75, -0.5, 0.1}, {4}, type);
        const Numbers y = numbers_of(subject.quantize(w, kTrainingPass));
        const Grid grid = *subject.grid(w);
        EXPECT_NEAR(y[0], grid.scale.item<double>() / 2.0, 1e-7) << method << " " << bits;
        EXPECT_GT(y[0], 0.0) << method << " " << bits;
      }
    }
  }
}

}  // namespace
}  // namespace bitrung::train
