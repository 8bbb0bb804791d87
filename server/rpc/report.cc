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

std::string computation_text(std::string_view report_json) {
  const json report = json::parse(report_json, nullptr, /*allow_exceptions=*/false);
  if (!report.is_object()) return {};
  const auto text_at = [&report](const char* key) {
    const auto found = report.find(key);
    return found != report.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  const std::string backend = text_at("backend");
  if (backend.empty()) return {};
  std::string line = "computed by " + backend;
  if (const auto threads = report.find("threads");
      threads != report.end() && threads->is_number_unsigned()) {
    line += fmt::format(" on {} thread{}", threads->get<std::uint64_t>(), *threads == 1 ? "" : "s");
  }
  const std::string reason = text_at("backend_reason");
  return reason.empty() ? line : fmt::format("{}, not by the fused loops: {}", line, reason);
}

}  // namespace bitrung::rpc
