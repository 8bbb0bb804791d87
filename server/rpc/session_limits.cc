#include "server/rpc/session_limits.h"

#include <fmt/format.h>

#include "db/base/status.h"

namespace bitrung::rpc {
namespace {

absl::Status beyond(std::string_view what, std::size_t value, std::string_view unit,
                    std::size_t limit) {
  return absl::ResourceExhaustedError(
      fmt::format("{} {} {}, the limit is {}", what, value, unit, limit));
}

}  // namespace

absl::Status SessionLimits::check(const v1::OpenSessionRequest& request) {
  if (const std::size_t bytes = request.ByteSizeLong(); bytes > kStatementBytesMax)
    return beyond("a statement has", bytes, "bytes", kStatementBytesMax);
  if (request.has_metrics()) {
    const v1::Metrics& metrics = request.metrics();
    if (metrics.points_size() > kPointsPerMessageMax) {
      return beyond("a message has", static_cast<std::size_t>(metrics.points_size()), "points",
                    kPointsPerMessageMax);
    }
    if (const std::size_t bytes = metrics.ByteSizeLong(); bytes > kPointsBytesMax)
      return beyond("a message of points has", bytes, "bytes", kPointsBytesMax);
    return check_series(metrics);
  }
  if (request.has_outcome())
    series_.erase({request.outcome().key().job_id(), request.outcome().key().attempt()});
  return absl::OkStatus();
}

absl::Status SessionLimits::check_series(const v1::Metrics& metrics) {
  const std::pair key(metrics.key().job_id(), metrics.key().attempt());
  std::unordered_set<std::string>& series = series_[key];
  if (series_.size() > kAttemptsPerSessionMax)
    return beyond("a session has points of", series_.size(), "attempts", kAttemptsPerSessionMax);
  for (const std::string& name : metrics.names()) {
    series.insert(name);
    if (series.size() > kSeriesPerAttemptMax) {
      return absl::ResourceExhaustedError(
          fmt::format("attempt {} of job {} has more than {} series, the limit of an attempt; the "
                      "next is \"{}\"",
                      key.second, key.first, kSeriesPerAttemptMax, name.substr(0, 80)));
    }
  }
  return absl::OkStatus();
}

absl::Status check_queue(std::size_t messages, std::size_t bytes) {
  if (messages > kMessagesQueuedMax)
    return beyond("the worker does not read:", messages, "messages wait for it",
                  kMessagesQueuedMax);
  if (bytes > kBytesQueuedMax)
    return beyond("the worker does not read:", bytes, "bytes wait for it", kBytesQueuedMax);
  return absl::OkStatus();
}

}  // namespace bitrung::rpc
