// The whole options of a job from their parts, for tests.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "db/base/shared_spec.h"

namespace bitrung {

// Nothing if they cannot be joined.
inline std::optional<std::string> join_spec(std::string_view shared, std::string_view own) {
  std::vector<SpecMember> shared_members;
  std::vector<SpecMember> own_members;
  std::string whole;
  if (!read_members(shared, shared_members) || !read_members(own, own_members) ||
      !join_members(shared_members, own_members, whole)) {
    return std::nullopt;
  }
  return whole;
}

}  // namespace bitrung
