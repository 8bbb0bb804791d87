#include "client/interop/model_fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "db/base/check.h"
#include "db/base/status.h"

namespace bitrung::interop {
namespace {

using train::Dtype;

constexpr std::array kClassCounts = {10, 100};  // CIFAR-10 and CIFAR-100.
constexpr int kWidthMax = 8;

bool is_floating(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF16:
    case Dtype::kBF16:
    case Dtype::kF32:
    case Dtype::kF64:
      return true;
    case Dtype::kBool:
    case Dtype::kU8:
    case Dtype::kI8:
    case Dtype::kI16:
    case Dtype::kI32:
    case Dtype::kI64:
      return false;
  }
  BITRUNG_CHECK(!"a dtype without a kind");
}

bool is_integer(Dtype dtype) {
  return !is_floating(dtype) && dtype != Dtype::kBool;
}

std::vector<Difference> differences(const StateDict& dict,
                                    const std::vector<ExpectedTensor>& expected) {
  std::vector<Difference> found;
  std::set<std::string_view> names;
  for (const ExpectedTensor& tensor : expected) {
    names.insert(tensor.name);
    const auto at = dict.tensors.find(tensor.name);
    if (at == dict.tensors.end()) {
      if (!tensor.is_counter) {
        found.push_back({DifferenceKind::kMissing, tensor.name, "", shape_text(tensor.shape), ""});
      }
      continue;
    }
    const TensorView& view = at->second;
    if (view.shape != tensor.shape) {
      found.push_back({DifferenceKind::kShape, tensor.name, shape_text(view.shape),
                       shape_text(tensor.shape), ""});
    } else if (tensor.is_counter ? !is_integer(view.dtype) : !is_floating(view.dtype)) {
      found.push_back({DifferenceKind::kDtype, tensor.name,
                       std::string(train::dtype_name(view.dtype)),
                       tensor.is_counter ? "I64" : "F32, F64, F16 or BF16", ""});
    }
  }
  for (const auto& [name, view] : dict.tensors) {
    if (!names.contains(name)) {
      found.push_back({DifferenceKind::kUnexpected, name, shape_text(view.shape), "", ""});
    }
  }
  return found;
}

// "resnet20x2-bottleneck" of "resnet20-bottleneck".
std::string widened(std::string plain, int width) {
  if (width > 1) plain.insert(std::min(plain.find('-'), plain.size()), fmt::format("x{}", width));
  return plain;
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

// Pairs what is missing with what is there instead: equal shapes, then the most similar names.
void add_nearest(std::vector<Difference>& differences) {
  // Beyond that many the file is of another network and pairs say nothing; it also bounds the work.
  constexpr std::size_t kPairedMax = 200;
  constexpr std::size_t kNameBytesMax = 256;
  if (differences.size() > kPairedMax) return;
  for (Difference& difference : differences) {
    const bool is_missing = difference.kind == DifferenceKind::kMissing;
    if (!is_missing && difference.kind != DifferenceKind::kUnexpected) continue;
    std::size_t best = std::max(difference.tensor.size() / 2, std::size_t{3});
    for (const Difference& other : differences) {
      const bool is_pair =
          is_missing
              ? other.kind == DifferenceKind::kUnexpected && other.found == difference.expected
              : other.kind == DifferenceKind::kMissing && other.expected == difference.found;
      if (!is_pair || other.tensor.size() > kNameBytesMax ||
          difference.tensor.size() > kNameBytesMax) {
        continue;
      }
      const std::size_t distance = edit_distance(difference.tensor, other.tensor);
      if (distance < best) {
        best = distance;
        difference.nearest = other.tensor;
      }
    }
  }
}

ModelFit fit_with_classes(const StateDict& dict, const std::string& model,
                          const train::Architecture& architecture) {
  ModelFit best;
  for (const int classes : kClassCounts) {
    ModelFit fit{model, classes, differences(dict, expected_tensors(architecture, classes))};
    if (classes == kClassCounts.front() || fit.differences.size() < best.differences.size()) {
      best = std::move(fit);
    }
  }
  return best;
}

float from_half(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t exponent = bits >> 10 & 0x1FU;
  const std::uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0) {  // Zero and subnormals: mantissa times 2^-24.
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -value : value;
  }
  const std::uint32_t wide = exponent == 0x1F ? 0xFFU : exponent + 112;  // Bias 127, not 15.
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

template <typename T>
T element_at(const train::TensorBytes& tensor, std::size_t i) {
  T value;
  std::memcpy(&value, tensor.bytes.data() + i * sizeof(T), sizeof(T));
  return value;
}

float float_at(const train::TensorBytes& tensor, std::size_t i) {
  switch (tensor.dtype) {
    case Dtype::kF32:
      return element_at<float>(tensor, i);
    case Dtype::kF64:
      return static_cast<float>(element_at<double>(tensor, i));
    case Dtype::kF16:
      return from_half(element_at<std::uint16_t>(tensor, i));
    case Dtype::kBF16:
      return std::bit_cast<float>(std::uint32_t{element_at<std::uint16_t>(tensor, i)} << 16);
    case Dtype::kBool:
    case Dtype::kU8:
    case Dtype::kI8:
    case Dtype::kI16:
    case Dtype::kI32:
    case Dtype::kI64:
      break;
  }
  BITRUNG_CHECK(!"a weight that is no float");
}

std::int64_t integer_at(const train::TensorBytes& tensor, std::size_t i) {
  switch (tensor.dtype) {
    case Dtype::kU8:
      return element_at<std::uint8_t>(tensor, i);
    case Dtype::kI8:
      return element_at<std::int8_t>(tensor, i);
    case Dtype::kI16:
      return element_at<std::int16_t>(tensor, i);
    case Dtype::kI32:
      return element_at<std::int32_t>(tensor, i);
    case Dtype::kI64:
      return element_at<std::int64_t>(tensor, i);
    case Dtype::kBool:
    case Dtype::kF16:
    case Dtype::kBF16:
    case Dtype::kF32:
    case Dtype::kF64:
      break;
  }
  BITRUNG_CHECK(!"a counter that is no integer");
}

template <typename T>
void append(std::vector<std::uint8_t>& bytes, T value) {
  std::array<std::uint8_t, sizeof(T)> raw{};
  std::memcpy(raw.data(), &value, sizeof(T));
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

}  // namespace

std::string_view name(DifferenceKind kind) {
  switch (kind) {
    case DifferenceKind::kMissing:
      return "missing";
    case DifferenceKind::kUnexpected:
      return "unexpected";
    case DifferenceKind::kShape:
      return "wrong shape";
    case DifferenceKind::kDtype:
      return "wrong dtype";
  }
  BITRUNG_CHECK(!"a difference without a name");
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("({})", fmt::join(shape, ","));
}

std::vector<ExpectedTensor> expected_tensors(const train::Architecture& architecture, int classes) {
  const train::NetworkPlan plan = train::network_plan(architecture, classes);
  std::vector<ExpectedTensor> tensors;
  for (const train::LayerPlan& layer : plan.layers) {
    if (layer.is_convolution) {
      tensors.push_back(
          {layer.name + ".weight", {layer.out, layer.in, layer.kernel, layer.kernel}});
    } else {
      tensors.push_back({layer.name + ".weight", {layer.out, layer.in}});
      tensors.push_back({layer.name + ".bias", {layer.out}});
    }
  }
  for (const train::NormPlan& norm : plan.norms) {
    for (const char* part : {".weight", ".bias", ".running_mean", ".running_var"}) {
      tensors.push_back({norm.name + part, {norm.channels}});
    }
    tensors.push_back({norm.name + ".num_batches_tracked", {}, /*is_counter=*/true});
  }
  return tensors;
}

ModelFit fit_model(const StateDict& dict, const std::string& model,
                   const train::Architecture& architecture) {
  ModelFit fit = fit_with_classes(dict, model, architecture);
  add_nearest(fit.differences);
  return fit;
}

ModelSearch search_models(const StateDict& dict) {
  ModelSearch search;
  for (const std::string& plain : train::plain_model_names()) {
    for (int width = 1; width <= kWidthMax; ++width) {
      const std::string model = widened(plain, width);
      const auto architecture = train::parse_architecture(model);
      BITRUNG_CHECK(architecture.has_value());
      ModelFit fit = fit_with_classes(dict, model, *architecture);
      if (fit.differences.empty()) search.fitting.push_back(fit);
      if (search.closest.model.empty() ||
          fit.differences.size() < search.closest.differences.size()) {
        search.closest = std::move(fit);
      }
    }
  }
  add_nearest(search.closest.differences);
  return search;
}

absl::StatusOr<train::SafetensorsFile> make_checkpoint(const StateDict& dict, const ModelFit& fit) {
  BITRUNG_CHECK(fit.differences.empty());
  const auto architecture = train::parse_architecture(fit.model);
  BITRUNG_CHECK(architecture.has_value());
  train::SafetensorsFile file;
  for (const ExpectedTensor& expected : expected_tensors(*architecture, fit.classes)) {
    const auto at = dict.tensors.find(expected.name);
    if (at == dict.tensors.end()) continue;  // A counter: the reader does without.
    const train::TensorBytes rows = to_rows(at->second);
    train::TensorBytes tensor{.dtype = expected.is_counter ? Dtype::kI64 : Dtype::kF32,
                              .shape = expected.shape,
                              .bytes = {}};
    for (std::size_t i = 0; i < rows.bytes.size() / train::dtype_bytes(rows.dtype); ++i) {
      if (expected.is_counter) {
        append(tensor.bytes, integer_at(rows, i));
        continue;
      }
      const float value = float_at(rows, i);
      if (!std::isfinite(value)) {
        return absl::InvalidArgumentError(fmt::format(
            "tensor {} holds {}, which no trained network has; check how the file was made",
            expected.name,
            rows.dtype == Dtype::kF64 ? "NaN, an infinity or a value beyond 32-bit floats"
                                      : "NaN or an infinity"));
      }
      append(tensor.bytes, value);
    }
    file.tensors.emplace(expected.name, std::move(tensor));
  }
  file.metadata = {{"format", "pt"}, {"bitrung.kind", "import"}, {"bitrung.model", fit.model}};
  return file;
}

std::map<std::string, train::TensorBytes> all_rows(const StateDict& dict) {
  std::map<std::string, train::TensorBytes> tensors;
  for (const auto& [name, view] : dict.tensors) tensors.emplace(name, to_rows(view));
  return tensors;
}

}  // namespace bitrung::interop
