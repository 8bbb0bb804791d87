#include "client/experiment/option_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>

#include "client/experiment/spec_text.h"
#include "client/experiment/text.h"
#include "db/base/check.h"
#include "db/base/status.h"
#include "worker/train/nn/architecture.h"

namespace bitrung::client {
namespace {

constexpr std::size_t kFractionsMax = 64;
constexpr std::size_t kTeachersMax = 16;
constexpr std::size_t kLayerPatternsMax = 256;
constexpr std::size_t kPatternBytesMax = 64;
// The widest network that parse_architecture takes.
constexpr int kWidthMax = 8;

struct Unit {
  std::string_view name;
  double factor;
};
constexpr std::array<Unit, 4> kDurationUnits = {{{"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86'400}}};
constexpr std::array<Unit, 9> kMemoryUnits = {{{"B", 1},
                                               {"KB", 1e3},
                                               {"MB", 1e6},
                                               {"GB", 1e9},
                                               {"TB", 1e12},
                                               {"KiB", 1024.0},
                                               {"MiB", 1048576.0},
                                               {"GiB", 1073741824.0},
                                               {"TiB", 1099511627776.0}}};
// Sums and products of memory sizes stay exact in doubles and fit every integer.
constexpr double kMemoryBytesMax = 1099511627776.0 * 1024;

bool is_scalar(const YamlNode& node) {
  return node.kind == YamlNode::Kind::kScalar;
}

// A leading zero is refused, because YAML's versions disagree whether 010 is eight or ten.
template <typename Integer>
std::optional<Integer> parse_integer(std::string_view text) {
  const std::string_view digits = text.starts_with('-') ? text.substr(1) : text;
  if (digits.size() > 1 && digits.front() == '0') return std::nullopt;
  Integer value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_real(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value + 0.0;  // Makes -0 a 0, so that both give one text.
}

std::optional<double> parse_quantity(std::string_view text, std::span<const Unit> units) {
  if (const std::optional<double> plain = parse_real(text)) return plain;
  const std::size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  std::string_view unit = text.substr(digits);
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  const auto found = std::ranges::find(units, unit, &Unit::name);
  const std::optional<double> value = parse_real(text.substr(0, digits));
  if (found == units.end() || !value) return std::nullopt;
  return *value * found->factor;
}

bool is_in(const Range& range, double value) {
  return value >= range.minimum && value <= range.maximum &&
         !(range.above_minimum && value == range.minimum) &&
         !(range.below_maximum && value == range.maximum);
}

// Numbers as they are, words in quotes.
std::string shown_value(const YamlNode& node) {
  return is_scalar(node) && parse_real(node.text) ? node.text : shown(node);
}

std::string unexpected(std::string_view name, const YamlNode& node, std::string_view expected) {
  if (node.kind == YamlNode::Kind::kNull) {
    return fmt::format("{} has no value; expected {}", name, expected);
  }
  return fmt::format("{} is {}; expected {}", name, shown_value(node), expected);
}

std::optional<int> parse_bit_width(std::string_view text) {
  const std::optional<int> bits = parse_integer<int>(text);
  return bits && is_bit_width(*bits) ? bits : std::nullopt;
}

// Every name of a network, for views that outlive the options.
const std::vector<std::string>& model_texts() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const std::string& plain : train::plain_model_names()) {
      const std::size_t dash = std::min(plain.find('-'), plain.size());
      all.push_back(plain);
      for (int width = 2; width <= kWidthMax; ++width) {
        all.push_back(fmt::format("{}x{}{}", plain.substr(0, dash), width, plain.substr(dash)));
      }
    }
    std::ranges::sort(all);
    return all;
  }();
  return names;
}

// The group has a short form that sets its weights and activations.
bool is_pair_group(std::string_view group) {
  return group == "bits" || group == "method";
}

constexpr std::string_view kBitsAllowed =
    R"(1 to 8, 16 or 32, "w1a32", or {weights: 1, activations: 32})";

// What a kEnd option says to be the value that it starts from.
constexpr std::string_view kStart = "start";

class LeafReader {
 public:
  LeafReader(const OptionInfo& row, const YamlNode& node, const Source& source)
      : row_(row), node_(node), source_(source) {}

  absl::StatusOr<OptionValue> read() const {
    switch (row_.kind) {
      case OptionKind::kModel:
        return read_model();
      case OptionKind::kWord:
        return read_word(node_);
      case OptionKind::kWordList:
        return read_words();
      case OptionKind::kInteger: {
        const auto value =
            is_scalar(node_) ? parse_integer<std::int64_t>(node_.text) : std::nullopt;
        if (!value || !is_in(row_.range, static_cast<double>(*value))) return refusal();
        return *value;
      }
      case OptionKind::kReal: {
        const auto value = is_scalar(node_) ? parse_real(node_.text) : std::nullopt;
        if (!value || !is_in(row_.range, *value)) return refusal();
        return *value;
      }
      case OptionKind::kEnd: {
        if (is_scalar(node_) && node_.text == kStart) return kStart;
        const auto value = is_scalar(node_) ? parse_real(node_.text) : std::nullopt;
        if (!value || !is_in(row_.range, *value)) return refusal();
        return *value;
      }
      case OptionKind::kBoolean:
        if (is_scalar(node_) && node_.text == "true") return std::int64_t{1};
        if (is_scalar(node_) && node_.text == "false") return std::int64_t{0};
        return refusal();
      case OptionKind::kFractions:
        return read_fractions();
      case OptionKind::kBits: {
        const auto value = is_scalar(node_) ? parse_bit_width(node_.text) : std::nullopt;
        if (!value) return refusal();
        return std::int64_t{*value};
      }
      case OptionKind::kDuration: {
        const auto value =
            is_scalar(node_) ? parse_quantity(node_.text, kDurationUnits) : std::nullopt;
        if (!value || !is_in(row_.range, *value)) return refusal();
        return *value;
      }
      case OptionKind::kMemory: {
        const auto value =
            is_scalar(node_) ? parse_quantity(node_.text, kMemoryUnits) : std::nullopt;
        if (!value || *value < 0 || *value > kMemoryBytesMax) return refusal();
        return static_cast<std::int64_t>(*value);
      }
      case OptionKind::kLayerBits:
        return read_layers();
      case OptionKind::kTeacher:
      case OptionKind::kInit:
      case OptionKind::kSource:
        return read_references();
    }
    check_failed("a kind of option without a reader", __FILE__, __LINE__);
  }

 private:
  absl::Status refusal() const {
    return source_.invalid(node_.where, unexpected(row_.name, node_, allowed_values(row_)));
  }

  absl::StatusOr<OptionValue> read_model() const {
    if (!is_scalar(node_)) return refusal();
    const std::vector<std::string>& names = model_texts();
    if (train::parse_architecture(node_.text)) {
      const auto found = std::ranges::lower_bound(names, node_.text);
      BITRUNG_CHECK(found != names.end() && *found == node_.text);
      return std::string_view(*found);
    }
    const std::string what = unexpected(row_.name, node_, allowed_values(row_));
    const auto meant = nearest(node_.text, train::plain_model_names());
    return source_.invalid(
        node_.where, meant ? fmt::format("{}; did you mean {}?", what, in_quotes(*meant)) : what);
  }

  absl::StatusOr<OptionValue> read_layers() const {
    if (node_.kind != YamlNode::Kind::kMap || node_.entries.size() > kLayerPatternsMax) {
      return refusal();
    }
    LayerBitsList layers;
    for (const MapEntry& entry : node_.entries) {
      if (!is_layer_pattern(entry.key)) {
        return source_.invalid(
            entry.where,
            fmt::format("{} has the layer {}; expected a name such as layer2.0.conv1, in which * "
                        "stands for any text",
                        row_.name, in_quotes(entry.key)));
      }
      const auto bits = is_scalar(entry.value) ? parse_bits_word(entry.value.text) : std::nullopt;
      if (!bits) {
        return source_.invalid(
            entry.value.where,
            unexpected(fmt::format("{} of {}", row_.name, entry.key), entry.value,
                       R"(1 to 8, 16 or 32, or a pair such as "w1a32")"));
      }
      layers.push_back({entry.key, bits->weights, bits->activations});
    }
    return std::make_shared<const LayerBitsList>(std::move(layers));
  }

  absl::StatusOr<OptionValue> read_word(const YamlNode& node) const {
    if (is_scalar(node)) {
      const auto found = std::ranges::find(row_.words, node.text);
      if (found != row_.words.end()) return *found;
      const std::vector<std::string> words(row_.words.begin(), row_.words.end());
      if (const auto meant = nearest(node.text, words)) {
        return source_.invalid(
            node.where,
            fmt::format("{}; did you mean {}?", unexpected(row_.name, node, allowed_values(row_)),
                        in_quotes(*meant)));
      }
    }
    return source_.invalid(node.where, unexpected(row_.name, node, allowed_values(row_)));
  }

  absl::StatusOr<OptionValue> read_words() const {
    if (node_.kind != YamlNode::Kind::kSequence) return refusal();
    std::int64_t mask = 0;
    for (const YamlNode& item : node_.items) {
      BITRUNG_ASSIGN_OR_RETURN(const OptionValue word, read_word(item));
      const auto index =
          std::ranges::find(row_.words, std::get<std::string_view>(word)) - row_.words.begin();
      const std::int64_t bit = std::int64_t{1} << index;
      if ((mask & bit) != 0) {
        return source_.invalid(
            item.where, fmt::format("{} lists {} twice; remove one", row_.name, shown(item)));
      }
      mask |= bit;
    }
    return mask;
  }

  absl::StatusOr<OptionValue> read_fractions() const {
    if (node_.kind != YamlNode::Kind::kSequence || node_.items.empty() ||
        node_.items.size() > kFractionsMax) {
      return refusal();
    }
    Fractions fractions;
    for (const YamlNode& item : node_.items) {
      const auto value = is_scalar(item) ? parse_real(item.text) : std::nullopt;
      if (!value || *value <= 0 || *value >= 1 ||
          (!fractions.empty() && *value <= fractions.back())) {
        return source_.invalid(item.where, fmt::format("{} has {}; expected {}", row_.name,
                                                       shown_value(item), allowed_values(row_)));
      }
      fractions.push_back(*value);
    }
    return fractions;
  }

  absl::StatusOr<OptionValue> read_references() const {
    References references;
    if (row_.kind == OptionKind::kTeacher && node_.kind == YamlNode::Kind::kSequence) {
      if (node_.items.empty() || node_.items.size() > kTeachersMax) {
        return source_.invalid(node_.where,
                               fmt::format("{} is a list of {}; expected 1 to {} teachers, or none",
                                           row_.name, node_.items.size(), kTeachersMax));
      }
      for (const YamlNode& item : node_.items) {
        BITRUNG_ASSIGN_OR_RETURN(Reference reference, read_reference(item));
        if (reference.kind == Reference::Kind::kNone && node_.items.size() > 1) {
          return source_.invalid(
              item.where, fmt::format("{} has none beside other teachers; remove it", row_.name));
        }
        references.push_back(std::move(reference));
      }
    } else {
      BITRUNG_ASSIGN_OR_RETURN(Reference reference, read_reference(node_));
      references.push_back(std::move(reference));
    }
    return std::make_shared<const References>(std::move(references));
  }

  absl::StatusOr<Reference> read_reference(const YamlNode& node) const {
    const bool is_init = row_.kind == OptionKind::kInit;
    Reference reference;
    if (is_scalar(node) && !node.text.empty()) {
      if (node.text == (is_init ? "scratch" : "none")) return reference;
      if (is_init && node.text == "teacher") {
        reference.kind = Reference::Kind::kTeacher;
        return reference;
      }
      reference.kind = Reference::Kind::kJob;
      reference.target = node.text;
      return reference;
    }
    if (node.kind != YamlNode::Kind::kMap) {
      return source_.invalid(node.where, unexpected(row_.name, node, allowed_values(row_)));
    }
    reference.kind = Reference::Kind::kFile;
    std::vector<std::string> allowed = {"artifact"};
    if (!is_init) allowed.insert(allowed.end(), {"model", "bits", "method", "shortcut"});
    for (const MapEntry& entry : node.entries) {
      if (std::ranges::find(allowed, entry.key) == allowed.end()) {
        return source_.invalid(entry.where,
                               unknown_option(entry.key, fmt::format("in {}", row_.name), allowed));
      }
      BITRUNG_RETURN_IF_ERROR(read_file_entry(entry, reference));
    }
    if (reference.target.empty()) {
      return source_.invalid(
          node.where, fmt::format("{} is a mapping without \"artifact\"; expected {}", row_.name,
                                  allowed_values(row_)));
    }
    return reference;
  }

  absl::Status read_file_entry(const MapEntry& entry, Reference& reference) const {
    const std::string name = fmt::format("{}.{}", row_.name, entry.key);
    if (entry.key == "artifact") {
      if (!is_scalar(entry.value) || entry.value.text.empty()) {
        return source_.invalid(entry.value.where,
                               unexpected(name, entry.value, "the path of a safetensors file"));
      }
      reference.target = entry.value.text;
      return absl::OkStatus();
    }
    if (entry.key == "model" || entry.key == "shortcut") {
      OptionInfo row = info(entry.key == "model" ? Option::kModel : Option::kShortcut);
      row.name = name;
      if (entry.key == "shortcut")
        row.words = row.words.subspan(1);  // A file has one or the other.
      BITRUNG_ASSIGN_OR_RETURN(const OptionValue word,
                               LeafReader(row, entry.value, source_).read());
      (entry.key == "model" ? reference.model : reference.shortcut) =
          std::get<std::string_view>(word);
      return absl::OkStatus();
    }
    // Groups are read by the same code as a job's own: set on the defaults, then taken out.
    Options options = Options::built_in();
    BITRUNG_RETURN_IF_ERROR(options.apply(entry.key, entry.value, Layer::kJob, row_.name, source_));
    if (entry.key == "bits") {
      reference.bits = options.bits();
    } else {
      reference.method = options.method();
    }
    return absl::OkStatus();
  }

  const OptionInfo& row_;
  const YamlNode& node_;
  const Source& source_;
};

std::string clean_label(std::string_view text) {
  std::string label;
  for (const char c : text) {
    const bool is_kept = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    label += is_kept ? c : '-';
  }
  return label.empty() ? "empty" : label;
}

// Bits and methods of a file are told apart by all that can be said of them.
std::string reference_text(const Reference& reference) {
  std::string text = fmt::format("{}:{}", static_cast<int>(reference.kind), reference.target);
  if (!reference.model.empty()) text += ",model=" + reference.model;
  if (!reference.shortcut.empty()) text += ",shortcut=" + reference.shortcut;
  if (reference.bits) text += ",bits=" + bits_json(*reference.bits);
  if (reference.method) text += ",method=" + method_json(*reference.method);
  return text;
}

std::string reference_label(const OptionInfo& row, const Reference& reference) {
  switch (reference.kind) {
    case Reference::Kind::kNone:
      return row.kind == OptionKind::kInit ? "scratch" : "none";
    case Reference::Kind::kTeacher:
      return "teacher";
    case Reference::Kind::kJob:
      return reference.target;
    case Reference::Kind::kFile:
      return std::filesystem::path(reference.target).stem().string();
  }
  check_failed("a kind of reference without a label", __FILE__, __LINE__);
}

std::string pair_label(std::int64_t weights, std::int64_t activations) {
  return weights == activations ? fmt::format("{}", weights)
                                : fmt::format("w{}a{}", weights, activations);
}

std::string real_label(double value) {
  std::string label = real_text(value);
  if (label.ends_with(".0")) label.resize(label.size() - 2);
  return label;
}

constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();

std::string leaf_label(const OptionInfo& row, const Options& options) {
  switch (row.kind) {
    case OptionKind::kModel:
    case OptionKind::kWord:
      return std::string(options.word(row.option));
    case OptionKind::kWordList: {
      std::string label;
      for (std::size_t i = 0; i < row.words.size(); ++i) {
        if ((options.integer(row.option) >> i & 1) == 0) continue;
        label += fmt::format("{}{}", label.empty() ? "" : "-", row.words[i]);
      }
      return label.empty() ? "none" : label;
    }
    case OptionKind::kInteger:
    case OptionKind::kBits:
    case OptionKind::kMemory:
      return fmt::format("{}", options.integer(row.option));
    case OptionKind::kEnd:
      if (std::isnan(options.end(row.option, kNotANumber))) return std::string(kStart);
      return real_label(options.end(row.option, kNotANumber));
    case OptionKind::kReal:
    case OptionKind::kDuration:
      return real_label(options.real(row.option));
    case OptionKind::kBoolean:
      return options.integer(row.option) != 0 ? "true" : "false";
    case OptionKind::kFractions: {
      std::string label;
      for (const double fraction : options.fractions(row.option)) {
        label += fmt::format("{}{}", label.empty() ? "" : "-", real_text(fraction));
      }
      return label;
    }
    case OptionKind::kLayerBits: {
      std::string label;
      for (const LayerBits& layer : options.layer_bits()) {
        label += fmt::format("{}{}-{}", label.empty() ? "" : "-", layer.pattern,
                             pair_label(layer.weights, layer.activations));
      }
      return label.empty() ? "none" : label;
    }
    case OptionKind::kTeacher:
    case OptionKind::kInit:
    case OptionKind::kSource: {
      std::string label;
      for (const Reference& reference : options.references(row.option)) {
        label += fmt::format("{}{}", label.empty() ? "" : "-", reference_label(row, reference));
      }
      return label;
    }
  }
  check_failed("a kind of option without a label", __FILE__, __LINE__);
}

}  // namespace

bool is_bit_width(std::int64_t bits) {
  return (bits >= 1 && bits <= 8) || bits == 16 || bits == 32;
}

std::optional<BitsPair> parse_bits_word(std::string_view text) {
  if (const std::optional<int> both = parse_bit_width(text)) return BitsPair{*both, *both};
  const std::size_t a = text.find('a');
  if (!text.starts_with('w') || a == std::string_view::npos) return std::nullopt;
  const std::optional<int> weights = parse_bit_width(text.substr(1, a - 1));
  const std::optional<int> activations = parse_bit_width(text.substr(a + 1));
  if (!weights || !activations) return std::nullopt;
  return BitsPair{*weights, *activations};
}

bool is_layer_pattern(std::string_view text) {
  return !text.empty() && text.size() <= kPatternBytesMax && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '*';
  });
}

const Options& Options::built_in() {
  static const Options options = [] {
    const Source source("built-in defaults", {});
    Options result;
    for (const OptionInfo& row : option_table()) {
      const auto node = parse_yaml(row.default_text, source, -1);
      BITRUNG_CHECK(node.ok());
      auto value = LeafReader(row, *node, source).read();
      BITRUNG_CHECK(value.ok());
      result.at(row.option).value = *std::move(value);
    }
    return result;
  }();
  return options;
}

BitsValue Options::bits() const {
  using enum Option;
  const auto bits = [this](Option option) { return static_cast<int>(integer(option)); };
  return {.weights = bits(kBitsWeights),
          .activations = bits(kBitsActivations),
          .gradients = bits(kBitsGradients),
          .first = bits(kBitsFirst),
          .shortcut = bits(kBitsShortcut),
          .last = bits(kBitsLast),
          .layers = layer_bits()};
}

MethodValue Options::method() const {
  using enum Option;
  return {.weights = std::string(word(kMethodWeights)),
          .activations = std::string(word(kMethodActivations)),
          .options = {.range = std::string(word(kMethodRange)),
                      .granularity = std::string(word(kMethodGranularity)),
                      .ema_decay = real(kMethodEmaDecay),
                      .scale = std::string(word(kMethodScale)),
                      .clip_init = real(kMethodClipInit),
                      .clip_decay = real(kMethodClipDecay)}};
}

absl::Status Options::apply(std::string_view name, const YamlNode& node, Layer layer,
                            std::string_view place, const Source& source) {
  if (const OptionInfo* row = find_option(name)) return apply_leaf(*row, node, layer, source);
  BITRUNG_CHECK(is_option_group(name));
  return apply_group(name, node, layer, place, source);
}

absl::Status Options::apply_leaf(const OptionInfo& row, const YamlNode& node, Layer layer,
                                 const Source& source) {
  BITRUNG_ASSIGN_OR_RETURN(OptionValue value, LeafReader(row, node, source).read());
  return set(row, std::move(value), layer, node.where, source);
}

absl::Status Options::apply_group(std::string_view group, const YamlNode& node, Layer layer,
                                  std::string_view place, const Source& source) {
  if (is_scalar(node)) {
    if (group == "bits") {
      const std::optional<BitsPair> bits = parse_bits_word(node.text);
      if (!bits) return source.invalid(node.where, unexpected(group, node, kBitsAllowed));
      BITRUNG_RETURN_IF_ERROR(
          set(info(Option::kBitsWeights), std::int64_t{bits->weights}, layer, node.where, source));
      return set(info(Option::kBitsActivations), std::int64_t{bits->activations}, layer, node.where,
                 source);
    }
    if (group == "method") {
      OptionInfo row = info(Option::kMethodWeights);
      row.name = group;
      BITRUNG_RETURN_IF_ERROR(apply_leaf(row, node, layer, source));
      return apply_leaf(info(Option::kMethodActivations), node, layer, source);
    }
    if (group == "schedule") {
      OptionInfo row = info(Option::kScheduleKind);
      row.name = group;
      return apply_leaf(row, node, layer, source);
    }
  }
  std::vector<std::string> leaves;
  for (const OptionInfo& row : option_table()) {
    if (row.group() == group) leaves.emplace_back(row.leaf());
  }
  if (node.kind != YamlNode::Kind::kMap) {
    const std::string expected = group == "bits"
                                     ? std::string(kBitsAllowed)
                                     : fmt::format("a mapping of {}", listed(leaves, "and"));
    return source.invalid(node.where, unexpected(group, node, expected));
  }
  for (const MapEntry& entry : node.entries) {
    if (std::ranges::find(leaves, entry.key) == leaves.end()) {
      return source.invalid(
          entry.where, unknown_option(entry.key, fmt::format("in {} of {}", group, place), leaves));
    }
  }
  // The kind comes first, wherever it stands: it decides what the other values start from.
  if (const YamlNode* kind = node.find("kind")) {
    const OptionInfo* row = find_option(fmt::format("{}.kind", group));
    if (row != nullptr) BITRUNG_RETURN_IF_ERROR(apply_leaf(*row, *kind, layer, source));
  }
  for (const MapEntry& entry : node.entries) {
    if (entry.key == "kind") continue;
    const OptionInfo* row = find_option(fmt::format("{}.{}", group, entry.key));
    BITRUNG_CHECK(row != nullptr);
    BITRUNG_RETURN_IF_ERROR(apply_leaf(*row, entry.value, layer, source));
  }
  return absl::OkStatus();
}

absl::Status Options::set(const OptionInfo& row, OptionValue value, Layer layer, Location where,
                          const Source& source) {
  if (row.option == Option::kScheduleKind && value != at(row.option).value) {
    for (const Option other :
         {Option::kScheduleAt, Option::kScheduleFactor, Option::kWarmupEpochs}) {
      at(other) = built_in().at(other);
    }
  }
  if ((row.option == Option::kScheduleAt || row.option == Option::kScheduleFactor) &&
      word(Option::kScheduleKind) != "step") {
    return source.invalid(
        where,
        fmt::format("{} belongs to a step schedule, this one is {}; remove it or say kind: step",
                    row.name, word(Option::kScheduleKind)));
  }
  at(row.option) = {std::move(value), layer, where};
  return absl::OkStatus();
}

std::string Options::canonical_text(std::string_view name, const YamlNode& node) const {
  if (const OptionInfo* row = find_option(name)) {
    const bool is_reference = row->kind == OptionKind::kTeacher || row->kind == OptionKind::kInit ||
                              row->kind == OptionKind::kSource;
    if (!is_reference) return leaf_label(*row, *this);
    std::string text;
    for (const Reference& reference : references(row->option)) {
      text += reference_text(reference) + ";";
    }
    return text;
  }
  std::string text;
  for (const OptionInfo& row : option_table()) {
    if (row.group() != name) continue;
    // What a short form does not set is no part of it: "bits: 4" is the same in two entries of
    // which one has another bits.first.
    const bool is_pair = row.leaf() == "weights" || row.leaf() == "activations";
    if (is_pair_group(name) && !is_pair && !sets_leaf(name, node, row)) continue;
    text += fmt::format("{}={} ", row.leaf(), leaf_label(row, *this));
  }
  return text;
}

bool sets_leaf(std::string_view name, const YamlNode& node, const OptionInfo& leaf) {
  if (leaf.name == name) return true;
  if (leaf.group() != name) return false;
  if (!is_pair_group(name)) return true;
  if (is_scalar(node)) return leaf.leaf() == "weights" || leaf.leaf() == "activations";
  return node.find(leaf.leaf()) != nullptr;
}

std::string value_label(const Options& options, std::string_view name, const YamlNode& node) {
  if (const OptionInfo* row = find_option(name)) return clean_label(leaf_label(*row, options));
  if (is_scalar(node) && name != "bits") return clean_label(node.text);
  std::string label;
  if (name == "bits") {
    label = pair_label(options.integer(Option::kBitsWeights),
                       options.integer(Option::kBitsActivations));
  }
  for (const MapEntry& entry : node.entries) {
    if (name == "bits" && (entry.key == "weights" || entry.key == "activations")) continue;
    const OptionInfo* row = find_option(fmt::format("{}.{}", name, entry.key));
    BITRUNG_CHECK(row != nullptr);
    label += fmt::format("{}{}-{}", label.empty() ? "" : "-", entry.key, leaf_label(*row, options));
  }
  return clean_label(label);
}

std::string unknown_option(std::string_view name, std::string_view place,
                           const std::vector<std::string>& allowed) {
  const std::string what = fmt::format("unknown option {} {}", in_quotes(name), place);
  const bool is_dotted_allowed = std::ranges::any_of(
      allowed, [](const std::string& word) { return word.find('.') != std::string::npos; });
  // "learning_rate" is right, only one level too high.
  for (const OptionInfo& row : option_table()) {
    if (row.group().empty() || (name != row.leaf() && name != row.name)) continue;
    if (std::ranges::find(allowed, std::string(row.group())) == allowed.end()) continue;
    if (is_dotted_allowed) return fmt::format("{}; did you mean {}?", what, in_quotes(row.name));
    return fmt::format("{}; write {}: {{{}: …}}", what, row.group(), row.leaf());
  }
  if (const auto meant = nearest(name, allowed)) {
    return fmt::format("{}; did you mean {}?", what, in_quotes(*meant));
  }
  return fmt::format("{}; allowed: {}", what, listed(allowed, ""));
}

const std::vector<std::string>& top_option_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const OptionInfo& row : option_table()) {
      const std::string name(row.group().empty() ? row.name : row.group());
      if (std::ranges::find(result, name) == result.end()) result.push_back(name);
    }
    return result;
  }();
  return names;
}

const std::vector<std::string>& sweep_option_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result = top_option_names();
    for (const OptionInfo& row : option_table()) {
      if (!row.group().empty()) result.emplace_back(row.name);
    }
    return result;
  }();
  return names;
}

}  // namespace bitrung::client
