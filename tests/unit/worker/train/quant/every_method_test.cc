// What holds for every method of the table, whatever its formulas: edge cases, memory layouts,
// state and grids. A new method is tested here by being in the table.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/unit/worker/train/quant/subject.h"
#include "worker/train/failure.h"

namespace bitrung::train {
namespace {

constexpr std::int64_t kChannels = 4;

at::Tensor waves(at::IntArrayRef shape, at::ScalarType type, double phase = 0.0) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    count *= size;
  }
  return (at::arange(count, at::kDouble) * 0.37 + phase)
      .sin()
      .mul(1.3)
      .sub(0.07)
      .reshape(shape)
      .to(type);
}

// What the network would give: behind a ReLU where the method takes one.
at::Tensor input_of(Subject& subject, Part part, double phase = 0.0) {
  const at::Tensor x = waves(part == Part::kWeights ? at::IntArrayRef{kChannels, 4, 3, 3}
                                                    : at::IntArrayRef{3, kChannels, 5, 5},
                             subject.type(), phase);
  return part == Part::kActivations && subject.takes_relu() ? x.relu() : x;
}

bool is_finite(const Numbers& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](double x) { return std::isfinite(x); });
}

void expect_finite(const Outcome& outcome, const std::string& what) {
  EXPECT_TRUE(is_finite(outcome.y)) << what;
  EXPECT_TRUE(is_finite(outcome.dx)) << what << ": gradient";
  for (const auto& [name, gradient] : outcome.learned) {
    EXPECT_TRUE(is_finite(gradient)) << what << ": gradient of " << name;
  }
}

class EveryMethod : public testing::TestWithParam<std::string> {
 protected:
  // Calls body for all parts, bits and options that the method has.
  template <typename Body>
  void for_subjects(const Body& body, bool with_32_bits = false,
                    std::vector<at::ScalarType> types = {at::kDouble, at::kFloat}) {
    const MethodInfo& method = *find_method(GetParam());
    int count = 0;
    for (const Part part : {Part::kWeights, Part::kActivations}) {
      for (const MethodOptions& options : variants(method, part)) {
        for (const int bits : kAllBits) {
          if ((bits == 32 && !with_32_bits) || !is_allowed(method, part, bits, options)) {
            continue;
          }
          for (const at::ScalarType type : types) {
            body(SubjectOptions{GetParam(), part, bits, options, type, kChannels});
            ++count;
          }
        }
      }
    }
    EXPECT_GT(count, 0);
  }

 private:
  static std::vector<MethodOptions> variants(const MethodInfo& method, Part part) {
    std::vector<MethodOptions> result = {MethodOptions{}};
    const auto vary = [&result](std::string MethodOptions::*member,
                                const std::vector<std::string>& values) {
      std::vector<MethodOptions> varied;
      for (const MethodOptions& options : result) {
        for (const std::string& value : values) {
          varied.push_back(options);
          varied.back().*member = value;
        }
      }
      result = varied;
    };
    if (method.has(MethodOption::kRange)) {
      vary(&MethodOptions::range, {"asymmetric", "symmetric", "symmetric-restricted"});
    }
    if (method.has(MethodOption::kGranularity) && part == Part::kWeights) {
      vary(&MethodOptions::granularity, {"tensor", "channel"});
    }
    if (method.has(MethodOption::kScale)) {
      vary(&MethodOptions::scale, {"fixed", "learned"});
    }
    return result;
  }
};

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const MethodInfo& method : methods()) {
    result.emplace_back(method.name);
  }
  return result;
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryMethod, testing::ValuesIn(names()),
                         [](const testing::TestParamInfo<std::string>& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(EveryMethod, ThirtyTwoBits_AreTheIdentityWithoutState) {
  const MethodInfo& method = *find_method(GetParam());
  for (const Part part : {Part::kWeights, Part::kActivations}) {
    if (!is_allowed(method, part, 32, {})) {
      continue;
    }
    Subject subject({.method = GetParam(), .part = part, .bits = 32});
    const at::Tensor x = input_of(subject, part);
    EXPECT_TRUE(subject.quantize(x, kTrainingPass).is_same(x));
    EXPECT_TRUE(subject.quantize(x, kEvaluationPass).is_same(x));
    EXPECT_TRUE(subject.state().parameters().empty());
    EXPECT_TRUE(subject.state().buffers().empty());
    EXPECT_FALSE(subject.grid(x).has_value());
    EXPECT_TRUE(subject.takes_relu());
  }
}

TEST_P(EveryMethod, Refusals_NameTheLayerAndTheReason) {
  const MethodInfo& method = *find_method(GetParam());
  for (const Part part : {Part::kWeights, Part::kActivations}) {
    for (const int bits : kAllBits) {
      const auto reason = refusal(method, part, bits, {});
      if (!reason) {
        continue;
      }
      try {
        Subject subject({.method = GetParam(), .part = part, .bits = bits});
        FAIL() << bits;
      } catch (const Failure& failure) {
        EXPECT_EQ(failure.failure_class(), FailureClass::kUserError);
        EXPECT_EQ(std::string(failure.what()), "spec: layer1.0.conv1: " + *reason);
      }
    }
  }
}

TEST_P(EveryMethod, ShapeAndType_AreTheInputs) {
  for_subjects([](const SubjectOptions& options) {
    Subject subject(options);
    const at::Tensor x = input_of(subject, options.part);
    const at::Tensor y = subject.quantize(x, kTrainingPass);
    EXPECT_EQ(y.sizes(), x.sizes()) << name_of(options);
    EXPECT_EQ(y.scalar_type(), options.type) << name_of(options);
    // The last layer's.
    const at::Tensor flat = options.part == Part::kWeights ? x.flatten(1) : x.flatten(2).sum(2);
    EXPECT_EQ(subject.quantize(flat, kTrainingPass).sizes(), flat.sizes()) << name_of(options);
  });
}

TEST_P(EveryMethod, PassesOfATraining_DifferOnlyWhereItIsSaid) {
  for_subjects([](const SubjectOptions& options) {
    const auto result_of = [&options](const Pass& pass) {
      Subject subject(options);
      const at::Tensor x = input_of(subject, options.part);
      return run(subject, x, waves(x.sizes(), options.type, 2.0), pass);
    };
    const Outcome early = result_of({true, 0.1, 7, 3});
    const Outcome late = result_of({true, 0.9, 8, 300});
    EXPECT_EQ(early.y != late.y || early.dx != late.dx || early.learned != late.learned,
              Subject(options).state().follows_training())
        << name_of(options);
  });
}

TEST_P(EveryMethod, Zeros_GiveZerosAndFiniteGradients) {
  for_subjects([](const SubjectOptions& options) {
    Subject subject(options);
    const at::Tensor zeros = at::zeros_like(input_of(subject, options.part));
    for (int step = 0; step < 2; ++step) {
      const Outcome outcome = run(subject, zeros, at::ones_like(zeros), kTrainingPass);
      expect_finite(outcome, name_of(options));
      if (subject.takes_relu()) {  // Others have no level at 0.
        EXPECT_EQ(outcome.y, Numbers(outcome.y.size(), 0.0)) << name_of(options);
      }
    }
    EXPECT_TRUE(is_finite(numbers_of(subject.quantize(zeros, kEvaluationPass))));
    // It must be able to leave that state.
    const at::Tensor x = input_of(subject, options.part);
    expect_finite(run(subject, x, at::ones_like(x), kTrainingPass), name_of(options));
  });
}

TEST_P(EveryMethod, ZeroChannel_GivesZerosWhereChannelsHaveTheirOwnScale) {
  for_subjects([](const SubjectOptions& options) {
    if (options.part != Part::kWeights) {
      return;
    }
    Subject subject(options);
    const at::Tensor w = input_of(subject, options.part);
    w[1].zero_();
    const Outcome outcome = run(subject, w, waves(w.sizes(), options.type, 2.0), kTrainingPass);
    expect_finite(outcome, name_of(options));
    const Grid grid = *subject.grid(w);
    EXPECT_TRUE(is_finite(numbers_of(grid.scale))) << name_of(options);
    if (grid.scale.numel() == kChannels) {
      const at::Tensor y = subject.quantize(w, kEvaluationPass);
      EXPECT_TRUE(at::equal(y[1], at::zeros_like(y[1]))) << name_of(options);
    }
  });
}

TEST_P(EveryMethod, SingleElement_GivesFiniteValuesAndGradients) {
  for_subjects([](SubjectOptions options) {
    options.channels = 1;
    for (const double value : {-0.3, 0.0, 0.3, 1.0, 25.0}) {
      Subject subject(options);
      const at::Tensor x = at::full({1, 1, 1, 1}, value, at::TensorOptions().dtype(options.type));
      for (int step = 0; step < 2; ++step) {
        expect_finite(run(subject, x, at::ones_like(x), kTrainingPass),
                      name_of(options) + " of " + std::to_string(value));
      }
    }
  });
}

TEST_P(EveryMethod, Layout_DoesNotMatterAndIsKept) {
  for_subjects(
      [](const SubjectOptions& options) {
        Subject plain(options);
        const at::Tensor x = input_of(plain, options.part);
        const at::Tensor g = waves(x.sizes(), options.type, 1.0);
        const Outcome expected = run(plain, x, g, kTrainingPass);
        const at::Tensor channels_last = x.contiguous(at::MemoryFormat::ChannelsLast);
        const at::Tensor strided =
            at::zeros({x.size(0), x.size(1), x.size(2), 2 * x.size(3)}, x.options())
                .slice(3, 0, 2 * x.size(3), 2)
                .copy_(x);
        const at::Tensor permuted = x.permute({3, 1, 0, 2}).contiguous().permute({2, 1, 3, 0});
        for (const at::Tensor& other : {channels_last, strided, permuted}) {
          ASSERT_FALSE(other.is_contiguous());
          Subject subject(options);
          const std::vector<LearnedTensor> learned = subject.state().parameters();
          // Not cloned as in run(): a clone of the strided one would be dense.
          const at::Tensor input = other.detach().set_requires_grad(true);
          const at::Tensor y = subject.quantize(input, kTrainingPass);
          if (other.is_same(channels_last)) {
            EXPECT_TRUE(y.is_contiguous(at::MemoryFormat::ChannelsLast)) << name_of(options);
          }
          (y * g).sum().backward();
          const auto near = [&](const at::Tensor& found, const Numbers& numbers,
                                const std::string& what) {
            const Numbers values = numbers_of(found);
            ASSERT_EQ(values.size(), numbers.size());
            for (std::size_t i = 0; i < values.size(); ++i) {
              EXPECT_NEAR(values[i], numbers[i], 1e-9 * std::max(1.0, std::abs(numbers[i])))
                  << name_of(options) << ": " << what;
            }
          };
          near(y, expected.y, "value");
          near(input.grad(), expected.dx, "gradient");
          for (const LearnedTensor& tensor : learned) {
            if (tensor.tensor.grad().defined()) {
              near(tensor.tensor.grad(), expected.learned.at(tensor.name), tensor.name);
            }
          }
        }
      },
      /*with_32_bits=*/false, {at::kDouble});
}

TEST_P(EveryMethod, EvaluationTwice_GivesEqualBitsAndChangesNothing) {
  for_subjects([](const SubjectOptions& options) {
    Subject subject(options);
    subject.quantize(input_of(subject, options.part), kTrainingPass);
    std::vector<at::Tensor> before;
    for (const NamedTensor& buffer : subject.state().buffers()) {
      before.push_back(buffer.tensor.clone());
    }
    for (const LearnedTensor& learned : subject.state().parameters()) {
      before.push_back(learned.tensor.detach().clone());
    }
    const at::Tensor x = input_of(subject, options.part, 0.9) * 1.7;
    const at::Tensor first = subject.quantize(x, kEvaluationPass);
    const at::Tensor second = subject.quantize(x, kEvaluationPass);
    EXPECT_TRUE(at::equal(first.detach(), second.detach())) << name_of(options);
    std::size_t i = 0;
    for (const NamedTensor& buffer : subject.state().buffers()) {
      EXPECT_TRUE(at::equal(buffer.tensor, before[i++])) << name_of(options) << buffer.name;
    }
    for (const LearnedTensor& learned : subject.state().parameters()) {
      EXPECT_TRUE(at::equal(learned.tensor.detach(), before[i++]))
          << name_of(options) << learned.name;
    }
  });
}

// One step of a training; its outcome.
Outcome train(Subject& subject, Part part, std::int64_t step) {
  const at::Tensor x = input_of(subject, part, 0.3 * static_cast<double>(step));
  const at::Tensor g = waves(x.sizes(), subject.type(), 1.0 + static_cast<double>(step));
  const Pass pass{true, static_cast<double>(step) / 6.0, 11, step};
  const Outcome outcome = run(subject, x, g, pass);
  const at::NoGradGuard no_grad;
  for (const LearnedTensor& learned : subject.state().parameters()) {
    if (learned.tensor.grad().defined()) {
      at::Tensor(learned.tensor).sub_(learned.tensor.grad() * 0.01);
    }
  }
  return outcome;
}

TEST_P(EveryMethod, RestoredState_ContinuesBitForBit) {
  for_subjects([](const SubjectOptions& options) {
    for (const std::int64_t saved_after : {0, 1, 3}) {
      Subject subject(options);
      for (std::int64_t step = 0; step < saved_after; ++step) {
        train(subject, options.part, step);
      }
      Subject restored(options);
      {
        const at::NoGradGuard no_grad;
        const std::vector<LearnedTensor> learned = subject.state().parameters();
        const std::vector<NamedTensor> buffers = subject.state().buffers();
        for (std::size_t i = 0; i < learned.size(); ++i) {
          EXPECT_TRUE(learned[i].tensor.requires_grad()) << name_of(options);
          restored.state().parameters()[i].tensor.copy_(learned[i].tensor);
        }
        for (std::size_t i = 0; i < buffers.size(); ++i) {
          restored.state().buffers()[i].tensor.copy_(buffers[i].tensor);
        }
      }
      for (std::int64_t step = saved_after; step < 6; ++step) {
        const Outcome expected = train(subject, options.part, step);
        const Outcome found = train(restored, options.part, step);
        const std::string what = name_of(options) + " step " + std::to_string(step);
        EXPECT_EQ(found.y, expected.y) << what;
        EXPECT_EQ(found.dx, expected.dx) << what;
        EXPECT_EQ(found.learned, expected.learned) << what;
      }
      const std::vector<NamedTensor> buffers = subject.state().buffers();
      for (std::size_t i = 0; i < buffers.size(); ++i) {
        EXPECT_TRUE(at::equal(restored.state().buffers()[i].tensor, buffers[i].tensor))
            << name_of(options) << " " << buffers[i].name;
      }
    }
  });
}

TEST_P(EveryMethod, FirstEvaluation_FailsWithTheLayerAndTheRemedyIfARangeIsTracked) {
  for_subjects([](const SubjectOptions& options) {
    Subject subject(options);
    const at::Tensor x = input_of(subject, options.part);
    const bool needs_batch =
        options.part == Part::kActivations && !subject.state().buffers().empty();
    const auto expect_failure = [&](const auto& body) {
      try {
        body();
        EXPECT_FALSE(needs_batch) << name_of(options);
      } catch (const Failure& failure) {
        EXPECT_TRUE(needs_batch) << name_of(options);
        EXPECT_EQ(failure.failure_class(), FailureClass::kUserError);
        const std::string text = failure.what();
        EXPECT_NE(text.find("layer1.0.conv1"), std::string::npos) << text;
        EXPECT_NE(text.find("train the network"), std::string::npos) << text;
      }
    };
    expect_failure([&] {
      expect_finite({numbers_of(subject.quantize(x, kEvaluationPass)), {}, {}}, name_of(options));
    });
    expect_failure([&] { subject.grid(x); });
    subject.quantize(x, kTrainingPass);
    EXPECT_NO_THROW(subject.quantize(x, kEvaluationPass)) << name_of(options);
  });
}

TEST_P(EveryMethod, NotANumber_IsNotHidden) {
  for_subjects([](const SubjectOptions& options) {
    Subject subject(options);
    const at::Tensor x = input_of(subject, options.part);
    subject.quantize(x, kTrainingPass);
    x[0][0][0][0] = std::numeric_limits<double>::quiet_NaN();
    EXPECT_TRUE(at::isnan(subject.quantize(x, kEvaluationPass)).any().item<bool>())
        << name_of(options);
  });
}

// The value of code `code` in the channel.
double value_of(const Grid& grid, std::int64_t channel, double code) {
  const at::Tensor scales = grid.scale.to(at::kDouble).flatten();
  const double scale = scales[scales.numel() == 1 ? 0 : channel].item<double>();
  if (!grid.codebook.empty()) {
    return scale * grid.codebook[static_cast<std::size_t>(code)];
  }
  const at::Tensor zero_points = grid.zero_point.to(at::kDouble).flatten();
  return scale * (code - zero_points[zero_points.numel() == 1 ? 0 : channel].item<double>());
}

TEST_P(EveryMethod, Grid_HoldsEveryValueOfAnEvaluationAndIsNoLargerThanItsBits) {
  for_subjects([](const SubjectOptions& options) {
    Subject subject(options);
    for (std::int64_t step = 0; step < 3; ++step) {
      train(subject, options.part, step);
    }
    const at::Tensor x = input_of(subject, options.part, 0.2) * 1.4;
    const at::Tensor y = subject.quantize(x, kEvaluationPass).detach();
    const std::optional<Grid> grid = subject.grid(x);
    ASSERT_TRUE(grid.has_value()) << name_of(options);
    const double last = std::pow(2.0, options.bits) - 1.0;
    if (!grid->codebook.empty()) {
      EXPECT_LE(static_cast<double>(grid->codebook.size()), last + 1.0) << name_of(options);
      EXPECT_TRUE(std::is_sorted(grid->codebook.begin(), grid->codebook.end()));
    } else {
      EXPECT_EQ(grid->scale.sizes(), grid->zero_point.sizes()) << name_of(options);
    }
    if (options.bits <= 8) {
      const std::int64_t axis = options.part == Part::kWeights ? 0 : 1;
      for (std::int64_t c = 0; c < y.size(axis); ++c) {
        Numbers values = numbers_of(y.select(axis, c));
        std::sort(values.begin(), values.end());
        const auto unique = std::unique(values.begin(), values.end()) - values.begin();
        EXPECT_LE(static_cast<double>(unique), last + 1.0) << name_of(options);
      }
    }
    const double tolerance = options.type == at::kFloat ? 1e-6 : 1e-9;
    const at::Tensor by_channel = options.part == Part::kWeights ? y : y.transpose(0, 1);
    for (std::int64_t c = 0; c < by_channel.size(0); ++c) {
      const double first = value_of(*grid, c, 0.0);
      const double step = grid->codebook.empty() ? value_of(*grid, c, 1.0) - first : 0.0;
      const at::Tensor scales = grid->scale.to(at::kDouble).flatten();
      const double scale = scales[scales.numel() == 1 ? 0 : c].item<double>();
      for (const double value : numbers_of(by_channel[c])) {
        double code = 0.0;
        if (!grid->codebook.empty()) {
          const auto above =
              std::lower_bound(grid->codebook.begin(), grid->codebook.end(), value / scale - 1e-6);
          code = std::min(static_cast<double>(above - grid->codebook.begin()),
                          static_cast<double>(grid->codebook.size() - 1));
          // 16 bits have levels nearer to each other than that.
          const auto at = [&](double other) { return std::abs(value_of(*grid, c, other) - value); };
          while (code + 1.0 < static_cast<double>(grid->codebook.size()) &&
                 at(code + 1.0) < at(code)) {
            code += 1.0;
          }
        } else if (step > 0.0) {
          code = std::nearbyint((value - first) / step);
        }
        ASSERT_GE(code, 0.0) << name_of(options) << " " << value;
        ASSERT_LE(code, last) << name_of(options) << " " << value;
        ASSERT_NEAR(value_of(*grid, c, code), value, tolerance * std::max(1.0, std::abs(value)))
            << name_of(options);
      }
    }
  });
}

TEST(RequireFinite, NamesWhatIsNot) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), infinity, -infinity}) {
    try {
      require_finite(at::tensor({1.0, bad, 2.0}, at::kDouble), "layer1.0.conv1.weight");
      FAIL() << bad;
    } catch (const Failure& failure) {
      EXPECT_EQ(failure.failure_class(), FailureClass::kDiverged);
      EXPECT_EQ(std::string(failure.what()).find("layer1.0.conv1.weight"), 0U) << failure.what();
    }
  }
  EXPECT_NO_THROW(require_finite(at::zeros({0}), "nothing"));
  // The sum overflows, the values do not.
  EXPECT_NO_THROW(require_finite(at::full({4}, 3e38F, at::kFloat), "large values"));
}

TEST(SetRange, FixesWhatTheBatchesTrack) {
  for (const std::string method : {"linear", "affine"}) {
    QuantizerSite site;
    site.layer = "conv1";
    site.bits = 2;
    site.options.range = "asymmetric";
    site.tensors = at::TensorOptions().dtype(at::kDouble);
    const auto quantizer = make_activation_quantizer(method, site);
    quantizer->set_range(0.0, 3.0);
    const at::Tensor y =
        quantizer->quantize(tensor_of({0.4, 1.0, 2.6, 9.0}, {4, 1}, at::kDouble), kEvaluationPass);
    EXPECT_EQ(numbers_of(y), (Numbers{0.0, 1.0, 3.0, 3.0})) << method;
  }
  QuantizerSite site;
  site.layer = "conv1";
  site.bits = 2;
  EXPECT_THROW(make_activation_quantizer("dorefa", site)->set_range(0.0, 1.0), Failure);
}

}  // namespace
}  // namespace bitrung::train
