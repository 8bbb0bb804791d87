// What makes two jobs equal, and the book of equal jobs.
//
// A job's identity is the SHA-256 over everything that can change its numbers. One training serves
// all jobs of one identity: while one of them is at work the others wait, and when it has succeeded
// they take its result.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "db/base/digest.h"
#include "db/words.h"
#include "server/core/interner.h"

namespace bitrung::core {

struct IdentityInput {
  InputRole role{};
  Digest digest;  // The parent's identity, or an outside artifact's digest.
};

// SHA-256 over "bitrung identity 1\n", the digest of the options, the data set's digest, and per
// input one byte for its role (0 teacher, 1 init, 2 source) and its digest. Inputs are given by
// rising role, teachers in the order in which they count; of a choice only the one that was taken.
Digest identity_of(const Digest& spec, const Digest& dataset,
                   std::span<const IdentityInput> inputs);

// Jobs of one identity.
struct EqualGroup {
  std::uint32_t winner =
      kNone;                   // The one that succeeded; its result is everybody's. Never changes.
  std::uint32_t live = kNone;  // The one that is offered, running or cancelling.
  std::uint32_t first =
      kNone;  // Members, linked through Job::next_equal; empty once there is a winner.
};

class EqualGroups {
 public:
  // Number of the identity's group; made if new.
  std::uint32_t number(const Digest& identity);
  EqualGroup& operator[](std::uint32_t group) { return groups_[group]; }
  const EqualGroup& operator[](std::uint32_t group) const { return groups_[group]; }

 private:
  std::unordered_map<Digest, std::uint32_t, DigestHash> numbers_;
  std::vector<EqualGroup> groups_;
};

}  // namespace bitrung::core
