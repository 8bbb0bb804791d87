#include "server/rpc/report.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace bitrung::rpc {

using nlohmann::json;

absl::StatusOr<std::string> checked_report(std::string_view text) {
  if (text.empty()) return std::string();
  if (text.size() > kReportBytesMax) {
    return absl::InvalidArgumentError(
        fmt::format("a report has {} bytes, the limit is {}", text.size(), kReportBytesMax));
  }
  int deepest = 0;
  json report;
  try {
    report = json::parse(text, [&deepest](int depth, json::parse_event_t, json&) {
      deepest = std::max(deepest, depth);
      return depth <= kReportDepthMax;  // What lies deeper is not built.
    });
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(fmt::format("a report is not JSON: {}", error.what()));
  }
  if (deepest > kReportDepthMax) {
    return absl::InvalidArgumentError(
        fmt::format("a report is nested deeper than {} levels", kReportDepthMax));
  }
  if (!report.is_object()) {
    return absl::InvalidArgumentError(
        fmt::format("a report is a JSON object, not {}", report.type_name()));
  }
  return report.dump();
}

}  // namespace bitrung::rpc
