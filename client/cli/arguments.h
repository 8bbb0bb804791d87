// The words of a command line after parsing: values by option, the rest in order. Plain data.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/output.h"

namespace bitrung::cli {

struct Arguments {
  std::map<std::string, std::vector<std::string>, std::less<>> options;  // By long name, "--set".
  std::vector<std::string> positionals;

  bool has(std::string_view option) const { return options.find(option) != options.end(); }
  // The last value given.
  std::optional<std::string> value(std::string_view option) const;
  std::vector<std::string> values(std::string_view option) const;
  // A whole number between the limits; INVALID_ARGUMENT names option, value and limits.
  absl::StatusOr<std::optional<std::uint64_t>> number(std::string_view option, std::uint64_t min,
                                                      std::uint64_t max) const;
  // As --output says; else text on a terminal and tsv on a pipe.
  OutputMode output_mode(bool on_terminal) const;
};

}  // namespace bitrung::cli
