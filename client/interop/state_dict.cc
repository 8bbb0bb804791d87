#include "client/interop/state_dict.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "client/interop/little_endian.h"
#include "client/interop/pickle.h"
#include "client/interop/quotes.h"
#include "client/interop/zip.h"
#include "db/base/check.h"
#include "db/base/status.h"

namespace bitrung::interop {
namespace {

using train::Dtype;

constexpr std::string_view kZipMagic = "PK\x03\x04";
// A pickle of the number 0x1950a86a20f9469cfc6c begins files from before PyTorch 1.6.
constexpr std::string_view kLegacyMagic("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
                                        15);
constexpr std::int64_t kLegacyVersion = 1001;
constexpr std::array<std::string_view, 4> kWrappers = {"model_state_dict", "state_dict", "model",
                                                       "net"};
constexpr std::array<std::string_view, 4> kPrefixes = {"module.", "model.", "net.", "_orig_mod."};
constexpr std::size_t kTensorsMax = 16 * 1024;

absl::Status invalid(const std::string& what) {
  return absl::InvalidArgumentError(what);
}

// The bytes of each storage by its key.
using Storages = std::map<std::string, std::string_view>;

std::optional<std::int64_t> checked_product(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// Checks that the view lies inside its storage and is no larger than a file may be once its rows
// are written out: a stride of zero repeats elements.
absl::StatusOr<TensorView> make_view(const std::string& tensor, const PickledTensor& pickled,
                                     const Storages& storages) {
  const auto found = storages.find(pickled.storage.key);
  if (found == storages.end()) {
    return invalid(fmt::format("tensor {}: its storage {} is missing", in_quotes(tensor),
                               in_quotes(pickled.storage.key)));
  }
  const auto element_bytes = static_cast<std::int64_t>(train::dtype_bytes(pickled.storage.dtype));
  const std::optional<std::int64_t> storage_bytes =
      checked_product(pickled.storage.elements, element_bytes);
  if (!storage_bytes || static_cast<std::uint64_t>(*storage_bytes) > found->second.size()) {
    return invalid(fmt::format("tensor {}: its storage has {} bytes, {} elements of {} do not fit",
                               in_quotes(tensor), found->second.size(), pickled.storage.elements,
                               train::dtype_name(pickled.storage.dtype)));
  }
  std::int64_t last = pickled.offset;
  std::int64_t bytes = element_bytes;
  bool is_empty = false;
  bool is_valid = true;
  for (std::size_t i = 0; i < pickled.shape.size(); ++i) {
    const std::int64_t side = pickled.shape[i];
    is_empty = is_empty || side == 0;
    const std::optional<std::int64_t> reach =
        side == 0 ? 0 : checked_product(side - 1, pickled.strides[i]);
    const std::optional<std::int64_t> grown = checked_product(bytes, side);
    is_valid = is_valid && reach && grown && !__builtin_add_overflow(last, *reach, &last);
    bytes = grown.value_or(0);
  }
  if (!is_valid || (!is_empty && (last >= pickled.storage.elements ||
                                  static_cast<std::uint64_t>(bytes) > train::kFileBytesMax))) {
    return invalid(fmt::format(
        "tensor {}: its shape ({}) with strides ({}) from element {} on does not lie in its "
        "storage of {} elements, or is larger than {} bytes",
        in_quotes(tensor), fmt::join(pickled.shape, ","), fmt::join(pickled.strides, ","),
        pickled.offset, pickled.storage.elements, train::kFileBytesMax));
  }
  return TensorView{.dtype = pickled.storage.dtype,
                    .shape = pickled.shape,
                    .strides = pickled.strides,
                    .offset = is_empty ? 0 : pickled.offset,
                    .storage = found->second};
}

const PickleValue* entry(const Pickle& pickle, const PickleValue& dictionary,
                         std::string_view key) {
  for (std::size_t i = 0; i + 1 < dictionary.items.size(); i += 2) {
    const PickleValue& candidate = pickle.at(dictionary.items[i]);
    if (candidate.kind == ValueKind::kText && candidate.text == key) {
      return &pickle.at(dictionary.items[i + 1]);
    }
  }
  return nullptr;
}

// The dictionary that holds the tensors: the root or, if that wraps it, the entry with its usual
// name.
absl::StatusOr<const PickleValue*> find_tensors(const Pickle& pickle,
                                                std::vector<std::string>& notes) {
  const PickleValue& root = pickle.at(pickle.root);
  if (root.kind != ValueKind::kDictionary) {
    return invalid(fmt::format("it holds {}, expected a state dict: a dictionary of tensors",
                               root.kind == ValueKind::kTensor ? "one tensor" : name(root.kind)));
  }
  for (const std::string_view wrapper : kWrappers) {
    const PickleValue* inside = entry(pickle, root, wrapper);
    if (inside != nullptr && inside->kind == ValueKind::kDictionary) {
      notes.push_back(fmt::format("took the state dict from its entry \"{}\"", wrapper));
      return inside;
    }
  }
  return &root;
}

absl::Status add_tensors(const Pickle& pickle, const Storages& storages, StateDict& result) {
  BITRUNG_ASSIGN_OR_RETURN(const PickleValue* dictionary, find_tensors(pickle, result.notes));
  if (dictionary->items.size() / 2 > kTensorsMax) {
    return invalid(fmt::format("it holds {} entries, the limit is {}", dictionary->items.size() / 2,
                               kTensorsMax));
  }
  for (std::size_t i = 0; i + 1 < dictionary->items.size(); i += 2) {
    const PickleValue& key = pickle.at(dictionary->items[i]);
    const PickleValue& value = pickle.at(dictionary->items[i + 1]);
    if (key.kind != ValueKind::kText) {
      return invalid(fmt::format("a key of its state dict is {}, expected a text", name(key.kind)));
    }
    if (value.kind != ValueKind::kTensor) {
      return invalid(fmt::format(
          "its entry {} is {}, expected a tensor; if its state dict lies in another entry, save "
          "that one alone in Python: torch.save(torch.load(FILE)[KEY], FILE)",
          in_quotes(key.text), name(value.kind)));
    }
    BITRUNG_ASSIGN_OR_RETURN(TensorView view,
                             make_view(key.text, pickle.tensors[value.index], storages));
    if (!result.tensors.emplace(key.text, std::move(view)).second) {
      return invalid(fmt::format("its entry {} occurs twice", in_quotes(key.text)));
    }
  }
  return absl::OkStatus();
}

absl::Status add_zip(std::string_view bytes, StateDict& result) {
  BITRUNG_ASSIGN_OR_RETURN(const auto entries, parse_zip(bytes));
  // All names begin with one folder, which PyTorch calls after the file.
  const std::string folder =
      entries.empty() ? "" : entries.begin()->first.substr(0, entries.begin()->first.find('/') + 1);
  const auto pickled = entries.find(folder + "data.pkl");
  if (folder.empty() || pickled == entries.end()) {
    return invalid("it is a zip archive without data.pkl, so not one of torch.save");
  }
  if (entries.contains(folder + "constants.pkl")) {
    return invalid(
        "it is a TorchScript archive, which is a program; save the weights alone in "
        "Python: torch.save(module.state_dict(), FILE)");
  }
  if (const auto order = entries.find(folder + "byteorder");
      order != entries.end() && order->second != "little") {
    return invalid(fmt::format("its numbers have byte order {}, expected \"little\"",
                               in_quotes(order->second)));
  }
  BITRUNG_ASSIGN_OR_RETURN(const Pickle pickle, read_pickle(pickled->second));
  if (pickle.bytes != pickled->second.size()) {
    return invalid("its data.pkl goes on after its pickle");
  }
  Storages storages;
  const std::string data = folder + "data/";
  for (auto at = entries.lower_bound(data); at != entries.end() && at->first.starts_with(data);
       ++at) {
    storages.emplace(at->first.substr(data.size()), at->second);
  }
  return add_tensors(pickle, storages, result);
}

// Pickles one after the other (magic number, version, about the machine, the state dict, keys of
// the storages in order), then each storage: its number of elements in 8 bytes, and its elements.
absl::Status add_legacy(std::string_view bytes, StateDict& result) {
  std::string_view rest = bytes.substr(kLegacyMagic.size());
  const auto next = [&rest]() -> absl::StatusOr<Pickle> {
    absl::StatusOr<Pickle> pickle = read_pickle(rest);
    if (pickle.ok()) rest.remove_prefix(pickle->bytes);
    return pickle;
  };
  BITRUNG_ASSIGN_OR_RETURN(const Pickle version, next());
  if (version.at(version.root).kind != ValueKind::kInteger ||
      version.at(version.root).integer != kLegacyVersion) {
    return invalid(
        fmt::format("its format is of another version than {}; save it again with "
                    "PyTorch 1.6 or later: torch.save(torch.load(FILE), FILE)",
                    kLegacyVersion));
  }
  BITRUNG_ASSIGN_OR_RETURN(const Pickle machine, next());
  if (const PickleValue* little = entry(machine, machine.at(machine.root), "little_endian");
      little == nullptr || little->kind != ValueKind::kBool || little->integer != 1) {
    return invalid("its numbers are not said to be little-endian");
  }
  BITRUNG_ASSIGN_OR_RETURN(const Pickle pickle, next());
  BITRUNG_ASSIGN_OR_RETURN(const Pickle keys, next());
  const PickleValue& list = keys.at(keys.root);
  if (list.kind != ValueKind::kList) return invalid("its list of storages is missing");

  std::map<std::string, std::uint64_t> element_bytes;
  for (const PickledStorage& storage : pickle.storages) {
    element_bytes.emplace(storage.key, train::dtype_bytes(storage.dtype));
  }
  Storages storages;
  for (const ValueId id : list.items) {
    const std::string& key = keys.at(id).text;
    const auto size = element_bytes.find(key);
    if (size == element_bytes.end()) {
      return invalid(fmt::format("its storage {} is no tensor's", in_quotes(key)));
    }
    const std::uint64_t elements = rest.size() < 8 ? 0 : u64_at(rest, 0);
    if (rest.size() < 8 || elements > (rest.size() - 8) / size->second) {
      return invalid(
          fmt::format("its storage {} is cut short; was the file copied whole?", in_quotes(key)));
    }
    if (!storages.emplace(key, rest.substr(8, elements * size->second)).second) {
      return invalid(fmt::format("its storage {} occurs twice", in_quotes(key)));
    }
    rest.remove_prefix(8 + elements * size->second);
  }
  if (!rest.empty()) {
    return invalid(fmt::format("{} bytes follow its last storage", rest.size()));
  }
  return add_tensors(pickle, storages, result);
}

std::vector<std::int64_t> row_strides(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> strides(shape.size());
  std::uint64_t stride = 1;  // Unsigned: beside a side of 0 the others may be of any size.
  for (std::size_t i = shape.size(); i > 0; --i) {
    strides[i - 1] = static_cast<std::int64_t>(stride);
    stride *= static_cast<std::uint64_t>(shape[i - 1]);
  }
  return strides;
}

absl::StatusOr<StateDict> read_safetensors_form(const std::string& bytes) {
  auto file = std::make_shared<train::SafetensorsFile>();
  try {
    const auto* begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
    *file = train::parse_safetensors({begin, bytes.size()});
  } catch (const train::SafetensorsError& error) {
    return invalid(error.what());
  }
  StateDict result;
  result.form = "safetensors";
  for (const auto& [name, tensor] : file->tensors) {
    const auto* data = reinterpret_cast<const char*>(tensor.bytes.data());
    result.tensors.emplace(name, TensorView{.dtype = tensor.dtype,
                                            .shape = tensor.shape,
                                            .strides = row_strides(tensor.shape),
                                            .offset = 0,
                                            .storage = {data, tensor.bytes.size()}});
  }
  result.metadata = std::move(file->metadata);
  result.owner = std::move(file);
  return result;
}

// Wrapping a network in another module puts a prefix before every name.
void strip_prefixes(StateDict& result) {
  const auto shared = [&]() -> std::optional<std::string_view> {
    for (const std::string_view prefix : kPrefixes) {
      if (!result.tensors.empty() && std::ranges::all_of(result.tensors, [&](const auto& tensor) {
            return tensor.first.starts_with(prefix) && tensor.first.size() > prefix.size();
          })) {
        return prefix;
      }
    }
    return std::nullopt;
  };
  while (const std::optional<std::string_view> prefix = shared()) {
    std::map<std::string, TensorView> stripped;
    for (auto& [name, view] : result.tensors) {
      stripped.emplace(name.substr(prefix->size()), std::move(view));
    }
    result.tensors = std::move(stripped);
    result.notes.push_back(fmt::format("removed \"{}\" from the front of all names", *prefix));
  }
}

bool looks_like_safetensors(std::string_view bytes) {
  return bytes.size() >= 9 && bytes[8] == '{' && u64_at(bytes, 0) < bytes.size();
}

// ---- writing

void put_text(std::string& out, std::string_view text) {
  out += 'X';
  append_u32(out, static_cast<std::uint32_t>(text.size()));
  out += text;
}

void put_integer(std::string& out, std::int64_t value) {
  if (value >= 0 && value <= std::numeric_limits<std::int32_t>::max()) {
    out += 'J';
    append_u32(out, static_cast<std::uint32_t>(value));
    return;
  }
  out += "\x8a\x08";
  append_unsigned(out, static_cast<std::uint64_t>(value), 8);
}

void put_tuple(std::string& out, const std::vector<std::int64_t>& values) {
  out += '(';
  for (const std::int64_t value : values) put_integer(out, value);
  out += 't';
}

}  // namespace

std::uint64_t TensorView::elements() const {
  std::uint64_t count = 1;
  for (const std::int64_t side : shape) count *= static_cast<std::uint64_t>(side);
  return count;
}

train::TensorBytes to_rows(const TensorView& view) {
  const std::size_t element_bytes = train::dtype_bytes(view.dtype);
  train::TensorBytes result{.dtype = view.dtype, .shape = view.shape, .bytes = {}};
  const std::uint64_t count = view.elements();
  result.bytes.reserve(count * element_bytes);
  std::vector<std::int64_t> index(view.shape.size(), 0);
  std::int64_t element = view.offset;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string_view value =
        view.storage.substr(static_cast<std::size_t>(element) * element_bytes, element_bytes);
    BITRUNG_CHECK(value.size() == element_bytes);
    result.bytes.insert(result.bytes.end(), value.begin(), value.end());
    // To the next index in row-major order, the last dimension fastest.
    for (std::size_t d = index.size(); d > 0; --d) {
      if (view.shape[d - 1] == 1) continue;  // Its stride means nothing and may be of any size.
      element += view.strides[d - 1];
      if (++index[d - 1] < view.shape[d - 1]) break;
      element -= view.strides[d - 1] * view.shape[d - 1];
      index[d - 1] = 0;
    }
  }
  return result;
}

absl::StatusOr<StateDict> read_state_dict(std::string bytes) {
  StateDict result;
  if (bytes.starts_with(kZipMagic) || bytes.starts_with(kLegacyMagic)) {
    const auto owner = std::make_shared<const std::string>(std::move(bytes));
    const bool is_zip = owner->starts_with(kZipMagic);
    result.form = is_zip ? "PyTorch" : "PyTorch (before 1.6)";
    result.owner = owner;
    BITRUNG_RETURN_IF_ERROR(is_zip ? add_zip(*owner, result) : add_legacy(*owner, result));
  } else if (looks_like_safetensors(bytes)) {
    BITRUNG_ASSIGN_OR_RETURN(result, read_safetensors_form(bytes));
  } else {
    return invalid("it is neither a file of torch.save nor a safetensors file");
  }
  if (result.tensors.empty()) return invalid("it holds no tensor");
  strip_prefixes(result);
  return result;
}

std::string encode_torch_file(const std::map<std::string, train::TensorBytes>& tensors) {
  std::string pickle = "\x80\x02";
  pickle += "ccollections\nOrderedDict\n)R(";
  std::vector<std::pair<std::string, std::string_view>> entries;
  std::size_t key = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::uint64_t elements = tensor.bytes.size() / train::dtype_bytes(tensor.dtype);
    put_text(pickle, name);
    pickle += "ctorch._utils\n_rebuild_tensor_v2\n((";
    put_text(pickle, "storage");
    pickle += fmt::format("ctorch\n{}\n", storage_name(tensor.dtype));
    put_text(pickle, fmt::format("{}", key));
    put_text(pickle, "cpu");
    put_integer(pickle, static_cast<std::int64_t>(elements));
    pickle += "tQ";
    put_integer(pickle, 0);
    put_tuple(pickle, tensor.shape);
    put_tuple(pickle, row_strides(tensor.shape));
    pickle +=
        "\x89"
        "ccollections\nOrderedDict\n)RtR";  // No gradient, no hooks.
    const auto* data = reinterpret_cast<const char*>(tensor.bytes.data());
    entries.emplace_back(fmt::format("archive/data/{}", key++),
                         std::string_view(data, tensor.bytes.size()));
  }
  pickle += "u.";
  entries.insert(entries.begin(), {{"archive/data.pkl", pickle}, {"archive/byteorder", "little"}});
  entries.emplace_back("archive/version", "3\n");
  return encode_zip(entries);
}

}  // namespace bitrung::interop
