// Gives equal values one small number, so that hot structures hold 4 bytes instead of a text or a
// digest. Numbers are consecutive from 0 and never reused. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "db/base/check.h"

namespace bitrung::core {

// Stands for "no such thing" wherever a number below is a position.
inline constexpr std::uint32_t kNone = 0xffff'ffff;

template <typename Value, typename Hash = std::hash<Value>>
class Interner {
 public:
  std::uint32_t intern(const Value& value) {
    const auto [entry, added] =
        numbers_.try_emplace(value, static_cast<std::uint32_t>(values_.size()));
    if (added) {
      values_.push_back(&entry->first);  // Nodes of an unordered_map never move.
    }
    return entry->second;
  }

  const Value& operator[](std::uint32_t number) const {
    BITRUNG_CHECK(number < values_.size());
    return *values_[number];
  }

  std::size_t size() const { return values_.size(); }

 private:
  std::unordered_map<Value, std::uint32_t, Hash> numbers_;
  std::vector<const Value*> values_;
};

}  // namespace bitrung::core
