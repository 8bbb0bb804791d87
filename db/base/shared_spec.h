// Options that many jobs have in common, written once: a job's spec as a shared part and its own.
//
// A spec is a JSON object with sorted keys and no white space (worker/train/PROTOCOL.md). A part of
// it is such an object too, with some of its members; no member stands in both parts. Here an
// object is its text: values are neither read nor checked.
//
// Pure; any thread.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace bitrung {

// A member at the top level, as views into the text.
struct SpecMember {
  std::string_view key;   // Without its quotes.
  std::string_view text;  // As written: "key":value.
};

// Puts the members at the top level into `members`, in their order. False if the text is no object
// without white space, or its keys do not rise. What is inside of values is passed over: brackets
// and strings have to match, no more. `likely` are texts of members that the object probably has,
// in their order; where it has them it is read much faster.
bool read_members(std::string_view spec_json, std::vector<SpecMember>& members,
                  std::span<const std::string> likely = {});

// The object with the members of both, by key; false if a key stands in both. Overwrites `whole`.
bool join_members(std::span<const SpecMember> shared, std::span<const SpecMember> own,
                  std::string& whole);

}  // namespace bitrung
