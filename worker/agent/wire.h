// Statements of worker_service.proto as the core's events and back. Translation only.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bitrung/v1/worker_service.pb.h"
#include "worker/agent/core.h"
#include "worker/agent/slots.h"

namespace bitrung::agent {

// What Hello says and never changes.
struct Identity {
  std::string worker_id;
  std::string name;
  std::string version;
  std::uint32_t numerics = 0;
  Layout layout;
};

// INVALID_ARGUMENT for a statement that is empty or holds a digest or key that is none.
absl::StatusOr<Event> to_event(SessionId session, const v1::OpenSessionResponse& response);

v1::OpenSessionRequest to_request(const Identity& identity, const OpenSession& open);
v1::OpenSessionRequest to_request(const SendHeartbeat& action);
v1::OpenSessionRequest to_request(const SendStarted& action);
v1::OpenSessionRequest to_request(const SendPoints& action, std::span<const Point> points);
v1::OpenSessionRequest to_request(const SendLines& action, std::span<const LogLine> lines);
v1::OpenSessionRequest to_request(const SendCheckpoint& action);
v1::OpenSessionRequest to_request(const SendOutcome& action);
v1::OpenSessionRequest to_request(const SendDatasets& action);
v1::OpenSessionRequest to_request(const SendStopping& action);

}  // namespace bitrung::agent
