#include "db/nearest_names.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include <fmt/format.h>

namespace bitrung::db {
namespace {

constexpr std::size_t kSuggestionsMax = 3;

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

// Counts typing errors between one text and many others, in memory that is taken once.
class TypingErrors {
 public:
  explicit TypingErrors(std::string_view wanted) : wanted_(lower(wanted)) {}

  // Optimal string alignment distance; any number above `limit` if it is larger than that. Only
  // cells within `limit` of the diagonal are computed, as all others are larger.
  std::size_t count(std::string_view other_text, std::size_t limit) {
    const std::string other = lower(other_text);
    const std::size_t rows = wanted_.size();
    const std::size_t columns = other.size();
    const std::size_t beyond = limit + 1;
    if ((rows > columns ? rows - columns : columns - rows) > limit) return beyond;
    before_.assign(columns + 1, beyond);
    previous_.assign(columns + 1, beyond);
    current_.assign(columns + 1, beyond);
    for (std::size_t j = 0; j <= std::min(columns, limit); ++j) previous_[j] = j;
    previous_least_ = 0;
    for (std::size_t i = 1; i <= rows; ++i) {
      const std::size_t first = i > limit ? i - limit : 0;
      const std::size_t last = std::min(columns, i + limit);
      std::size_t least = beyond;
      if (first > 0) current_[first - 1] = beyond;
      for (std::size_t j = first; j <= last; ++j) {
        std::size_t errors =
            j == 0 ? i : previous_[j - 1] + (wanted_[i - 1] == other[j - 1] ? 0 : 1);
        if (j > 0) errors = std::min(errors, current_[j - 1] + 1);
        errors = std::min(errors, previous_[j] + 1);
        if (i > 1 && j > 1 && wanted_[i - 1] == other[j - 2] && wanted_[i - 2] == other[j - 1]) {
          errors = std::min(errors, before_[j - 2] + 1);
        }
        current_[j] = std::min(errors, beyond);
        least = std::min(least, current_[j]);
      }
      if (last < columns) current_[last + 1] = beyond;
      // Two rows without a small number: an exchange of two characters cannot reach back further.
      if (least > limit && previous_least_ > limit) return beyond;
      previous_least_ = least;
      std::swap(before_, previous_);
      std::swap(previous_, current_);
    }
    return previous_[columns];
  }

 private:
  std::string wanted_;
  std::size_t previous_least_ = 0;
  std::vector<std::size_t> before_, previous_, current_;  // Rows i-2, i-1, i.
};

}  // namespace

std::vector<std::string> nearest_names(std::string_view wanted,
                                       const std::vector<std::string>& known) {
  // A quarter of the characters: fewer would miss "resnet20-lader", more would suggest what has
  // nothing to do with it.
  std::size_t limit = std::max<std::size_t>(1, wanted.size() / 4);
  TypingErrors typing_errors(wanted);
  std::vector<std::pair<std::size_t, std::string_view>> near;  // The best, sorted.
  for (const std::string& name : known) {
    const std::pair<std::size_t, std::string_view> candidate(typing_errors.count(name, limit),
                                                             name);
    if (candidate.first > limit) continue;
    const auto place = std::ranges::lower_bound(near, candidate);
    if (place != near.end() && *place == candidate) continue;
    near.insert(place, candidate);
    if (near.size() > kSuggestionsMax) near.pop_back();
    if (near.size() == kSuggestionsMax) limit = near.back().first;
  }
  std::vector<std::string> names;
  for (const auto& [errors, name] : near) names.emplace_back(name);
  return names;
}

std::string did_you_mean(std::string_view wanted, const std::vector<std::string>& known) {
  const std::vector<std::string> names = nearest_names(wanted, known);
  std::string list;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i > 0) list += i + 1 == names.size() ? " or " : ", ";
    list += fmt::format("\"{}\"", names[i]);
  }
  return list.empty() ? list : fmt::format("did you mean {}? ", list);
}

}  // namespace bitrung::db
