#include "server/rpc/spec_reader.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "db/base/status.h"
#include "server/rpc/convert.h"
#include "server/rpc/json_depth.h"

namespace bitrung::rpc {
namespace {

using nlohmann::json;

enum Field : std::size_t {
  kModel,
  kDataset,
  kKind,
  kSeed,
  kNumerics,
  kEpochs,
  kWeightBits,
  kActivationBits,
  kWeightMethod,
  kActivationMethod
};

struct FieldPath {
  std::string_view parent;
  std::string_view key;
};
constexpr FieldPath kFieldPaths[] = {
    {"", "model"},         {"", "dataset"},          {"", "kind"},        {"", "seed"},
    {"", "numerics"},      {"", "epochs"},           {"bits", "weights"}, {"bits", "activations"},
    {"method", "weights"}, {"method", "activations"}};

bool read_text(std::string_view value, std::string& out) {
  if (!value.starts_with('"')) return false;
  value.remove_prefix(1);
  value.remove_suffix(1);
  out = value;
  return true;
}

template <typename T>
bool read_count(std::string_view value, T& out) {
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out);
  return error == std::errc() && !value.empty() && end == value.data() + value.size();
}

std::string method_text(const std::string& weights, const std::string& activations) {
  return weights == activations ? weights : fmt::format("{}/{}", weights, activations);
}

absl::Status invalid(const v1::JobNode& node, std::string_view what) {
  return absl::InvalidArgumentError(
      fmt::format("job \"{}\": {}", node.name().substr(0, 128), what));
}

// A member of a JSON object with the wanted type; nothing otherwise.
template <typename T>
std::optional<T> member(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return std::nullopt;
  if constexpr (std::is_same_v<T, std::string>) {
    if (!found->is_string()) return std::nullopt;
  } else {
    if (!found->is_number_unsigned() || found->get<std::uint64_t>() > std::numeric_limits<T>::max())
      return std::nullopt;
  }
  return found->get<T>();
}

// Sets the columns from the options.
absl::Status read_fields(const v1::JobNode& node, const json& spec, db::JobSpecRow& row) {
  const auto missing = [&node](const char* key) {
    return invalid(node, fmt::format("spec_json has no valid \"{}\"", key));
  };
  const auto text = [&](const char* key, std::string& out) -> absl::Status {
    auto value = member<std::string>(spec, key);
    if (!value || !is_valid_name(*value)) return missing(key);
    out = *std::move(value);
    return absl::OkStatus();
  };
  const auto count = [&](const json& object, const char* key, auto& out) -> absl::Status {
    const auto value = member<std::remove_reference_t<decltype(out)>>(object, key);
    if (!value) return missing(key);
    out = *value;
    return absl::OkStatus();
  };
  BITRUNG_RETURN_IF_ERROR(text("model", row.model));
  BITRUNG_RETURN_IF_ERROR(text("dataset", row.dataset));
  BITRUNG_RETURN_IF_ERROR(count(spec, "seed", row.seed));
  std::string kind;
  BITRUNG_RETURN_IF_ERROR(text("kind", kind));
  row.epochs = 0;
  if (kind == "train") {
    BITRUNG_RETURN_IF_ERROR(count(spec, "epochs", row.epochs));
    if (row.epochs == 0) return missing("epochs");
  } else if (kind != "quantize" && kind != "evaluate") {
    return invalid(
        node, fmt::format("its kind is \"{}\"; train, quantize and evaluate are allowed", kind));
  }
  BITRUNG_RETURN_IF_ERROR(count(spec, "numerics", row.numerics));
  const json bits = spec.value("bits", json::object());
  if (!bits.is_object()) return missing("bits");
  BITRUNG_RETURN_IF_ERROR(count(bits, "weights", row.weight_bits));
  BITRUNG_RETURN_IF_ERROR(count(bits, "activations", row.activation_bits));
  const json method = spec.value("method", json::object());
  if (!method.is_object()) return missing("method");
  const auto weights = member<std::string>(method, "weights");
  const auto activations = member<std::string>(method, "activations");
  if (!weights || !activations) return missing("method");
  row.method = method_text(*weights, *activations);
  return absl::OkStatus();
}

SpecFields fields_of(const std::vector<SpecScanner::Member>& members) {
  static_assert(std::size(kFieldPaths) == std::tuple_size_v<SpecFields>);
  SpecFields fields;
  for (const SpecScanner::Member& member : members) {
    for (std::size_t i = 0; i < fields.size(); ++i) {
      if (member.key == kFieldPaths[i].key && member.parent == kFieldPaths[i].parent)
        fields[i] = member.value;
    }
  }
  return fields;
}

}  // namespace

absl::StatusOr<SharedSpecs> SharedSpecs::make(
    const google::protobuf::RepeatedPtrField<std::string>& texts,
    const google::protobuf::RepeatedPtrField<v1::JobNode>& jobs) {
  if (texts.size() > jobs.size()) {
    return absl::InvalidArgumentError(
        fmt::format("there are {} shared_specs for {} jobs; one for each job at most", texts.size(),
                    jobs.size()));
  }
  SharedSpecs shared;
  SpecScanner scanner;
  shared.parts_.reserve(static_cast<std::size_t>(texts.size()));
  for (const std::string& text : texts) {
    const std::size_t place = shared.parts_.size() + 1;
    if (text.size() > kSpecBytesMax) {
      return absl::ResourceExhaustedError(fmt::format(
          "shared_specs {} has {} bytes, the limit is {}", place, text.size(), kSpecBytesMax));
    }
    if (!is_nested_at_most(text, kSpecDepthMax)) {
      return absl::InvalidArgumentError(
          fmt::format("shared_specs {} is nested deeper than {} levels", place, kSpecDepthMax));
    }
    Part& part = shared.parts_.emplace_back();
    part.text = std::make_shared<const std::string>(text);
    const auto* members = scanner.scan(*part.text);
    part.is_canonical = members != nullptr && read_members(*part.text, part.members);
    if (part.is_canonical) part.fields = fields_of(*members);
  }
  std::size_t bytes = 0;
  for (const v1::JobNode& node : jobs) {
    if (node.shared_spec() > shared.parts_.size()) {
      return invalid(node, fmt::format("shared_spec {} is beyond the {} shared_specs",
                                       node.shared_spec(), shared.parts_.size()));
    }
    const Part* const part = shared.of(node);
    bytes += node.spec_json().size() + (part != nullptr ? part->text->size() : 0);
  }
  if (bytes > kSpecBytesTogetherMax) {
    return absl::ResourceExhaustedError(
        fmt::format("the options of all jobs have {} bytes together, the limit is {}; split the "
                    "experiment",
                    bytes, kSpecBytesTogetherMax));
  }
  return shared;
}

absl::Status SpecReader::read(const v1::JobNode& node, db::JobSpecRow& row) {
  const SharedSpecs::Part* const shared = shared_.of(node);
  const std::size_t bytes =
      node.spec_json().size() + (shared != nullptr ? shared->text->size() : 0);
  if (bytes > kSpecBytesMax) {
    return absl::ResourceExhaustedError(
        fmt::format("job \"{}\": its options have {} bytes, the limit is {}",
                    node.name().substr(0, 128), bytes, kSpecBytesMax));
  }
  if (read_canonical(node.spec_json(), shared, row)) return absl::OkStatus();
  return read_any(node, shared, row);
}

bool SpecReader::read_canonical(const std::string& own, const SharedSpecs::Part* shared,
                                db::JobSpecRow& row) {
  const auto* members = scanner_.scan(own);
  if (members == nullptr) return false;
  SpecFields fields = fields_of(*members);
  if (shared != nullptr) {
    if (!shared->is_canonical || !read_members(own, own_members_) ||
        !join_members(shared->members, own_members_, whole_)) {
      return false;
    }
    for (std::size_t i = 0; i < fields.size(); ++i) {
      if (fields[i].empty()) fields[i] = shared->fields[i];
    }
  }
  std::string kind;
  std::string weights;
  std::string activations;
  if (!read_text(fields[kModel], row.model) || !is_valid_name(row.model) ||
      !read_text(fields[kDataset], row.dataset) || !is_valid_name(row.dataset) ||
      !read_text(fields[kKind], kind) || !read_count(fields[kSeed], row.seed) ||
      !read_count(fields[kNumerics], row.numerics) ||
      !read_count(fields[kWeightBits], row.weight_bits) ||
      !read_count(fields[kActivationBits], row.activation_bits) ||
      !read_text(fields[kWeightMethod], weights) ||
      !read_text(fields[kActivationMethod], activations)) {
    return false;
  }
  row.epochs = 0;
  if (kind == "train") {
    if (!read_count(fields[kEpochs], row.epochs) || row.epochs == 0) return false;
  } else if (kind != "quantize" && kind != "evaluate") {
    return false;
  }
  row.method = method_text(weights, activations);
  row.spec_json = own;
  if (shared != nullptr) row.shared_spec = shared->text;
  row.spec_sha256 = sha256(shared != nullptr ? whole_ : own);
  return true;
}

absl::Status SpecReader::read_any(const v1::JobNode& node, const SharedSpecs::Part* shared,
                                  db::JobSpecRow& row) {
  if (!is_nested_at_most(node.spec_json(), kSpecDepthMax)) {
    return invalid(node, fmt::format("spec_json is nested deeper than {} levels", kSpecDepthMax));
  }
  json spec = json::parse(node.spec_json(), nullptr, /*allow_exceptions=*/false);
  if (!spec.is_object()) return invalid(node, "spec_json is no JSON object");
  if (shared != nullptr) {
    const json more = json::parse(*shared->text, nullptr, /*allow_exceptions=*/false);
    if (!more.is_object()) return invalid(node, "its shared_spec is no JSON object");
    for (const auto& [key, value] : more.items()) {
      if (spec.emplace(key, value).second) continue;
      return invalid(node, fmt::format("\"{}\" stands in spec_json and in its shared_spec",
                                       key.substr(0, 128)));
    }
  }
  BITRUNG_RETURN_IF_ERROR(read_fields(node, spec, row));
  // Keys sorted and no white space, whatever the client wrote: equal options must be equal text.
  row.spec_json = spec.dump();
  row.spec_sha256 = sha256(row.spec_json);
  return absl::OkStatus();
}

}  // namespace bitrung::rpc
