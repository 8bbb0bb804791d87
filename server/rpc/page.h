// Pages of long lists. A token is the number of the last thing shown; clients must not look inside.
#pragma once

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "absl/status/statusor.h"

namespace bitrung::rpc {

inline constexpr std::uint32_t kPageSizeDefault = 100;
inline constexpr std::uint32_t kPageSizeMax = 1000;

struct Page {
  std::size_t size = kPageSizeDefault;
  std::int64_t position = 0;  // 0 for the first page.
};

inline absl::StatusOr<Page> parse_page(std::uint32_t size, std::string_view token) {
  if (size > kPageSizeMax) {
    return absl::InvalidArgumentError(
        fmt::format("page_size is {}, the limit is {}", size, kPageSizeMax));
  }
  Page page{size == 0 ? kPageSizeDefault : size, 0};
  if (token.empty()) return page;
  const auto [end, error] =
      std::from_chars(token.data(), token.data() + token.size(), page.position);
  if (error != std::errc() || end != token.data() + token.size() || page.position <= 0) {
    return absl::InvalidArgumentError("page_token is not from an earlier answer");
  }
  return page;
}

inline std::string page_token(std::int64_t position) {
  return std::to_string(position);
}

}  // namespace bitrung::rpc
