// What one worker's session may say and how much may wait for it. A worker of ours stays far below;
// another one, or a broken one, ends its session and nothing else.
//
// Not thread-safe: check() belongs to the reads of one session.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_set>
#include <utility>

#include "absl/status/status.h"
#include "bitrung/v1/worker_service.pb.h"

namespace bitrung::rpc {

inline constexpr std::size_t kStatementBytesMax = std::size_t{1} << 20;
inline constexpr int kPointsPerMessageMax = 1000;
inline constexpr std::size_t kPointsBytesMax = std::size_t{256} << 10;
inline constexpr std::size_t kSeriesPerAttemptMax = 1000;
inline constexpr int kSlotsMax = 1024;
// Attempts that a session sends points of before their outcomes.
inline constexpr std::size_t kAttemptsPerSessionMax = std::size_t{16} * kSlotsMax;
// Messages that wait for a worker that does not read: an offer, a cancel, a fence and the replies
// about each slot, and some.
inline constexpr std::size_t kMessagesQueuedMax = 256 + std::size_t{8} * kSlotsMax;
// Beside an offer with the largest options for each slot.
inline constexpr std::size_t kBytesQueuedMax =
    (std::size_t{1} << 20) + std::size_t{kSlotsMax} * (std::size_t{64} << 10);

class SessionLimits {
 public:
  // RESOURCE_EXHAUSTED with the limit if the statement is beyond one.
  absl::Status check(const v1::OpenSessionRequest& request);

 private:
  absl::Status check_series(const v1::Metrics& metrics);

  // Of attempts whose outcome was not said in this session.
  std::map<std::pair<std::int64_t, std::uint32_t>, std::unordered_set<std::string>> series_;
};

// RESOURCE_EXHAUSTED if more waits than a worker that reads ever lets wait.
absl::Status check_queue(std::size_t messages, std::size_t bytes);

}  // namespace bitrung::rpc
