// A YAML text as a tree that remembers where each value was written.
//
// The one place that touches yaml-cpp. It takes the parser's events and not its nodes, because the
// nodes resolve aliases silently (a few lines expand to gigabytes) and keep the last of two equal
// keys. Refused here: anchors, aliases, tags, duplicate keys, keys that are not text, a second
// document, deep nesting, text that is not UTF-8. Pure functions of their arguments.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitrung::client {

inline constexpr std::size_t kFileBytesMax = 4 << 20;
inline constexpr int kNestingMax = 32;

// Where something was written: a line of the file, or an override of the command line.
struct Location {
  int line = 0;             // From 1; 0 for the file as a whole.
  int override_index = -1;  // Index of the override, -1 for the file.
};

struct MapEntry;

struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMap };

  Kind kind = Kind::kNull;
  Location where;
  std::string text;               // Of a scalar.
  std::vector<YamlNode> items;    // Of a sequence.
  std::vector<MapEntry> entries;  // Of a map, in file order, keys unique.

  // The value under the key; null if there is none or this is no map.
  const YamlNode* find(std::string_view key) const;
  YamlNode* find(std::string_view key);
};

struct MapEntry {
  std::string key;
  Location where;
  YamlNode value;
};

// What the value is, for messages: the scalar in quotes, "a list", "a mapping", "empty".
std::string shown(const YamlNode& node);

// Names the places of one experiment in messages.
class Source {
 public:
  // Texts of the overrides as the user wrote them, "defaults.epochs=1".
  Source(std::string display_name, std::vector<std::string> overrides)
      : display_name_(std::move(display_name)), overrides_(std::move(overrides)) {}

  // "ladder.yaml:12: what" or "--set defaults.epochs=1: what".
  std::string at(Location where, std::string_view what) const;
  absl::Status invalid(Location where, std::string_view what) const;
  absl::Status exhausted(Location where, std::string_view what) const;

 private:
  std::string display_name_;
  std::vector<std::string> overrides_;
};

// Parses one document. Lines count from 1 for the file (override_index -1).
absl::StatusOr<YamlNode> parse_yaml(std::string_view text, const Source& source,
                                    int override_index);

}  // namespace bitrung::client
