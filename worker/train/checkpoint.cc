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

// "; it was written for 100 classes, …", as far as the shapes tell.
std::string origin_hint(const SafetensorsFile& file, const Network& network) {
  const Layer& last = *network.layers().back();
  const auto found = file.tensors.find(last.plan.name + ".bias");
  if (found != file.tensors.end() && found->second.shape.size() == 1 &&
      found->second.shape[0] != network.shape().classes) {
    return "; it was written for " + std::to_string(found->second.shape[0]) +
           " classes, this data set has " + std::to_string(network.shape().classes);
  }
  const std::vector<std::string> names = plain_model_names();
  const auto fits = [&file, &network](const std::string& model) {
    const NetworkPlan plan =
        network_plan(parse_architecture(model).value(), network.shape().classes);
    return std::all_of(plan.layers.begin(), plan.layers.end(), [&file](const LayerPlan& layer) {
      const auto tensor = file.tensors.find(layer.name + ".weight");
      return tensor != file.tensors.end() && !tensor->second.shape.empty() &&
             tensor->second.shape[0] == layer.out;
    });
  };
  // The deepest, since a deeper network has the layers of a shallower one too.
  const auto model = std::find_if(names.rbegin(), names.rend(), fits);
  if (model != names.rend() && *model != network.shape().choice.model) {
    return "; it was written for " + *model;
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

void load_network(const SafetensorsFile& file, const std::string& what, LoadRule rule,
                  Network& network) {
  const std::string& model = network.shape().choice.model;
  const std::string hint = origin_hint(file, network);
  const auto may_differ = [rule](const std::string& name) {
    return rule == LoadRule::kWeightsOnly && is_quantizer_tensor(name);
  };
  std::set<std::string> expected;
  for (const NamedTensor& target : network.state()) {
    expected.insert(target.name);
    const auto source = file.tensors.find(target.name);
    if (source == file.tensors.end()) {
      if (!is_counter(target.name) && !may_differ(target.name)) {
        fail_user_error(what + ": tensor " + target.name + " is missing, " + model + " expects " +
                        shape_text(target.tensor.sizes()) + " there" + hint);
      }
    } else if (!may_differ(target.name)) {
      copy_tensor(source->second, target, what, model, hint);
    }
  }
  for (const auto& [name, tensor] : file.tensors) {
    if (!expected.contains(name) && !may_differ(name)) {
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

std::optional<NetworkChoice> checkpoint_network(const SafetensorsFile& file,
                                                const std::string& what, int classes) {
  const auto written = file.metadata.find("bitrung.spec");
  if (written == file.metadata.end()) {
    return std::nullopt;
  }
  Spec own;
  try {
    own = parse_spec(written->second, NumericsRule::kAny);
  } catch (const Failure& failure) {
    fail_user_error(what + ": its metadata bitrung.spec is not understood: " + failure.what());
  }
  if (class_count(own.dataset) != classes) {
    fail_user_error(what + ": it was trained on " + own.dataset + " with " +
                    std::to_string(class_count(own.dataset)) +
                    " classes, this job's data set has " + std::to_string(classes));
  }
  return own.network;
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
