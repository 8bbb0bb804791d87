// What travels in a session, as the worker says it and as the server says it.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "server/engine/engine.h"
#include "tests/sim/disk.h"
#include "worker/agent/core.h"

namespace bitrung::sim {

struct PointsStatement {
  agent::AttemptKey key;
  std::uint64_t first = 0;
  std::vector<agent::Point> points;
};
struct LinesStatement {
  agent::AttemptKey key;
  std::uint64_t first = 0;
  std::vector<agent::LogLine> lines;
};
struct Hello {
  std::string worker_id;
  std::uint32_t slots = 0;
  std::uint32_t shared_cores = 0;
  agent::OpenSession open;
};
using Statement = std::variant<Hello, agent::SendHeartbeat, agent::SendStarted, PointsStatement,
                               LinesStatement, agent::SendCheckpoint, agent::SendOutcome,
                               agent::SendDatasets, agent::SendStopping>;

inline core::AttemptKey to_core(const agent::AttemptKey& key) {
  return {key.job, number(key.attempt)};
}
inline agent::AttemptKey to_agent(const core::AttemptKey& key) {
  return {key.job, AttemptNumber{key.attempt}};
}
inline AttemptId id_of(const core::AttemptKey& key) {
  return {key.job, key.attempt};
}
inline AttemptId id_of(const agent::AttemptKey& key) {
  return {key.job, number(key.attempt)};
}

template <typename... Visitors>
struct Overload : Visitors... {
  using Visitors::operator()...;
};
template <typename... Visitors>
Overload(Visitors...) -> Overload<Visitors...>;

}  // namespace bitrung::sim
