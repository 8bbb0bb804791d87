#include "client/cli/arguments.h"

#include <fmt/format.h>

#include <charconv>

namespace bitrung::cli {

std::optional<std::string> Arguments::value(std::string_view option) const {
  const auto found = options.find(option);
  if (found == options.end() || found->second.empty()) return std::nullopt;
  return found->second.back();
}

std::vector<std::string> Arguments::values(std::string_view option) const {
  const auto found = options.find(option);
  return found == options.end() ? std::vector<std::string>() : found->second;
}

absl::StatusOr<std::optional<std::uint64_t>> Arguments::number(std::string_view option,
                                                               std::uint64_t min,
                                                               std::uint64_t max) const {
  const std::optional<std::string> text = value(option);
  if (!text) return std::optional<std::uint64_t>();
  std::uint64_t parsed = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), parsed);
  if (error != std::errc() || end != text->data() + text->size() || parsed < min || parsed > max) {
    return absl::InvalidArgumentError(
        fmt::format("{} {}: a whole number from {} to {} is expected", option, *text, min, max));
  }
  return std::optional(parsed);
}

OutputMode Arguments::output_mode(bool on_terminal) const {
  const std::optional<std::string> text = value("--output");
  if (text == "json") return OutputMode::kJson;
  if (text == "tsv") return OutputMode::kTsv;
  if (text == "text") return OutputMode::kText;
  return on_terminal ? OutputMode::kText : OutputMode::kTsv;
}

}  // namespace bitrung::cli
