#include "client/experiment/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "client/experiment/text.h"
#include "db/base/check.h"

namespace bitrung::client {
namespace {

// yaml-cpp reads ahead to the closing bracket before its first event, so its memory must be bounded
// before it sees the text. Brackets inside quotes and comments are counted too, hence far above the
// nesting that the tree allows.
constexpr int kOpenBracketsMax = 1000;
// Ten for each of the 100,000 jobs that an experiment may have; a value takes some hundred bytes.
constexpr std::size_t kValuesMax = 1'000'000;

// Unwinds yaml-cpp from inside an event, the only way to stop it. Never leaves parse_yaml().
struct Refusal {
  absl::Status status;
};

class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(const Source& source, int override_index)
      : source_(source), override_index_(override_index) {
    root_.where.override_index = override_index;
  }

  YamlNode take_root() { return std::move(root_); }
  bool saw_document() const { return documents_ > 0; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) {
      refuse(
          mark,
          "a second document starts here; an experiment file is one mapping, remove the \"---\" or "
          "the text behind its end");
    }
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    YamlNode node;
    node.where = location(mark);
    add(std::move(node), mark);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse(mark, kNoAliases); }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    YamlNode node;
    node.kind = YamlNode::Kind::kScalar;
    node.where = location(mark);
    node.text = value;
    add(std::move(node), mark);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::kSequence, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

  static constexpr std::string_view kNoAliases =
      "anchors and aliases (&name, *name) are not allowed; write the value out, or move it to "
      "\"defaults\"";

 private:
  struct Open {
    YamlNode node;
    std::optional<std::string> key;  // Read, its value not yet.
    Location key_where;
    std::unordered_map<std::string, int> line_by_key;
  };

  Location location(const YAML::Mark& mark) const {
    return {.line = mark.line + 1, .override_index = override_index_};
  }

  [[noreturn]] void refuse(const YAML::Mark& mark, std::string_view what) const {
    throw Refusal{source_.invalid(location(mark), what)};
  }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != YAML::NullAnchor) refuse(mark, kNoAliases);
  }

  // yaml-cpp reports "?" for a plain value and "!" for a quoted one without a tag.
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!") {
      refuse(mark, fmt::format("tag {} is not allowed; remove it", in_quotes(tag)));
    }
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
            YAML::anchor_t anchor) {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (!open_.empty() && open_.back().node.kind == YamlNode::Kind::kMap && !open_.back().key) {
      refuse(
          mark,
          "a list or a mapping stands where a key is expected; is a bracket or a colon missing?");
    }
    if (open_.size() >= static_cast<std::size_t>(kNestingMax)) {
      refuse(mark, fmt::format("nested deeper than {} levels", kNestingMax));
    }
    Open frame;
    frame.node.kind = kind;
    frame.node.where = location(mark);
    open_.push_back(std::move(frame));
  }

  void close() {
    BITRUNG_CHECK(!open_.empty());
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    YAML::Mark mark;
    mark.line = node.where.line - 1;
    add(std::move(node), mark);
  }

  void add(YamlNode node, const YAML::Mark& mark) {
    if (++values_ > kValuesMax) {
      throw Refusal{source_.exhausted(
          location(mark), fmt::format("more than {} values; a sweep says the same in fewer",
                                      with_separators(kValuesMax)))};
    }
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.kind == YamlNode::Kind::kSequence) {
      parent.node.items.push_back(std::move(node));
      return;
    }
    if (parent.key) {
      // yaml-cpp puts a missing value where the next line begins.
      if (node.kind == YamlNode::Kind::kNull) node.where = parent.key_where;
      parent.node.entries.push_back({std::move(*parent.key), parent.key_where, std::move(node)});
      parent.key.reset();
      return;
    }
    if (node.kind != YamlNode::Kind::kScalar) refuse(mark, "a key is empty; keys are names");
    const auto [first, is_new] = parent.line_by_key.emplace(node.text, mark.line + 1);
    if (!is_new) {
      refuse(mark, fmt::format("key {} is given twice, first in line {}; remove one",
                               in_quotes(node.text), first->second));
    }
    parent.key = std::move(node.text);
    parent.key_where = node.where;
  }

  const Source& source_;
  const int override_index_;
  int documents_ = 0;
  std::size_t values_ = 0;
  YamlNode root_;
  std::vector<Open> open_;
};

// Length of the UTF-8 sequence at the start of the text; 0 if it is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0U) != 0x80U) return 0;
  }
  // Overlong forms, surrogates and values above U+10FFFF.
  const unsigned second = byte(1);
  if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
      (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F)) {
    return 0;
  }
  return length;
}

// Before yaml-cpp sees the text: it takes byte 4 for the end of input and UTF-16 for text.
absl::Status check_characters(std::string_view text, const Source& source, int override_index) {
  Location where{.line = 1, .override_index = override_index};
  int brackets = 0;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text.substr(i));
    if (length == 0) {
      return source.invalid(where, fmt::format("not a text file: byte {} (0x{:02x}) is not UTF-8",
                                               i, static_cast<unsigned char>(text[i])));
    }
    const char c = text[i];
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\r' && c != '\t') ||
        c == 0x7F) {
      return source.invalid(where,
                            fmt::format("not a text file: byte {} is control character 0x{:02x}", i,
                                        static_cast<unsigned char>(c)));
    }
    if (c == '\n') ++where.line;
    if (c == '[' || c == '{') ++brackets;
    if ((c == ']' || c == '}') && brackets > 0) --brackets;
    if (brackets > kOpenBracketsMax) {
      return source.invalid(where, fmt::format("more than {} brackets are open; nesting may be at "
                                               "most {} levels deep",
                                               kOpenBracketsMax, kNestingMax));
    }
    i += length;
  }
  return absl::OkStatus();
}

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  const auto found = std::ranges::find(entries, key, &MapEntry::key);
  return found == entries.end() ? nullptr : &found->value;
}

YamlNode* YamlNode::find(std::string_view key) {
  const auto found = std::ranges::find(entries, key, &MapEntry::key);
  return found == entries.end() ? nullptr : &found->value;
}

std::string shown(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "empty";
    case YamlNode::Kind::kScalar:
      return in_quotes(node.text);
    case YamlNode::Kind::kSequence:
      return "a list";
    case YamlNode::Kind::kMap:
      return "a mapping";
  }
  check_failed("a kind of node without a name", __FILE__, __LINE__);
}

std::string Source::at(Location where, std::string_view what) const {
  if (where.override_index >= 0) {
    std::string_view text = overrides_.at(static_cast<std::size_t>(where.override_index));
    constexpr std::size_t kShownBytesMax = 200;
    const bool is_long = text.size() > kShownBytesMax;
    return fmt::format("--set {}{}: {}", text.substr(0, kShownBytesMax), is_long ? "…" : "", what);
  }
  if (where.line == 0) return fmt::format("{}: {}", display_name_, what);
  return fmt::format("{}:{}: {}", display_name_, where.line, what);
}

absl::Status Source::invalid(Location where, std::string_view what) const {
  return absl::InvalidArgumentError(at(where, what));
}

absl::Status Source::exhausted(Location where, std::string_view what) const {
  return absl::ResourceExhaustedError(at(where, what));
}

absl::StatusOr<YamlNode> parse_yaml(std::string_view text, const Source& source,
                                    int override_index) {
  if (text.size() > kFileBytesMax) {
    return source.exhausted(
        {.line = 0, .override_index = override_index},
        fmt::format("{} bytes, the limit is {}; a sweep or a ladder says the same in a few lines",
                    with_separators(text.size()), with_separators(kFileBytesMax)));
  }
  if (absl::Status status = check_characters(text, source, override_index); !status.ok()) {
    return status;
  }
  TreeBuilder builder(source, override_index);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const Refusal& refusal) {
    return refusal.status;
  } catch (const YAML::Exception& error) {
    const Location where{.line = error.mark.line + 1, .override_index = override_index};
    if (error.msg.starts_with(YAML::ErrorMsg::UNKNOWN_ANCHOR)) {
      return source.invalid(where, TreeBuilder::kNoAliases);
    }
    return source.invalid(
        where, fmt::format("not YAML: {} (column {})", error.msg, error.mark.column + 1));
  }
  return builder.take_root();
}

}  // namespace bitrung::client
