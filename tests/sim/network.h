// The network between workers and the server, and between people and the server.
//
// A session is what gRPC over TCP makes of a lossy network: each direction delivers in order or not
// at all. A lost packet is sent again later and holds up what follows; too many losses, a dead
// process or a long silence break the stream, and what was still under way is gone: statements that
// never arrived, and statements that were handled but whose reply was not heard. Each end learns of
// the break at its own time, or not at all until it gives up waiting. Statements that may be
// repeated are repeated, later and out of order, as the worker would after a reconnect; a second
// Hello in a stream, a repeated Welcome, a repeated Offer and an older list of data sets after a
// newer one cannot happen and do not. A call is lost, repeated and overtaken freely.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/sim/loop.h"
#include "tests/sim/messages.h"

namespace bitrung::sim {

class Simulation;

enum class Direction : std::uint8_t { kToServer, kToWorker };

// One stream. Kept until the simulation ends; a broken one delivers nothing.
struct Connection {
  std::size_t index = 0;
  std::size_t worker = 0;
  SessionId worker_session{};
  std::optional<SessionId> server_session;  // Once Hello has arrived.
  std::uint64_t server_run = 0;             // Which start of the server it reached.
  bool broken = false;
  bool server_closed = false;    // The server hears nothing more from it.
  std::array<Micros, 2> last{};  // Delivery of the latest message, by direction.
};

class Network {
 public:
  explicit Network(Simulation& sim) : sim_(sim) {}

  Connection& connect(std::size_t worker, SessionId worker_session);
  // The worker has dropped it; the server learns of it later.
  void hang_up(Connection& connection);
  void to_server(Connection& connection, Statement statement);
  void to_worker(Connection& connection, engine::ToWorker message);
  // Both ends learn of it at their own times.
  void break_off(Connection& connection, const char* why);
  void break_all_of_worker(std::size_t worker, const char* why);
  void break_all(const char* why);

  // One way of a call: runs `arrive` at the other end, perhaps never, perhaps twice.
  void call(std::optional<std::size_t> worker, Direction direction, std::function<void()> arrive,
            bool may_repeat);

  void block(std::size_t worker, Direction direction, Micros until);

 private:
  Micros latency();
  Micros& blocked(std::size_t worker, Direction direction);
  // When a message sent now arrives; nothing when the stream breaks over it.
  std::optional<Micros> arrival(Connection& connection, Direction direction);
  void deliver(Connection& connection, Direction direction, std::function<void()> message);

  Simulation& sim_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<std::array<Micros, 2>> blocked_until_;
};

}  // namespace bitrung::sim
