#include "worker/train/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "db/base/check.h"
#include "worker/train/failure.h"

namespace bitrung::train {

namespace {

at::ScalarType scalar_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBool:
      return at::kBool;
    case Dtype::kU8:
      return at::kByte;
    case Dtype::kI8:
      return at::kChar;
    case Dtype::kI16:
      return at::kShort;
    case Dtype::kI32:
      return at::kInt;
    case Dtype::kI64:
      return at::kLong;
    case Dtype::kF16:
      return at::kHalf;
    case Dtype::kBF16:
      return at::kBFloat16;
    case Dtype::kF32:
      return at::kFloat;
    case Dtype::kF64:
      return at::kDouble;
  }
  BITRUNG_CHECK(!"a dtype without a scalar type");
}

Dtype dtype_of(at::ScalarType type) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kI64, Dtype::kF64, Dtype::kF16, Dtype::kBF16,
                            Dtype::kI32, Dtype::kI16, Dtype::kI8, Dtype::kU8, Dtype::kBool}) {
    if (scalar_type(dtype) == type) {
      return dtype;
    }
  }
  BITRUNG_CHECK(!"a scalar type that checkpoints do not hold");
}

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ",") + std::to_string(shape[i]);
  }
  return text + ")";
}

constexpr std::string_view kCounterSuffix = "num_batches_tracked";

bool is_counter(const std::string& name) {
  return name.ends_with(kCounterSuffix);
}

// "; it was written for resnet14" or for another width or number of classes, as far as the names
// and shapes tell.
std::string origin_hint(const SafetensorsFile& file, const ResNet& network) {
  int blocks = 0;
  while (file.tensors.contains("layer1." + std::to_string(blocks) + ".conv1.weight")) {
    ++blocks;
  }
  const std::string model = "resnet" + std::to_string(6 * blocks + 2);
  if (blocks > 0 && model != network.shape().model) {
    return "; it was written for " + model;
  }
  const auto first = file.tensors.find("conv1.weight");
  if (first != file.tensors.end() && !first->second.shape.empty() && first->second.shape[0] != 16) {
    return "; it was written for a first layer of " + std::to_string(first->second.shape[0]) +
           " channels, not 16";
  }
  const auto last = file.tensors.find("fc.bias");
  if (last != file.tensors.end() && last->second.shape.size() == 1 &&
      last->second.shape[0] != network.shape().classes) {
    return "; it was written for " + std::to_string(last->second.shape[0]) +
           " classes, this data set has " + std::to_string(network.shape().classes);
  }
  return "";
}

void copy_tensor(const TensorBytes& source, const NamedTensor& target, const std::string& what,
                 const std::string& reader, const std::string& hint) {
  const at::IntArrayRef expected = target.tensor.sizes();
  const at::IntArrayRef found = source.shape;
  if (found != expected) {
    const std::int64_t elements =
        static_cast<std::int64_t>(source.bytes.size() / dtype_bytes(source.dtype));
    fail_user_error(what + ": tensor " + target.name + " has " + std::to_string(elements) +
                    " elements " + shape_text(found) + ", " + reader + " expects " +
                    std::to_string(target.tensor.numel()) + " " + shape_text(expected) + hint);
  }
  const at::Tensor value = from_bytes(source);
  if (value.is_floating_point() != target.tensor.is_floating_point()) {
    fail_user_error(what + ": tensor " + target.name + " is " +
                    std::string(dtype_name(source.dtype)) + ", " + reader + " expects " +
                    std::string(dtype_name(dtype_of(target.tensor.scalar_type()))) + hint);
  }
  if (value.is_floating_point() && !at::isfinite(value).all().item<bool>()) {
    fail_user_error(what + ": tensor " + target.name + " holds NaN or infinite values");
  }
  const at::NoGradGuard no_grad;
  at::Tensor(target.tensor).copy_(value);
}

}  // namespace

TensorBytes to_bytes(const at::Tensor& tensor) {
  const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
  TensorBytes result;
  result.dtype = dtype_of(host.scalar_type());
  result.shape = host.sizes().vec();
  result.bytes.resize(host.nbytes());
  if (!result.bytes.empty()) {
    std::memcpy(result.bytes.data(), host.data_ptr(), result.bytes.size());
  }
  return result;
}

at::Tensor from_bytes(const TensorBytes& bytes) {
  at::Tensor result = at::empty(bytes.shape, scalar_type(bytes.dtype));
  BITRUNG_CHECK(result.nbytes() == bytes.bytes.size());
  if (!bytes.bytes.empty()) {
    std::memcpy(result.data_ptr(), bytes.bytes.data(), bytes.bytes.size());
  }
  return result;
}

void add_tensors(const std::vector<NamedTensor>& tensors, const std::string& prefix,
                 SafetensorsFile& file) {
  for (const NamedTensor& named : tensors) {
    const bool inserted = file.tensors.emplace(prefix + named.name, to_bytes(named.tensor)).second;
    BITRUNG_CHECK(inserted);
  }
}

void copy_tensors(const SafetensorsFile& file, const std::string& prefix,
                  const std::vector<NamedTensor>& tensors, const std::string& what,
                  const std::string& reader) {
  for (const NamedTensor& target : tensors) {
    const auto source = file.tensors.find(prefix + target.name);
    if (source == file.tensors.end()) {
      fail_user_error(what + ": tensor " + prefix + target.name + " is missing");
    }
    copy_tensor(source->second, target, what, reader, "");
  }
}

void load_network(const SafetensorsFile& file, const std::string& what, ResNet& network) {
  const std::string& model = network.shape().model;
  const std::string hint = origin_hint(file, network);
  std::set<std::string> expected;
  for (const NamedTensor& target : network.state()) {
    expected.insert(target.name);
    const auto source = file.tensors.find(target.name);
    if (source != file.tensors.end()) {
      copy_tensor(source->second, target, what, model, hint);
    } else if (!is_counter(target.name)) {
      fail_user_error(what + ": tensor " + target.name + " is missing, " + model + " expects " +
                      shape_text(target.tensor.sizes()) + " there" + hint);
    }
  }
  for (const auto& [name, tensor] : file.tensors) {
    if (!expected.contains(name)) {
      fail_user_error(what + ": tensor " + name + " " + shape_text(tensor.shape) + " is none of " +
                      model + "'s" + hint);
    }
  }
}

SafetensorsFile read_checkpoint(const std::filesystem::path& path, const std::string& what) {
  try {
    return read_safetensors(path);
  } catch (const SafetensorsError& error) {
    fail_user_error(what + ": " + error.what());
  }
}

NetworkShape checkpoint_shape(const SafetensorsFile& file, const std::string& what,
                              const Spec& spec) {
  const int classes = class_count(spec.dataset);
  if (spec.teacher) {
    return {spec.teacher->model, classes, spec.teacher->bits, spec.teacher->method};
  }
  const auto written = file.metadata.find("bitrung.spec");
  if (written == file.metadata.end()) {
    fail_user_error(
        what +
        ": its metadata has no bitrung.spec, so its network is unknown; name it in the spec's " +
        "`teacher` (model, bits, method)");
  }
  Spec own;
  try {
    own = parse_spec(written->second, NumericsRule::kAny);
  } catch (const Failure& failure) {
    fail_user_error(what + ": its metadata bitrung.spec is not understood: " + failure.what());
  }
  if (class_count(own.dataset) != classes) {
    fail_user_error(what + ": it was trained on " + own.dataset + " with " +
                    std::to_string(class_count(own.dataset)) + " classes, this job's " +
                    spec.dataset + " has " + std::to_string(classes));
  }
  return {own.model, classes, own.bits, own.method};
}

SafetensorsFile make_checkpoint(const std::vector<NamedTensor>& state, const Spec& spec,
                                std::int64_t epoch) {
  SafetensorsFile file;
  add_tensors(state, "", file);
  file.metadata = {{"format", "pt"},
                   {"bitrung.kind", "checkpoint"},
                   {"bitrung.spec", canonical_spec(spec)},
                   {"bitrung.epoch", std::to_string(epoch)}};
  return file;
}

}  // namespace bitrung::train
