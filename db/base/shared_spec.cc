#include "db/base/shared_spec.h"

#include <algorithm>
#include <cstddef>

namespace bitrung {
namespace {

constexpr std::size_t kNowhere = std::string_view::npos;

// Where the string that begins at `begin` ends: behind its closing quote.
std::size_t end_of_string(std::string_view text, std::size_t begin) {
  for (std::size_t at = begin + 1; at < text.size(); ++at) {
    if (text[at] == '"') return at + 1;
    if (text[at] == '\\') ++at;
  }
  return kNowhere;
}

// Where the value that begins at `begin` ends: at the comma or the bracket behind it.
std::size_t end_of_value(std::string_view text, std::size_t begin) {
  std::size_t depth = 0;
  for (std::size_t at = begin; at < text.size();) {
    switch (text[at]) {
      case '"':
        at = end_of_string(text, at);
        if (at == kNowhere) return kNowhere;
        continue;
      case '{':
      case '[':
        ++depth;
        break;
      case '}':
      case ']':
        if (depth == 0) return at;
        --depth;
        break;
      case ',':
        if (depth == 0) return at;
        break;
      default:
        break;
    }
    ++at;
  }
  return kNowhere;
}

// Where the member that begins at `begin` ends, whose value begins behind `colon`. `likely` is a
// whole member: where it stands, and is followed by what ends one, it is this one.
std::size_t end_of_member(std::string_view text, std::size_t begin, std::size_t colon,
                          std::string_view likely) {
  const std::size_t end = begin + likely.size();
  if (end < text.size() && (text[end] == ',' || text[end] == '}') &&
      text.substr(begin).starts_with(likely)) {
    return end;
  }
  return end_of_value(text, colon + 1);
}

}  // namespace

bool read_members(std::string_view spec_json, std::vector<SpecMember>& members,
                  std::span<const std::string> likely) {
  members.clear();
  if (spec_json == "{}") return true;
  if (!spec_json.starts_with('{')) return false;
  for (std::size_t begin = 1;;) {
    if (begin >= spec_json.size() || spec_json[begin] != '"') return false;
    const std::size_t colon = end_of_string(spec_json, begin);
    if (colon >= spec_json.size() || spec_json[colon] != ':') return false;
    const std::size_t end = members.size() < likely.size()
                                ? end_of_member(spec_json, begin, colon, likely[members.size()])
                                : end_of_value(spec_json, colon + 1);
    if (end == kNowhere || end == colon + 1) return false;
    const std::string_view key = spec_json.substr(begin + 1, colon - begin - 2);
    if (!members.empty() && key <= members.back().key) return false;
    members.push_back({key, spec_json.substr(begin, end - begin)});
    if (spec_json[end] == ',') {
      begin = end + 1;
      continue;
    }
    return spec_json[end] == '}' && end + 1 == spec_json.size();
  }
}

bool join_members(std::span<const SpecMember> shared, std::span<const SpecMember> own,
                  std::string& whole) {
  whole.assign(1, '{');  // GCC 12 warns of an assigned literal (bug 105329).
  const auto add = [&whole](const SpecMember& member) {
    if (whole.size() > 1) whole += ',';
    whole += member.text;
  };
  while (!shared.empty() && !own.empty()) {
    const int order = shared.front().key.compare(own.front().key);
    if (order == 0) return false;
    auto& first = order < 0 ? shared : own;
    add(first.front());
    first = first.subspan(1);
  }
  std::ranges::for_each(shared, add);
  std::ranges::for_each(own, add);
  whole += '}';
  return true;
}

}  // namespace bitrung
