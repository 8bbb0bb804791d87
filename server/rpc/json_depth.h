// How deep the arrays and objects of a JSON text lie, without reading it: what recurses over a
// document may do so afterwards.
#pragma once

#include <string_view>

namespace bitrung::rpc {

// False if a bracket outside of quotes opens a level below `depth_max`. Of a text that is no JSON,
// anything may be said.
inline bool is_nested_at_most(std::string_view json, int depth_max) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > depth_max) return false;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return true;
}

}  // namespace bitrung::rpc
