#include "server/rpc/spec_scan.h"

#include <algorithm>
#include <initializer_list>

#include <nlohmann/json.hpp>

namespace bitrung::rpc {
namespace {

constexpr int kDepthMax = 16;
constexpr std::size_t kFractionsMax = 1000;
// Fits 63 bits, so that signed and unsigned readers agree.
constexpr std::size_t kDigitsMax = 18;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

}  // namespace

const std::vector<SpecScanner::Member>* SpecScanner::scan(std::string_view text) {
  at_ = text.data();
  end_ = at_ + text.size();
  members_.clear();
  return object({}, 0) && at_ == end_ ? &members_ : nullptr;
}

bool SpecScanner::value(std::string_view parent, std::string_view key, int depth) {
  if (at_ == end_) return false;
  const char* const begin = at_;
  const auto text = [&] { return std::string_view(begin, static_cast<std::size_t>(at_ - begin)); };
  std::string_view inside;
  bool is_scalar = true;
  switch (*at_) {
    case '{':
      if (!object(key, depth + 1)) return false;
      is_scalar = false;
      break;
    case '[':
      if (!array(depth + 1)) return false;
      is_scalar = false;
      break;
    case '"':
      if (!string(inside)) return false;
      break;
    case 't':
    case 'f':
    case 'n':
      for (const std::string_view word : {"true", "false", "null"}) {
        if (!std::string_view(at_, static_cast<std::size_t>(end_ - at_)).starts_with(word))
          continue;
        at_ += word.size();
        is_scalar = false;
        break;
      }
      if (at_ == begin) return false;
      break;
    default:
      if (!number()) return false;
      break;
  }
  if (depth <= 1) members_.push_back({key, parent, is_scalar ? text() : std::string_view()});
  return true;
}

bool SpecScanner::object(std::string_view parent, int depth) {
  if (depth > kDepthMax || !take('{')) return false;
  if (take('}')) return true;
  std::string_view previous;
  for (bool is_first = true;; is_first = false) {
    std::string_view key;
    if (!string(key) || (!is_first && key <= previous) || !take(':')) return false;
    if (!value(parent, key, depth)) return false;
    previous = key;
    if (take('}')) return true;
    if (!take(',')) return false;
  }
}

bool SpecScanner::array(int depth) {
  if (depth > kDepthMax || !take('[')) return false;
  if (take(']')) return true;
  while (true) {
    // Deeper than any member that is noted.
    if (!value({}, {}, std::max(depth, 2))) return false;
    if (take(']')) return true;
    if (!take(',')) return false;
  }
}

bool SpecScanner::string(std::string_view& inside) {
  if (!take('"')) return false;
  const char* const begin = at_;
  while (at_ != end_ && *at_ != '"') {
    if (*at_ < 0x20 || *at_ > 0x7e || *at_ == '\\') return false;
    ++at_;
  }
  inside = {begin, static_cast<std::size_t>(at_ - begin)};
  return take('"');
}

bool SpecScanner::number() {
  const char* const begin = at_;
  while (at_ != end_ && (is_digit(*at_) || *at_ == '-' || *at_ == '+' || *at_ == '.' ||
                         *at_ == 'e' || *at_ == 'E')) {
    ++at_;
  }
  return is_plain_number({begin, static_cast<std::size_t>(at_ - begin)});
}

bool SpecScanner::is_plain_number(std::string_view token) {
  std::string_view digits = token;
  if (digits.starts_with('-')) digits.remove_prefix(1);
  if (digits.empty() || !is_digit(digits.front())) return false;
  if (digits.find_first_not_of("0123456789") == std::string_view::npos) {
    return digits.size() <= kDigitsMax && (digits.front() != '0' || token == "0");
  }
  const auto known = fractions_.find(std::string(token));
  if (known != fractions_.end()) return known->second;
  const auto parsed = nlohmann::json::parse(token, nullptr, /*allow_exceptions=*/false);
  const bool is_plain = parsed.is_number() && parsed.dump() == token;
  if (fractions_.size() < kFractionsMax) fractions_.emplace(token, is_plain);
  return is_plain;
}

}  // namespace bitrung::rpc
