#include "server/core/identity.h"

#include <string>

#include "db/base/check.h"

namespace bitrung::core {

Digest identity_of(const Digest& spec, const Digest& dataset,
                   std::span<const IdentityInput> inputs) {
  std::string text = "bitrung identity 1\n";
  text += spec.raw();
  text += dataset.raw();
  const IdentityInput* previous = nullptr;
  for (const IdentityInput& input : inputs) {
    BITRUNG_CHECK(previous == nullptr || previous->role <= input.role);
    text += static_cast<char>(input.role);
    text += input.digest.raw();
    previous = &input;
  }
  return sha256(text);
}

std::uint32_t EqualGroups::number(const Digest& identity) {
  const auto [entry, added] =
      numbers_.try_emplace(identity, static_cast<std::uint32_t>(groups_.size()));
  if (added) {
    groups_.emplace_back();
  }
  return entry->second;
}

}  // namespace bitrung::core
