#include "tests/unit/server/core/random_world.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

namespace bitrung::core {
namespace {

constexpr int kBenignRoundsMax = 2'000;
constexpr std::size_t kExperimentsMax = 6;

const std::array<std::string, 3> kWorkers = {"w1", "w2", "w3"};
const std::array<Machine, 3> kMachines = {
    Machine{.slots = {16, 8}, .datasets = {{"data", "copy A"}, {"other", "copy O"}}},
    Machine{.slots = {16}, .datasets = {{"data", "copy B"}, {"other", "copy P"}}},
    Machine{.slots = {16, 16, 16},
            .datasets = {{"data", "copy A"}, {"other", "copy P"}},
            .shares_cores = true}};

}  // namespace

RandomWorld::RandomWorld(Below below) : below_(std::move(below)) {
  world_.set_durations_vary();
  submit();
}

void RandomWorld::run_to_the_end() {
  calm_ = true;
  for (std::size_t i = 0; i < kWorkers.size(); ++i) {
    world_.drain(kWorkers[i], false);
    world_.join(kWorkers[i], kMachines[i], text(held_[kWorkers[i]]));
    take_messages();
  }
  for (int round = 0; round < kBenignRoundsMax; ++round) {
    for (const std::string& worker : kWorkers) {
      const std::set<AttemptKey> held = held_[worker];
      for (const AttemptKey& key : held) {
        const bool is_cancelled = to_cancel_.contains(key);
        if (is_cancelled) {
          world_.step(AttemptCancelled{world_.session(worker), key});
        } else {
          world_.step(AttemptStarted{world_.session(worker), key, 0});
          world_.step(success(worker, key));
        }
        take_messages();
      }
      world_.step(
          Heartbeat{world_.session(worker), 1, {held_[worker].begin(), held_[worker].end()}});
      take_messages();
    }
    world_.advance(milliseconds{1'000});
    take_messages();
    check_terminal();
    if (testing::Test::HasFailure() || all_terminal()) break;
  }
  EXPECT_TRUE(all_terminal()) << "a job never ended";
}

void RandomWorld::step() {
  const std::string worker = pick(kWorkers);
  std::set<AttemptKey>& held = held_[worker];
  const bool connected = world_.is_connected(worker);
  switch (below_(24)) {
    case 0:
      if (experiments_ < kExperimentsMax) submit();
      break;
    case 1:
      if (connected) world_.leave(worker);
      break;
    case 2:
    case 3:
      join(worker);
      break;
    case 4:
      world_.drain(worker, one_in(2));
      if (connected && one_in(4)) world_.stopping(worker);
      break;
    case 5:
      if (connected) world_.change_datasets(worker, kMachines[below_(3)].datasets);
      break;
    case 6:
      world_.advance(milliseconds{below_(90'000)});
      break;
    case 7:
      world_.sleep(milliseconds{below_(90'000)});
      break;
    case 8:
      world_.step(WakeUp{});
      break;
    case 9:
      if (one_in(3)) world_.step(CancelJobs{some_jobs()});
      break;
    case 10:
      retry();
      break;
    case 11:
      if (one_in(3)) world_.restart();
      break;
    case 12:
    case 13:
      if (connected) heartbeat(worker);
      break;
    case 14:
    case 15:
      speak_out_of_turn();
      break;
    default:
      if (connected && !held.empty()) report(worker, pick(held));
      break;
  }
  take_messages();
  check_terminal();
}

void RandomWorld::submit() {
  std::string graph;
  const std::uint32_t count = 1 + below_(8);
  for (std::uint32_t i = 0; i < count; ++i) {
    // Few specs: equal jobs are common. Teachers are later lines as often as earlier ones.
    graph +=
        fmt::format("j{} spec=s{} retries={} priority={} flops={} memory={} class=c{}", i,
                    below_(6), below_(3), below_(2), below_(3) * 10, below_(2) * 12, below_(3));
    if (one_in(4)) graph += " dataset=other";
    const bool upwards = experiments_ % 2 == 0;
    const std::uint32_t parents = upwards ? i : count - 1 - i;
    const auto parent = [&] {
      const std::uint32_t distance = 1 + below_(parents);
      return upwards ? i - distance : i + distance;
    };
    if (parents > 0 && !one_in(3)) {
      const std::uint32_t one = parent();
      const std::uint32_t other = parent();
      if (one != other && one_in(2)) {
        graph += fmt::format(" <- best j{} j{}", one, other);
      } else {
        graph += fmt::format(" <- {}j{}", one_in(6) ? "source " : "", one);
        if (graph.ends_with(fmt::format("source j{}", one))) {
          graph += "\n";
          continue;
        }
      }
      if (one_in(3)) graph += fmt::format(", init j{}", parent());
      if (one_in(4)) graph += fmt::format(", j{}", parent());
    }
    graph += "\n";
  }
  ++experiments_;
  world_.submit(graph);
}

void RandomWorld::join(const std::string& worker) {
  std::set<AttemptKey>& held = held_[worker];
  if (one_in(6)) held.clear();  // It lost its disk.
  const std::size_t machine =
      static_cast<std::size_t>(std::ranges::find(kWorkers, worker) - kWorkers.begin());
  std::string says = text(held);
  if (!spoken_.empty() && one_in(8)) says += " " + text({pick(spoken_)});
  world_.join(worker, one_in(6) ? kMachines[below_(3)] : kMachines[machine], says);
}

void RandomWorld::heartbeat(const std::string& worker) {
  std::vector<AttemptKey> keys;
  for (const AttemptKey& key : held_[worker]) {
    if (!one_in(6)) keys.push_back(key);
  }
  if (!spoken_.empty() && one_in(6)) keys.push_back(pick(spoken_));
  world_.step(Heartbeat{world_.session(worker), below_(1000), keys});
}

void RandomWorld::report(const std::string& worker, AttemptKey key) {
  const SessionId session = world_.session(worker);
  spoken_.insert(key);
  switch (below_(8)) {
    case 0:
    case 1:
      world_.step(AttemptStarted{session, key, 0});
      break;
    case 2:
      world_.step(CheckpointStored{session, key, below_(5), sha256(std::to_string(below_(1000)))});
      break;
    case 3:
    case 4:
    case 5:
      world_.step(success(worker, key));
      break;
    case 6:
      world_.step(AttemptFailed{session, key, static_cast<FailureClass>(below_(9)), "text"});
      break;
    default:
      world_.step(AttemptCancelled{session, key});
      break;
  }
}

void RandomWorld::speak_out_of_turn() {
  const std::string worker = pick(kWorkers);
  if (!world_.is_connected(worker)) return;
  AttemptKey key{JobId{below_(world_.stored().jobs().size() + 2)}, below_(6)};
  if (!spoken_.empty() && !one_in(4)) key = pick(spoken_);
  report(worker, key);
}

void RandomWorld::retry() {
  const std::vector<JobId> jobs = some_jobs();
  for (const auto& [id, stored] : world_.stored().jobs()) {
    // A retry may reopen what it names, its ancestors and its descendants: not looked at more
    // closely.
    if (stored.state.state != JobState::kSucceeded) states_.erase(id);
  }
  world_.step(RetryJobs{jobs});
}

std::vector<JobId> RandomWorld::some_jobs() {
  std::vector<JobId> jobs;
  for (const auto& [id, stored] : world_.stored().jobs()) {
    if (one_in(6)) jobs.push_back(id);
  }
  return jobs;
}

AttemptSucceeded RandomWorld::success(const std::string& worker, AttemptKey key) {
  AttemptSucceeded event{world_.session(worker), key, {}};
  // Few values: equal accuracies are common, and so is none.
  if (!one_in(4)) event.result.validation_accuracy = 80 + below_(3);
  event.result.duration_seconds = below_(100);
  event.result.artifact = artifact_of(key.job, key.attempt);
  return event;
}

void RandomWorld::take_messages() {
  for (const Send& sent : world_.sent()) {
    const auto worker = std::ranges::find_if(kWorkers, [&](const std::string& each) {
      return world_.is_connected(each) && world_.session(each) == sent.session;
    });
    if (worker == kWorkers.end()) continue;
    std::set<AttemptKey>& held = held_[*worker];
    if (const auto* offer = std::get_if<Offer>(&sent.message)) {
      std::uint32_t& latest = latest_attempt_[offer->key.job];
      EXPECT_LT(latest, offer->key.attempt);
      latest = offer->key.attempt;
      if (calm_ || !one_in(10)) held.insert(offer->key);  // Otherwise it was lost on the way.
    } else if (const auto* fence = std::get_if<Fence>(&sent.message)) {
      held.erase(fence->key);
    } else if (const auto* reply = std::get_if<OutcomeReply>(&sent.message)) {
      if (calm_ || !one_in(10)) held.erase(reply->key);
    } else if (const auto* cancel = std::get_if<Cancel>(&sent.message)) {
      to_cancel_.insert(cancel->key);
    } else if (const auto* welcome = std::get_if<Welcome>(&sent.message)) {
      for (const AttemptKey& key : welcome->fenced) held.erase(key);
    }
  }
  world_.forget_messages();
}

void RandomWorld::check_terminal() {
  for (const auto& [id, stored] : world_.stored().jobs()) {
    const auto before = states_.find(id);
    if (before != states_.end() && is_terminal(before->second)) {
      EXPECT_EQ(before->second, stored.state.state) << "job " << number(id) << " did not stay";
    }
    states_[id] = stored.state.state;
  }
}

bool RandomWorld::all_terminal() const {
  return std::ranges::all_of(world_.stored().jobs(),
                             [](const auto& job) { return is_terminal(job.second.state.state); });
}

std::string RandomWorld::text(const std::set<AttemptKey>& keys) const {
  std::string line;
  for (const AttemptKey& key : keys) {
    if (world_.core().contains(key.job)) {
      line += fmt::format("{}#{} ", world_.name(key.job), key.attempt);
    }
  }
  return line;
}

}  // namespace bitrung::core
