#include "tests/sim/network.h"

#include <utility>

#include "tests/sim/simulation.h"

namespace bitrung::sim {
namespace {

constexpr Micros kRetransmit = 200 * kMilli;
constexpr int kRetransmitsMax = 8;

// Data sets are what a worker has now, not what has happened: an older list that overtakes the
// newest one, as no stream lets it, would stand for ever.
bool may_repeat(const Statement& statement) {
  return !std::holds_alternative<Hello>(statement) &&
         !std::holds_alternative<agent::SendDatasets>(statement);
}

bool may_repeat(const engine::ToWorker& message) {
  return !std::holds_alternative<core::Welcome>(message) &&
         !std::holds_alternative<engine::FullOffer>(message) &&
         !std::holds_alternative<core::CloseSession>(message);
}

}  // namespace

Connection& Network::connect(std::size_t worker, SessionId worker_session) {
  auto connection = std::make_unique<Connection>();
  connection->index = connections_.size();
  connection->worker = worker;
  connection->worker_session = worker_session;
  connections_.push_back(std::move(connection));
  return *connections_.back();
}

Micros Network::latency() {
  return sim_.random().between(100, sim_.faults().latency_ms_max * kMilli);
}

Micros& Network::blocked(std::size_t worker, Direction direction) {
  if (worker >= blocked_until_.size()) blocked_until_.resize(worker + 1);
  return blocked_until_[worker][static_cast<std::size_t>(direction)];
}

void Network::block(std::size_t worker, Direction direction, Micros until) {
  Micros& blocked_until = blocked(worker, direction);
  blocked_until = std::max(blocked_until, until);
}

std::optional<Micros> Network::arrival(Connection& connection, Direction direction) {
  Micros when = std::max(sim_.loop().now(), blocked(connection.worker, direction)) + latency();
  Micros wait = kRetransmit;
  for (int tries = 0; sim_.random().permille(sim_.faults().loss_permille); ++tries, wait *= 2) {
    if (tries == kRetransmitsMax) return std::nullopt;
    when += wait;
  }
  Micros& last = connection.last[static_cast<std::size_t>(direction)];
  last = std::max(when, last);
  return last;
}

void Network::deliver(Connection& connection, Direction direction, std::function<void()> message) {
  if (connection.broken) return;
  const Micros blocked_until = blocked(connection.worker, direction);
  if (blocked_until <= sim_.loop().now()) return message();
  sim_.loop().at(blocked_until, [this, &connection, direction, message = std::move(message)] {
    deliver(connection, direction, message);
  });
}

void Network::to_server(Connection& connection, Statement statement) {
  if (connection.broken) return;
  Random& random = sim_.random();
  const bool breaks = random.permille(sim_.faults().break_permille);
  const bool arrives = !breaks || random.one_in(2);
  if (arrives) {
    const auto when = arrival(connection, Direction::kToServer);
    if (!when) return break_off(connection, "lost too often");
    const auto arrive = [this, &connection, statement] {
      deliver(connection, Direction::kToServer,
              [this, &connection, statement] { sim_.server().receive(connection, statement); });
    };
    sim_.loop().at(*when, arrive);
    if (may_repeat(statement) && random.permille(sim_.faults().replay_permille)) {
      sim_.loop().at(*when + random.between(0, 10 * kSecond), arrive);
    }
    if (breaks) {
      sim_.loop().at(*when, [this, &connection] { break_off(connection, "broken"); });
    }
  } else {
    break_off(connection, "broken");
  }
}

void Network::to_worker(Connection& connection, engine::ToWorker message) {
  if (connection.broken) return;
  Random& random = sim_.random();
  const bool breaks = random.permille(sim_.faults().break_permille);
  if (breaks && random.one_in(2)) return break_off(connection, "broken");
  const auto when = arrival(connection, Direction::kToWorker);
  if (!when) return break_off(connection, "lost too often");
  const auto arrive = [this, &connection, message] {
    deliver(connection, Direction::kToWorker, [this, &connection, message] {
      sim_.worker(connection.worker).receive(connection, message);
    });
  };
  sim_.loop().at(*when, arrive);
  if (may_repeat(message) && random.permille(sim_.faults().replay_permille)) {
    sim_.loop().at(*when + random.between(0, 10 * kSecond), arrive);
  }
  if (breaks) {
    sim_.loop().at(*when, [this, &connection] { break_off(connection, "broken"); });
  }
}

void Network::hang_up(Connection& connection) {
  if (connection.broken) return;
  sim_.note("hang_up", static_cast<std::int64_t>(connection.index));
  connection.broken = true;
  const Micros when = std::max(sim_.loop().now(), blocked(connection.worker, Direction::kToServer));
  sim_.loop().at(when + latency(), [this, &connection] { sim_.server().closed(connection); });
}

void Network::break_off(Connection& connection, const char* why) {
  if (connection.broken) return;
  sim_.note(why, static_cast<std::int64_t>(connection.index));
  connection.broken = true;
  Random& random = sim_.random();
  // A half-open stream is noticed by its silence only, or much later.
  if (!random.one_in(8)) {
    sim_.loop().after(random.between(0, 2 * kSecond), [this, &connection] {
      sim_.worker(connection.worker).closed(connection, "the stream broke");
    });
  }
  const Micros late = random.one_in(8) ? 120 * kSecond : 2 * kSecond;
  sim_.loop().after(random.between(0, late),
                    [this, &connection] { sim_.server().closed(connection); });
}

void Network::break_all_of_worker(std::size_t worker, const char* why) {
  for (std::size_t i = 0; i < connections_.size(); ++i) {
    if (connections_[i]->worker == worker) break_off(*connections_[i], why);
  }
}

void Network::break_all(const char* why) {
  for (std::size_t i = 0; i < connections_.size(); ++i) break_off(*connections_[i], why);
}

void Network::call(std::optional<std::size_t> worker, Direction direction,
                   std::function<void()> arrive, bool may_repeat) {
  Random& random = sim_.random();
  if (random.permille(sim_.faults().loss_permille)) return;
  if (worker && blocked(*worker, direction) > sim_.loop().now()) return;
  sim_.loop().after(latency(), arrive);
  if (may_repeat && random.permille(sim_.faults().replay_permille)) {
    // Behind others, and perhaps long after the answer to the first.
    sim_.loop().after(latency() + random.between(0, 30 * kSecond), arrive);
  }
}

}  // namespace bitrung::sim
