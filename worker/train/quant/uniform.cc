#include "worker/train/quant/uniform.h"

#include <algorithm>
#include <array>

#include "db/base/check.h"

namespace bitrung::train {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Values whose sums are made by one thread. Sums of blocks are added in order, so that results do
// not depend on the number of threads.
constexpr std::int64_t kValuesPerBlock = 32768;

// All of a rule that the backward pass needs, in the order in which it is saved.
constexpr std::size_t kNumbers = 8;
std::array<const at::Tensor*, kNumbers> numbers_of(const UniformRule& rule) {
  return {&rule.low,   &rule.high,     &rule.offset,    &rule.factor,
          &rule.shift, &rule.code_low, &rule.code_high, &rule.step};
}

bool has_loops(const at::Tensor& x, const UniformRule& rule) {
  const auto numbers = numbers_of(rule);
  return x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble) &&
         std::all_of(numbers.begin(), numbers.end(), [](const at::Tensor* number) {
           return number->dim() == 0 && number->device().is_cpu();
         });
}

template <typename Real>
UniformNumbers<Real> read_numbers(const UniformRule& rule) {
  const auto read = [](const at::Tensor& number) {
    return static_cast<Real>(number.item<double>());
  };
  return {read(rule.low),   read(rule.high),     read(rule.offset),    read(rule.factor),
          read(rule.shift), read(rule.code_low), read(rule.code_high), read(rule.step)};
}

// As an operand that does not change the type of x.
at::Tensor operand(const at::Tensor& number, const at::Tensor& x) {
  return number.dim() == 0 ? number : number.to(x.scalar_type());
}

UniformRule operands(const UniformRule& rule, const at::Tensor& x) {
  UniformRule result = rule;
  for (at::Tensor* const number :
       {&result.low, &result.high, &result.offset, &result.factor, &result.shift, &result.code_low,
        &result.code_high, &result.step}) {
    *number = operand(*number, x);
  }
  return result;
}

at::Tensor clamped(const at::Tensor& x, const at::Tensor& low, const at::Tensor& high) {
  return at::minimum(at::maximum(x, low), high);
}

at::Tensor code_value(const at::Tensor& x, const UniformRule& rule) {
  return (clamped(x, rule.low, rule.high) - rule.offset).mul_(rule.factor).add_(rule.shift);
}

at::Tensor forward_by_operations(const at::Tensor& x, const UniformRule& given) {
  const UniformRule rule = operands(given, x);
  return clamped(code_value(x, rule), rule.code_low, rule.code_high)
      .round_()
      .sub_(rule.shift)
      .mul_(rule.step)
      .add_(rule.offset);
}

template <typename Real>
void forward_by_loops(const at::Tensor& x, const UniformRule& rule, at::Tensor& y) {
  const UniformNumbers<Real> numbers = read_numbers<Real>(rule);
  const Real* const in = x.data_ptr<Real>();
  Real* const out = y.data_ptr<Real>();
  at::parallel_for(0, x.numel(), kValuesPerBlock, [&](std::int64_t begin, std::int64_t end) {
    write_uniform(in + begin, end - begin, numbers, out + begin);
  });
}

struct Backward {
  at::Tensor dx;
  // () or (C); undefined where nothing is learned.
  at::Tensor inside;
  at::Tensor below;
  at::Tensor above;
};

Backward backward_by_operations(const at::Tensor& x, const at::Tensor& g, const UniformRule& given,
                                bool has_sums, bool is_by_channel) {
  const UniformRule rule = operands(given, x);
  const at::Tensor v = code_value(x, rule);
  const at::Tensor code = clamped(v, rule.code_low - 1, rule.code_high + 1).round_();
  at::Tensor is_below;
  at::Tensor is_above;
  switch (rule.mask) {
    case GradientMask::kEverywhere:
      is_below = at::zeros_like(x, x.options().dtype(at::kBool));
      is_above = is_below;
      break;
    case GradientMask::kClosed:
      is_below = x.lt(rule.low);
      is_above = x.gt(rule.high);
      break;
    case GradientMask::kOpen:
      is_below = x.le(rule.low);
      is_above = x.ge(rule.high);
      break;
    case GradientMask::kOpenCode:
      is_below = v.le(rule.code_low);
      is_above = v.ge(rule.code_high);
      break;
    case GradientMask::kRoundedCode:
      is_below = code.lt(rule.code_low);
      is_above = code.gt(rule.code_high);
      break;
  }
  Backward result;
  result.dx = g.masked_fill(is_below.logical_or(is_above), 0);
  if (has_sums) {
    const auto sum = [&](const at::Tensor& values) {
      return is_by_channel ? values.reshape({values.size(0), -1}).sum(1, false, at::kDouble)
                           : values.sum(at::kDouble);
    };
    result.inside = sum((code - v).mul_(result.dx));
    result.below = sum(g * is_below);
    result.above = sum(g * is_above);
  }
  return result;
}

template <typename Real>
Backward backward_by_loops(const at::Tensor& x, const at::Tensor& g, const UniformRule& rule,
                           bool has_sums) {
  const UniformNumbers<Real> numbers = read_numbers<Real>(rule);
  Backward result;
  result.dx = at::empty_like(x);
  const Real* const in = x.data_ptr<Real>();
  const Real* const above = g.data_ptr<Real>();
  Real* const out = result.dx.data_ptr<Real>();
  const std::int64_t count = x.numel();
  const std::int64_t blocks = (count + kValuesPerBlock - 1) / kValuesPerBlock;
  std::vector<UniformSums> sums(has_sums ? static_cast<std::size_t>(blocks) : 0);
  at::parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kValuesPerBlock;
      write_uniform_gradients(in + first, above + first, std::min(kValuesPerBlock, count - first),
                              numbers, rule.mask, out + first,
                              has_sums ? &sums[static_cast<std::size_t>(block)] : nullptr);
    }
  });
  if (has_sums) {
    UniformSums total;
    for (const UniformSums& sum : sums) {
      total.inside += sum.inside;
      total.below += sum.below;
      total.above += sum.above;
    }
    result.inside = scalar_tensor(total.inside);
    result.below = scalar_tensor(total.below);
    result.above = scalar_tensor(total.above);
  }
  return result;
}

// The memory of x in one piece, in any order of its dimensions.
at::Tensor dense(const at::Tensor& x) {
  return x.is_non_overlapping_and_dense() ? x : x.contiguous();
}

// g in the order of x.
at::Tensor like(const at::Tensor& g, const at::Tensor& x) {
  return g.strides() == x.strides() ? g : at::empty_like(x).copy_(g);
}

class UniformFunction : public Function<UniformFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& given, const at::Tensor&,
                            const at::Tensor&, const UniformRule& rule, bool by_loops) {
    const at::Tensor x = dense(given);
    variable_list saved = {x};
    for (const at::Tensor* const number : numbers_of(rule)) {
      saved.push_back(*number);
    }
    for (const UniformLearned& learned : rule.learned) {
      saved.insert(saved.end(),
                   {learned.tensor.detach(), learned.inside, learned.below, learned.above});
    }
    context->save_for_backward(std::move(saved));
    context->saved_data["mask"] = static_cast<std::int64_t>(rule.mask);
    context->saved_data["by_loops"] = by_loops;
    if (!by_loops) {
      return forward_by_operations(x, rule);
    }
    at::Tensor y = at::empty_like(x);
    if (x.scalar_type() == at::kFloat) {
      forward_by_loops<float>(x, rule, y);
    } else {
      forward_by_loops<double>(x, rule, y);
    }
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    UniformRule rule;
    rule.mask = static_cast<GradientMask>(context->saved_data["mask"].toInt());
    rule.low = saved[1];
    rule.high = saved[2];
    rule.offset = saved[3];
    rule.factor = saved[4];
    rule.shift = saved[5];
    rule.code_low = saved[6];
    rule.code_high = saved[7];
    rule.step = saved[8];
    for (std::size_t i = 1 + kNumbers; i < saved.size(); i += 4) {
      rule.learned.push_back({saved[i], saved[i + 1], saved[i + 2], saved[i + 3]});
    }
    const bool has_sums = !rule.learned.empty();
    Backward result;
    if (!context->saved_data["by_loops"].toBool()) {
      result = backward_by_operations(x, gradients[0], rule, has_sums,
                                      has_sums && rule.learned[0].tensor.dim() == 1);
    } else if (x.scalar_type() == at::kFloat) {
      result = backward_by_loops<float>(x, like(gradients[0], x), rule, has_sums);
    } else {
      result = backward_by_loops<double>(x, like(gradients[0], x), rule, has_sums);
    }
    variable_list answer = {result.dx, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    for (std::size_t i = 0; i < rule.learned.size(); ++i) {
      const UniformLearned& learned = rule.learned[i];
      answer[1 + i] = (result.inside * learned.inside + result.below * learned.below +
                       result.above * learned.above)
                          .to(learned.tensor.options());
    }
    return answer;
  }
};

at::Tensor apply(const at::Tensor& x, const UniformRule& rule, bool by_loops) {
  BITRUNG_CHECK(rule.learned.size() <= 2);
  const at::Tensor none = scalar_tensor(0.0);
  return UniformFunction::apply(x, rule.learned.empty() ? none : rule.learned[0].tensor,
                                rule.learned.size() < 2 ? none : rule.learned[1].tensor, rule,
                                by_loops);
}

}  // namespace

at::Tensor quantize_uniform(const at::Tensor& x, const UniformRule& rule) {
  return apply(x, rule, has_loops(x, rule));
}

at::Tensor quantize_uniform_reference(const at::Tensor& x, const UniformRule& rule) {
  return apply(x, rule, /*by_loops=*/false);
}

Grid grid_of(const UniformRule& rule) {
  // (code_low + number - shift) step + offset = step (number - zero_point).
  const at::Tensor is_used = rule.step.ne(0);
  const at::Tensor divisor = at::where(is_used, rule.step, at::ones_like(rule.step));
  const at::Tensor zero_point = rule.shift - rule.code_low - rule.offset / divisor;
  return Grid{rule.step, zero_point.expand_as(rule.step).contiguous(), {}};
}

at::Tensor by_channel(const at::Tensor& values, const at::Tensor& x) {
  if (values.dim() == 0) {
    return values;
  }
  std::vector<std::int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  shape[0] = values.size(0);
  return values.reshape(shape);
}

}  // namespace bitrung::train
