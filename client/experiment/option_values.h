// Values of the options of one training, and the reading of them from the tree of the file.
//
// A set of values starts from the built-in defaults and is changed by the file's defaults, a job's
// own options and the values of its sweep, in that order. Each value remembers which of those set
// it and where, for messages and for rules such as "distill needs a teacher". Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/experiment/options.h"
#include "client/experiment/yaml_tree.h"

namespace bitrung::client {

// Who set a value last.
enum class Layer : std::uint8_t { kBuiltIn, kDefaults, kJob };

bool is_bit_width(std::int64_t bits);
// A layer's name or a pattern of names; needs no escape in JSON.
bool is_layer_pattern(std::string_view text);

// Bits of the layers whose name matches a pattern ('*' stands for any text); the activations are
// the layer's input.
struct LayerBits {
  std::string pattern;
  int weights = 32;
  int activations = 32;
  bool operator==(const LayerBits&) const = default;
};
using LayerBitsList = std::vector<LayerBits>;

struct BitsPair {
  int weights = 32;
  int activations = 32;
};
// "4" or "w1a32".
std::optional<BitsPair> parse_bits_word(std::string_view text);

struct BitsValue {
  int weights = 32;
  int activations = 32;
  int gradients = 32;
  int first = 32;
  int shortcut = 32;
  int last = 32;
  LayerBitsList layers;  // In file order; the last match counts.
  bool operator==(const BitsValue&) const = default;
};

struct MethodValue {
  std::string weights;
  std::string activations;
  train::MethodOptions options;
  bool operator==(const MethodValue&) const = default;
};

// What a teacher, init, quantize or evaluate option names.
struct Reference {
  enum class Kind : std::uint8_t {
    kNone,     // "none", "scratch".
    kTeacher,  // "init: teacher".
    kJob,      // `target` is a job or an entry.
    kFile,     // `target` is a path.
  };
  Kind kind = Kind::kNone;
  std::string target;
  // Of a file, as far as written.
  std::string model;
  std::string shortcut;
  std::optional<BitsValue> bits;
  std::optional<MethodValue> method;
};
using References = std::vector<Reference>;  // At least one.

using Fractions = std::vector<double>;
// Words are views into the option table, booleans and lists of words integers (0 or 1, bit i for
// word i). References and bits of layers are shared, since they would make each of a job's many
// values five times as large.
using OptionValue =
    std::variant<std::int64_t, double, std::string_view, Fractions,
                 std::shared_ptr<const References>, std::shared_ptr<const LayerBitsList>>;

class Options {
 public:
  // The built-in defaults.
  static const Options& built_in();

  std::int64_t integer(Option option) const { return std::get<std::int64_t>(at(option).value); }
  double real(Option option) const { return std::get<double>(at(option).value); }
  std::string_view word(Option option) const {
    return std::get<std::string_view>(at(option).value);
  }
  const Fractions& fractions(Option option) const { return std::get<Fractions>(at(option).value); }
  // The value of a kEnd option; `start` where it is to be that.
  double end(Option option, double start) const {
    const double* value = std::get_if<double>(&at(option).value);
    return value != nullptr ? *value : start;
  }
  const References& references(Option option) const {
    return *std::get<std::shared_ptr<const References>>(at(option).value);
  }
  const Reference& reference(Option option) const { return references(option).front(); }
  const LayerBitsList& layer_bits() const {
    return *std::get<std::shared_ptr<const LayerBitsList>>(at(Option::kBitsLayers).value);
  }
  Layer layer(Option option) const { return at(option).layer; }
  Location where(Option option) const { return at(option).where; }

  BitsValue bits() const;
  MethodValue method() const;

  // Sets a leaf ("optimizer.learning_rate"), a group ("optimizer", partial maps keep the rest) or a
  // short form ("bits: w1a32"). `place` says whose value it is: "defaults", "job alone".
  absl::Status apply(std::string_view name, const YamlNode& node, Layer layer,
                     std::string_view place, const Source& source);

  // The leaf or group, set from `node`, as text that is equal for equal values.
  std::string canonical_text(std::string_view name, const YamlNode& node) const;

 private:
  struct Slot {
    OptionValue value;
    Layer layer = Layer::kBuiltIn;
    Location where;
  };

  const Slot& at(Option option) const { return slots_[static_cast<std::size_t>(option)]; }
  Slot& at(Option option) { return slots_[static_cast<std::size_t>(option)]; }
  absl::Status apply_group(std::string_view group, const YamlNode& node, Layer layer,
                           std::string_view place, const Source& source);
  absl::Status apply_leaf(const OptionInfo& row, const YamlNode& node, Layer layer,
                          const Source& source);
  absl::Status set(const OptionInfo& row, OptionValue value, Layer layer, Location where,
                   const Source& source);

  std::array<Slot, kOptionCount> slots_;
};

// Whether applying `node` to the leaf or group `name` sets this leaf: "bits: 4" sets bits.weights
// and bits.activations only.
bool sets_leaf(std::string_view name, const YamlNode& node, const OptionInfo& leaf);

// The leaf's or group's value in `options` as part of a job's name: "0.1", "w1a32", "crop-flip".
// For a group written as a map only what the map says: "learning_rate-0.1".
std::string value_label(const Options& options, std::string_view name, const YamlNode& node);

// "unknown option ... PLACE; did you mean ...?", or what is allowed there.
std::string unknown_option(std::string_view name, std::string_view place,
                           const std::vector<std::string>& allowed);

// Names allowed in a map of options: leaves without a group, and groups.
const std::vector<std::string>& top_option_names();
// Names allowed in a sweep: those and the dotted ones.
const std::vector<std::string>& sweep_option_names();

}  // namespace bitrung::client
