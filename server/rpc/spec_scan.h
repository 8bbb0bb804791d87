// Reads the options of a job out of canonical JSON without building a tree: a submit may have a
// hundred thousand of them.
//
// Knows only the plain case that our own client writes: an object with sorted keys and no white
// space, strings of printable ASCII without escapes, numbers as nlohmann::json writes them. For
// anything else it says so, and the caller takes the long way, which decides what is valid.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace bitrung::rpc {

class SpecScanner {
 public:
  // A member by the path of its keys, "bits.weights", and its text: a number, or a string with its
  // quotes. Views into the scanned text.
  struct Member {
    std::string_view key;     // The last key.
    std::string_view parent;  // The key before it; empty at the top.
    std::string_view value;   // Of a number or a string; a nested value has none.
  };

  // The members down to the second level, or nothing if the text is not plain canonical JSON. Valid
  // until the next call.
  const std::vector<Member>* scan(std::string_view text);

 private:
  bool value(std::string_view parent, std::string_view key, int depth);
  bool object(std::string_view parent, int depth);
  bool array(int depth);
  bool string(std::string_view& inside);
  bool number();
  bool is_plain_number(std::string_view token);
  bool take(char wanted) {
    if (at_ == end_ || *at_ != wanted) return false;
    ++at_;
    return true;
  }

  const char* at_ = nullptr;
  const char* end_ = nullptr;
  std::vector<Member> members_;
  // Fractions that were compared with what nlohmann::json writes. Few occur in a study.
  std::unordered_map<std::string, bool> fractions_;
};

}  // namespace bitrung::rpc
